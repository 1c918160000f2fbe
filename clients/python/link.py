"""Where the client meets a network: a seam of two small protocols, and ZeroMQ behind it.

A `Transport` opens links; a `Link` takes frames in order and never blocks. Both are used on one event loop. The
in-memory transport of `dspymq.testing` stands behind the same seam.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol

if TYPE_CHECKING:
    import zmq

FLUSH_MS: Final = 500
"""Closing a transport waits at most so long for what was sent to leave."""


class Link(Protocol):
    """One connection to one address; it need not exist yet."""

    def send(self, frames: Sequence[bytes]) -> None:
        """Send one message once the peer can take it, after those before it. Never blocks."""

    def close(self, linger_ms: int = 0) -> None:
        """Close; up to `linger_ms` what was sent may still leave. Idempotent; no callback comes afterwards."""


class Transport(Protocol):
    """Opens links on the running event loop."""

    def connect(
        self, address: str, on_frames: Callable[[Sequence[bytes]], None], on_down: Callable[[str], None]
    ) -> Link:
        """A link to this address. `on_frames` brings each message, in order.

        `on_down(reason)` comes at most once: the connection ended or could not be made. It is a help, not a promise:
        a peer may vanish without it. Neither is called before this method has returned.
        """

    async def aclose(self) -> None:
        """Release what the transport holds, after its links were closed; sees what they sent out, within a bound."""


class ZmqTransport:
    """DEALER sockets; each transport has a ZeroMQ context of its own."""

    def __init__(self) -> None:
        self._context: zmq.Context[Any] | None = None

    def connect(
        self, address: str, on_frames: Callable[[Sequence[bytes]], None], on_down: Callable[[str], None]
    ) -> Link:
        """See Transport."""
        try:
            from dspymq.transport.files import check_files

            # Without any, libzmq ends the process.
            check_files()
            if self._context is None:
                import zmq

                self._context = zmq.Context()
            return ZmqLink(self._context, address, on_frames, on_down)
        except Exception as error:
            # OSError, or zmq's own.
            if getattr(error, "errno", None) is None:
                raise
            return NoLink(f"no socket: {getattr(error, 'strerror', error)}", on_down)

    async def aclose(self) -> None:
        """See Transport."""
        context, self._context = self._context, None
        if context is None:
            return
        try:
            await asyncio.to_thread(context.term)
        except RuntimeError:
            # The interpreter is going down and starts no threads any more.
            context.term()


class NoLink:
    """A link that could not be made."""

    def __init__(self, reason: str, on_down: Callable[[str], None]) -> None:
        self._down = asyncio.get_running_loop().call_soon(on_down, reason)

    def send(self, frames: Sequence[bytes]) -> None:
        """See Link."""

    def close(self, linger_ms: int = 0) -> None:
        """See Link."""
        self._down.cancel()


class ZmqLink:
    """A DEALER and its monitor, which tells of refused and lost connections at once.

    Without the monitor a broken connection shows only when the broker has been silent for `dead_ms`; ZeroMQ itself
    would reconnect without a word, to a broker that knows nothing of this peer.
    """

    def __init__(
        self,
        context: "zmq.Context[Any]",
        address: str,
        on_frames: Callable[[Sequence[bytes]], None],
        on_down: Callable[[str], None],
    ) -> None:
        import zmq

        from dspymq.transport import LoopSocket, dealer

        self._outbox: deque[Sequence[bytes]] = deque()
        self._on_down = on_down
        self._is_down = False
        self._closed = False
        self._raw = dealer(context)
        # With IMMEDIATE libzmq drops what has arrived and was not read yet when a connection ends. Without it a stale
        # message could reach a restarted broker; but this link is closed at the first loss, and nothing but hello is
        # sent before welcome.
        self._raw.setsockopt(zmq.IMMEDIATE, 0)
        # Watched before connecting: a refusal may come at once.
        watched = zmq.EVENT_DISCONNECTED | zmq.EVENT_CLOSED | zmq.EVENT_CONNECT_RETRIED
        watched |= zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
        watched |= zmq.EVENT_HANDSHAKE_FAILED_AUTH
        self._monitor = LoopSocket(self._raw.get_monitor_socket(watched), self._monitored)
        self._socket = LoopSocket(self._raw, on_frames, self._flush)
        try:
            self._raw.connect(address)
        except zmq.ZMQError as error:
            asyncio.get_running_loop().call_soon(self._down, f"{address}: {error}")

    def send(self, frames: Sequence[bytes]) -> None:
        """See Link."""
        if self._closed:
            return
        if self._outbox or not self._socket.send(frames):
            self._outbox.append(frames)

    def close(self, linger_ms: int = 0) -> None:
        """See Link."""
        if self._closed:
            return
        self._closed = True
        self._outbox.clear()
        # In this order: libzmq's I/O thread blocks for ever on an event for a monitor that has no reader.
        self._raw.disable_monitor()
        self._monitor.close()
        self._socket.close(linger_ms)

    def _flush(self) -> None:
        outbox = self._outbox
        while outbox and self._socket.send(outbox[0]):
            outbox.popleft()

    def _monitored(self, frames: Sequence[bytes]) -> None:
        import zmq
        from zmq.utils.monitor import parse_monitor_message

        event = parse_monitor_message(list(frames))["event"]
        if event == zmq.EVENT_DISCONNECTED:
            reason = "connection lost"
        elif event in (zmq.EVENT_CLOSED, zmq.EVENT_CONNECT_RETRIED):
            reason = "connection refused"
        else:
            reason = "handshake failed"
        # What came before the end of the connection is still to be read, to its end.
        while not self._closed and self._socket.drain(256):
            pass
        self._down(reason)

    def _down(self, reason: str) -> None:
        if not self._closed and not self._is_down:
            self._is_down = True
            self._on_down(reason)
