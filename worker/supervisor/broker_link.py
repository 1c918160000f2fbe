"""The DEALER to the broker: does what `session.Session` says, and never blocks."""

import logging
from collections import deque
from collections.abc import Callable
from typing import Any, Final, Protocol

import zmq

from dspymq.protocol.codec import Codec, encode, worker_codec
from dspymq.protocol.errors import ProtocolError
from dspymq.protocol.limits import Limits
from dspymq.protocol.messages import Header, Hello, Welcome, error_answer
from dspymq.protocol.worker_messages import Message
from dspymq.transport import LoopSocket, dealer
from dspymq.worker.supervisor import session as s

log = logging.getLogger("dspymq.worker.link")

MAX_OUTBOX_BYTES: Final = 16 * 1024 * 1024
MAX_OUTBOX_MESSAGES: Final = 1_000
"""More than this unsent, and chunks and progress are not added."""

DRAIN_MESSAGES: Final = 1_000_000


class LinkListener(Protocol):
    """Who wants to hear of the broker; called on the loop."""

    def session_up(self, welcome: Welcome) -> None:
        """A broker welcomed us."""

    def session_down(self) -> None:
        """That session is over."""

    def broker_message(self, message: Any, body: bytes) -> None:
        """The broker said something."""

    def congested(self, *, blocked: bool) -> None:
        """The socket takes nothing more, or again."""

    def is_busy(self) -> bool:
        """Whether a broker is missed."""


