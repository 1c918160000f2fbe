"""Drives a ClientCore on an asyncio loop: feeds it events, does what it says, wakes it in time.

No decision is made here. One driver belongs to one event loop and one process; it is bound to the loop at its first
use, and says so clearly when it is used from another loop or after a fork.
"""

import asyncio
import itertools
import logging
import os
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

from dspymq import events as ev
from dspymq import exceptions
from dspymq.chunks import Chunk
from dspymq.core import ClientCore
from dspymq.exceptions import DspymqError
from dspymq.link import Link, Transport
from dspymq.prediction import Prediction
from dspymq.protocol import body as bodies
from dspymq.protocol.client_messages import Accepted, Progress, Started
from dspymq.protocol.codec import client_codec, encode
from dspymq.protocol.errors import ProtocolError
from dspymq.protocol.limits import HARD_FRAME_BYTES, Limits
from dspymq.subscriptions import BrokerEvent

log = logging.getLogger("dspymq.client")

_CODEC: Final = client_codec(Limits(max_header_bytes=HARD_FRAME_BYTES, max_body_bytes=HARD_FRAME_BYTES))
"""The broker keeps its own limits; what arrives was already bounded by the socket."""


class JobHandle(Protocol):
    """What a job's news are given to, on the driver's loop."""

    id: str

    def job_updated(self, message: Accepted | Started | Progress) -> None:
        """News of where the job stands."""

    def job_text(self, chunks: Sequence[Chunk]) -> None:
        """Text of its stream."""

    def tool_called(self, called: ev.ToolCalled) -> None:
        """Its program calls a tool."""

    def tools_void(self) -> None:
        """What its tools are running is for nobody."""

    def job_ended(self, value: Prediction | DspymqError) -> None:
        """Its one end."""


class EventsHandle(Protocol):
    """What a subscription's events are given to, on the driver's loop."""

    def subscription_ready(self) -> None:
        """The broker took it."""

    def event_arrived(self, event: BrokerEvent) -> None:
        """One event."""

    def subscription_ended(self, error: DspymqError) -> None:
        """There will be no more."""


def monotonic_ms() -> int:
    """Milliseconds of the monotonic clock."""
    return time.monotonic_ns() // 1_000_000


class Driver:
    """See the module."""

    def __init__(
        self,
        core: ClientCore,
        transport: Transport,
        *,
        clock_ms: Callable[[], int] = monotonic_ms,
    ) -> None:
        self._core = core
        self._transport = transport
        self._clock_ms = clock_ms
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pid = os.getpid()
        self._link: Link | None = None
        self._link_number = 0
        self._jobs: dict[str, JobHandle] = {}
        self._subscriptions: dict[str, EventsHandle] = {}
        self._answers: dict[str, asyncio.Future[Any]] = {}
        self._rids = itertools.count(1)
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at_ms = 0
        self._closed = False
        self._outputs: dict[type, Callable[[Any], None]] = {
            ev.Send: self._send,
            ev.JobEnded: self._job_ended,
            ev.JobText: lambda output: self._jobs[output.job].job_text(output.chunks),
            ev.JobUpdated: lambda output: self._jobs[output.job].job_updated(output.message),
            ev.ToolCalled: lambda output: self._jobs[output.job].tool_called(output),
            ev.ToolsVoid: lambda output: self._jobs[output.job].tools_void(),
            ev.Answered: self._answered,
            ev.SubscriptionReady: lambda output: self._subscriptions[output.key].subscription_ready(),
            ev.EventArrived: lambda output: self._subscriptions[output.key].event_arrived(output.event),
            ev.SubscriptionEnded: self._subscription_ended,
            ev.Connect: self._connect,
            ev.Disconnect: self._disconnect,
            ev.SessionUp: _log_up,
            ev.SessionDown: _log_down,
        }

    @property
    def pid(self) -> int:
        """The process that made this driver."""
        return self._pid

    @property
    def core(self) -> ClientCore:
        """The state that is driven, for looking at it."""
        return self._core

    def bind(self) -> asyncio.AbstractEventLoop:
        """Bind to the running loop, or see that it is still the same.

        Raises FailedPrecondition `forked` or `wrong_loop`, RuntimeError when no loop runs.
        """
        check_fork(self._pid)
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = loop
        elif self._loop is not loop:
            raise exceptions.FailedPrecondition(
                "this client belongs to another event loop; make one for each loop, or use `Client`",
                reason="wrong_loop",
            )
        return loop

    def open(self, handle: JobHandle, opened: ev.OpenJob) -> None:
        """Start a job and tell its handle everything. A job id that is open here already ends the new handle."""
        self.bind()
        if handle.id in self._jobs:
            text = f"job {handle.id} is open in this client already"
            handle.job_ended(exceptions.AlreadyExists(text, reason="id_conflict", job=handle.id))
            return
        self._jobs[handle.id] = handle
        self.feed(opened)

    async def ask(self, method: str, params: Any, timeout_ms: int) -> Any:
        """The answer to a request. Raises DspymqError."""
        try:
            body = bodies.encode(params=params or None)
        except ProtocolError as problem:
            raise exceptions.from_protocol_error(problem) from None
        rid = f"r{next(self._rids)}"
        return await self._await(rid, ev.AskBroker(rid, method, body, timeout_ms))

    def subscribe(self, key: str, handle: EventsHandle, kinds: Sequence[str]) -> None:
        """Give the handle every event of these kinds until `unsubscribe`."""
        self.bind()
        self._subscriptions[key] = handle
        self.feed(ev.Subscribe(key, kinds))

    def unsubscribe(self, key: str) -> None:
        """The handle hears no more."""
        if self._subscriptions.pop(key, None) is not None:
            self.feed(ev.Unsubscribe(key))

    async def ping(self, timeout_ms: int) -> float:
        """Seconds until the broker answered; connecting, if that is needed, is not counted. Raises DspymqError."""
        if not self._core.session.live:
            await self._ping(timeout_ms)
        began = time.perf_counter()
        await self._ping(timeout_ms)
        return time.perf_counter() - began

    async def aclose(self) -> None:
        """End everything that is open and close the connection. Idempotent."""
        self.bind()
        if self._closed:
            return
        self._closed = True
        self.feed(ev.CloseClient())
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        await self._transport.aclose()

    def feed(self, event: ev.Input) -> None:
        """Give the core an event, do what it says, and set the timer for what it waits for."""
        for output in self._core.handle(event, self._clock_ms()):
            self._outputs[type(output)](output)
        wake_at_ms = self._core.wake_at_ms()
        # A timer that fires too early costs one look; moving it with every message would cost more.
        if wake_at_ms is not None and (self._timer is None or wake_at_ms < self._timer_at_ms):
            self._set_timer(wake_at_ms)

    async def _ping(self, timeout_ms: int) -> None:
        rid = f"r{next(self._rids)}"
        await self._await(rid, ev.PingBroker(rid, timeout_ms))

    async def _await(self, rid: str, event: ev.Input) -> Any:
        future = self.bind().create_future()
        self._answers[rid] = future
        try:
            self.feed(event)
            value = await future
        finally:
            self._answers.pop(rid, None)
        if isinstance(value, DspymqError):
            raise value.fresh()
        return value

    def _set_timer(self, at_ms: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._closed or self._loop is None:
            return
        self._timer_at_ms = at_ms
        delay_s = max(0, at_ms - self._clock_ms()) / 1_000
        self._timer = self._loop.call_later(delay_s, self._timer_fired)

    def _timer_fired(self) -> None:
        self._timer = None
        self.feed(ev.Tick())

    def _connect(self, output: ev.Connect) -> None:
        self._disconnect(ev.Disconnect())
        self._link_number += 1
        number = self._link_number
        self._link = self._transport.connect(
            output.address,
            lambda frames: self._frames(number, frames),
            lambda reason: self._down(number, reason),
        )

    def _disconnect(self, output: ev.Disconnect) -> None:
        link, self._link = self._link, None
        self._link_number += 1
        if link is not None:
            link.close(output.linger_ms)

    def _send(self, output: ev.Send) -> None:
        if self._link is not None:
            self._link.send(encode(output.message, output.body))

    def _frames(self, number: int, frames: Sequence[bytes]) -> None:
        if number != self._link_number:
            return
        try:
            message, body = _CODEC.decode(frames)
        except ProtocolError as problem:
            self.feed(ev.Garbled(problem))
            return
        self.feed(ev.Received(message, body))

    def _down(self, number: int, reason: str) -> None:
        if number == self._link_number:
            self.feed(ev.LinkDown(reason))

    def _job_ended(self, output: ev.JobEnded) -> None:
        self._jobs.pop(output.job).job_ended(output.value)

    def _subscription_ended(self, output: ev.SubscriptionEnded) -> None:
        self._subscriptions.pop(output.key).subscription_ended(output.error)

    def _answered(self, output: ev.Answered) -> None:
        future = self._answers.get(output.rid)
        if future is not None and not future.done():
            future.set_result(output.value)


def check_fork(pid: int) -> None:
    """Raise FailedPrecondition `forked` when this is not the process `pid`."""
    if os.getpid() != pid:
        raise exceptions.FailedPrecondition(
            f"this client was made in process {pid} and cannot be used in process {os.getpid()}: "
            "sockets do not survive a fork; make the client after forking",
            reason="forked",
        )


def _log_up(output: ev.SessionUp) -> None:
    event = "broker_restarted" if output.restarted else "session_up"
    log.info("%s address=%s session=%s epoch=%s", event, output.address, output.welcome.session, output.welcome.epoch)


def _log_down(output: ev.SessionDown) -> None:
    log.info("session_down address=%s reason=%s", output.address, output.reason)