class BrokerLink:
    """One session after another, on the running loop. `clock` gives milliseconds, `random` numbers from 0 to 1."""

    def __init__(
        self,
        addresses: list[str],
        hello: Hello,
        listener: LinkListener,
        clock: Callable[[], int],
        random: Callable[[], float],
    ) -> None:
        self._session = s.Session(addresses, hello, random)
        self._listener = listener
        self._clock = clock
        self._context: zmq.Context[Any] = zmq.Context(io_threads=1)
        self._raw: zmq.Socket[bytes] | None = None
        self._socket: LoopSocket | None = None
        self._monitor: LoopSocket | None = None
        self._codec: Codec[Message] = worker_codec()
        self._limits = Limits()
        self._outbox: deque[list[bytes]] = deque()
        self._outbox_bytes = 0
        self._blocked = False
        self._told: str | None = None

    @property
    def stall_ms(self) -> int:
        """A stop of our own that may have cost the session."""
        return self._session.stall_ms

    def next_ms(self) -> int:
        """When `tick` is due."""
        return self._session.next_ms()

    def tick(self, now_ms: int) -> None:
        """Time passed."""
        self._do(self._session.tick(now_ms, busy=self._listener.is_busy()))

    def send(self, message: Header, body: bytes = b"") -> None:
        """Send in the session that is up; without one it is dropped (what matters is held and reported)."""
        if self._session.phase is not s.Phase.UP:
            return
        try:
            frames = encode(message, body)
            if len(frames[1]) > self._limits.max_header_bytes:
                raise ProtocolError("header_too_large", f"the header has {len(frames[1])} bytes")
        except ProtocolError as problem:
            problem.lease = getattr(message, "lease", None)
            log.error("link.unsendable type=%s reason=%s", type(message).__name__, problem.reason)
            self._listener.broker_message(error_answer(problem), b"")
            return
        self._send_frames(frames)

    def restart(self, reason: str) -> None:
        """Hear what is there to hear, then begin a new session at once."""
        if self._socket is not None:
            self._socket.drain(DRAIN_MESSAGES)
        self._do(self._session.restart(self._clock(), reason))

    def close(self, linger_ms: int) -> None:
        """Close for good; what is with the socket has `linger_ms` to leave."""
        while self._outbox and self._socket is not None and self._socket.send(self._outbox[0]):
            self._outbox.popleft()
        self._release_socket(linger_ms)
        self._context.term()

    # -- inside -----------------------------------------------------------------------------------------------------

    def _do(self, steps: list[s.Step]) -> None:
        for step in steps:
            match step:
                case s.Deliver(message):
                    self._listener.broker_message(message, b"")
                case s.Send(message):
                    self._send_frames(encode(message))
                case s.Open(address, hello):
                    self._open(address, hello)
                case s.Close():
                    self._close_socket()
                case s.Up(welcome):
                    self._limits = welcome.limits
                    self._codec = worker_codec(welcome.limits)
                    level = logging.DEBUG if self._told == s.WRONG_ENDPOINT else logging.INFO
                    log.log(level, "broker.up address=%s epoch=%s", self._session.address, welcome.epoch)
                    self._listener.session_up(welcome)
                case s.Down(reason):
                    if reason != s.WRONG_ENDPOINT:
                        log.warning("broker.down reason=%r", reason)
                    self._listener.session_down()

    def _open(self, address: str, hello: Hello) -> None:
        raw = None
        try:
            raw = dealer(self._context)
            monitor = raw.get_monitor_socket(zmq.EVENT_DISCONNECTED | zmq.EVENT_CONNECT_RETRIED)
        except zmq.ZMQError as error:
            # No file descriptors are left, say: an attempt that nobody answers.
            if raw is not None:
                raw.close(linger=0)
            log.warning("link.no_socket address=%s error=%r", address, str(error))
            return
        try:
            raw.connect(address)
        except zmq.ZMQError as error:
            log.error("broker.bad_address address=%s error=%s", address, error)
        self._raw = raw
        self._socket = LoopSocket(raw, self._received, self._on_writable)
        self._monitor = LoopSocket(monitor, self._connection_event)
        self._send_frames(encode(hello))

    def _connection_event(self, _: list[bytes]) -> None:
        if self._socket is not None:
            self._socket.drain(DRAIN_MESSAGES)
        self._do(self._session.disconnected(self._clock(), busy=self._listener.is_busy()))

    def _release_socket(self, linger_ms: int) -> None:
        if self._raw is None or self._socket is None or self._monitor is None:
            return
        self._raw.disable_monitor()
        self._monitor.close()
        self._socket.close(linger_ms)
        self._raw = self._socket = self._monitor = None

    def _close_socket(self) -> None:
        self._release_socket(0)
        self._outbox.clear()
        self._outbox_bytes = 0
        self._blocked = False
        if not self._session.last_failure:
            self._told = None
        elif self._told != self._session.last_failure:
            # Once an outage, not once an attempt.
            self._told = self._session.last_failure
            log.warning("broker.unreachable reason=%r", self._told)

    def _received(self, frames: list[bytes]) -> None:
        try:
            message, body = self._codec.decode(frames)
        except ProtocolError as problem:
            log.warning("link.bad_message reason=%s text=%r", problem.reason, problem.message)
            return
        steps = self._session.received(message, self._clock(), busy=self._listener.is_busy())
        if len(steps) == 1 and type(steps[0]) is s.Deliver:
            self._listener.broker_message(message, body)
        else:
            self._do(steps)

    def _send_frames(self, frames: list[bytes]) -> None:
        socket = self._socket
        if socket is None:
            return
        if not self._outbox and socket.send(frames):
            return
        self._outbox.append(frames)
        self._outbox_bytes += sum(map(len, frames))
        if self._session.phase is s.Phase.UP:
            self._judge_outbox()

    def _on_writable(self) -> None:
        socket = self._socket
        while self._outbox and socket is not None:
            if not socket.send(self._outbox[0]):
                break
            self._outbox_bytes -= sum(map(len, self._outbox.popleft()))
        self._judge_outbox()

    def _judge_outbox(self) -> None:
        if self._blocked:
            if not self._outbox:
                self._blocked = False
                self._listener.congested(blocked=False)
        elif len(self._outbox) > MAX_OUTBOX_MESSAGES or self._outbox_bytes > MAX_OUTBOX_BYTES:
            self._blocked = True
            self._listener.congested(blocked=True)
