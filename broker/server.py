"""The broker's shell: two ROUTERs and a clock on one asyncio loop. All decisions are `BrokerCore`'s."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import zmq

from dspymq.broker.config import BrokerConfig
from dspymq.broker.core import BrokerCore
from dspymq.broker.core import events as ev
from dspymq.broker.core.definitions import Definitions
from dspymq.broker.core.effects import DropClient, DropWorker, Effect, Log, ToClient, ToWorker
from dspymq.broker.definition_file import DefinitionFile
from dspymq.broker.endpoint import Endpoint
from dspymq.broker.memory import memory_trimmer
from dspymq.protocol import TAG, ProtocolError, client_codec, client_messages, new_uuid7, worker_codec, worker_messages
from dspymq.transport import HealthServer, ServiceManager

log = logging.getLogger("dspymq.broker")

TICK_S: Final = 0.02
"""How often time is told to the core: deadlines are met to this and the timers' granularity."""

MIN_STALL_MS: Final = 250
"""A tick that comes this much late, or a quarter of `dead_ms` if that is more, shows that the broker stood still."""

CATCH_UP: Final = 1_000
"""Messages received at most, at each endpoint, before a tick that comes late.

Few enough that a flood, which makes ticks late, does not keep workers waiting for an answer while it is read.
"""

GATHER: Final = 64
"""Effects of a round of messages that wait for its end at most: sent together they cost libzmq fewer system calls."""

CATCH_UP_S: Final = 0.1
"""The same in time: messages may be large."""

MAX_ENVELOPE_BYTES: Final = 64

TRIM_S: Final = 10.0
"""How often memory that is free is given back to the system."""

LINGER_MS: Final = 500
"""How long goodbyes may take to leave when the broker stops."""


def monotonic_ms() -> int:
    """Milliseconds of a clock that never runs backwards."""
    return time.monotonic_ns() // 1_000_000


class Broker:
    """A broker on the running loop: `start()`, then `stop()`.

    `clients_address` and `workers_address` are what was really bound. Raises OSError (from zmq) when an address is
    in use or not this machine's, StoreError when the file of definitions cannot be used.
    """

    def __init__(self, config: BrokerConfig, *, epoch: str | None = None) -> None:
        self.config = config
        self._file = DefinitionFile(Path(config.store)) if config.store else None
        definitions = Definitions(
            most=config.max_definitions, most_bytes=config.max_definition_bytes, keeper=self._file
        )
        if self._file is not None:
            definitions.restore(self._file.definitions(), self._file.aliases())
        self.core = BrokerCore(config, epoch or new_uuid7(), definitions)
        self.core.context.traces = log.isEnabledFor(logging.DEBUG)
        self._client_codec = client_codec(config.limits)
        self._worker_codec = worker_codec(config.limits)
        self._context: zmq.Context[Any] = zmq.Context()
        self._context.set(zmq.MAX_SOCKETS, 4_096)
        self._clients: Endpoint[ev.ClientPeer] | None = None
        self._workers: Endpoint[bytes] | None = None
        self._tick: asyncio.Task[None] | None = None
        self._health = HealthServer(config.health, {"/readyz": self.core.not_ready}) if config.health else None
        self._deferred: list[ev.Event] = []
        self._gathered: list[Effect] = []
        self._gathers = False
        """A round of messages is being taken in, and the first is done: one that comes alone does not wait."""
        self._applying = False

    async def start(self) -> None:
        """Bind both endpoints and begin."""
        try:
            self._clients = Endpoint(
                self._context,
                self.config.clients,
                on_frames=self._from_client,
                on_round=self._round_over,
                prefix=_client_prefix,
                on_unreachable=lambda peer: self._defer(ev.ClientUnreachable(peer)),
                on_slow=lambda peer: self._defer(ev.SlowConsumer(peer)),
                with_jobs=client_messages.Result,
            )
            self._workers = Endpoint(
                self._context,
                self.config.workers,
                on_frames=self._from_worker,
                on_round=self._round_over,
                prefix=_worker_prefix,
                on_unreachable=lambda peer: self._defer(ev.WorkerUnreachable(peer)),
                on_slow=lambda peer: self._defer(ev.SlowWorker(peer)),
                with_jobs=worker_messages.Dispatch,
            )
            if self._health is not None:
                await self._health.start()
        except (zmq.ZMQError, OSError):
            self._close(0)
            raise
        self._tick = asyncio.create_task(self._tell_time(), name="dspymq-broker-tick")
        log.info(
            "broker_started clients=%s workers=%s epoch=%s",
            self.clients_address,
            self.workers_address,
            self.core.context.epoch,
        )

    @property
    def clients_address(self) -> str:
        """Where clients connect."""
        return self._clients.address if self._clients else self.config.clients

    @property
    def workers_address(self) -> str:
        """Where workers connect."""
        return self._workers.address if self._workers else self.config.workers

    @property
    def health_address(self) -> str | None:
        """Where health is asked for, if anywhere."""
        return self._health.address if self._health else None

    async def stop(self) -> None:
        """Say goodbye to everybody and close. Idempotent."""
        if self._health is not None:
            await self._health.stop()
        if self._tick is not None:
            self._tick.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._tick
            self._tick = None
            self._handle(ev.Shutdown())
            log.info("broker_stopped")
        self._close(LINGER_MS)

    def _close(self, linger_ms: int) -> None:
        for endpoint in (self._clients, self._workers):
            if endpoint is not None:
                endpoint.close(linger_ms)
        if self._file is not None:
            self._file.close()
        self._context.destroy(linger=linger_ms)

    # -- in ---------------------------------------------------------------------------------------------------------

    def _from_client(self, frames: list[bytes]) -> None:
        peer, rest = _client_peer(frames)
        try:
            message, body = self._client_codec.decode(rest)
        except ProtocolError as problem:
            self._handle(ev.BadClientMessage(peer, problem))
        else:
            self._handle(ev.ClientMessage(peer, message, body))
        self._gathers = True

    def _from_worker(self, frames: list[bytes]) -> None:
        peer = frames[0]
        try:
            message, body = self._worker_codec.decode(frames[1:])
        except ProtocolError as problem:
            self._handle(ev.BadWorkerMessage(peer, problem))
        else:
            self._handle(ev.WorkerMessage(peer, message, body))
        self._gathers = True

    def _round_over(self) -> None:
        self._gathers = False
        self._handle(ev.RoundOver())

    async def _tell_time(self) -> None:
        dead_ms = min(self.config.client_dead_ms, self.config.worker_dead_ms)
        stall_ms = max(MIN_STALL_MS, dead_ms // 4)
        last_ms = monotonic_ms()
        while True:
            await asyncio.sleep(TICK_S)
            late_ms = monotonic_ms() - last_ms
            if late_ms > stall_ms:
                log.warning("broker_stalled for_ms=%d", late_ms)
                self._catch_up()
                self._handle(ev.Stalled(late_ms))
            last_ms = monotonic_ms()
            self._gathers = False
            self._handle(ev.Tick())

    def _catch_up(self) -> None:
        """After a stall of our own: hear what peers have said meanwhile before anyone is judged by silence."""
        for endpoint in (self._workers, self._clients):
            if endpoint is not None:
                endpoint.socket.drain(CATCH_UP, CATCH_UP_S)

    # -- out --------------------------------------------------------------------------------------------------------

    def _defer(self, event: ev.Event) -> None:
        """A send found something out: an event of its own, after the effects at hand."""
        self._deferred.append(event)
        if not self._applying:
            self._handle_deferred()

    def _handle(self, event: ev.Event) -> None:
        self._apply(event)
        self._handle_deferred()

    def _handle_deferred(self) -> None:
        while self._deferred:
            self._apply(self._deferred.pop(0))

    def _apply(self, event: ev.Event) -> None:
        effects = self.core.handle(event, monotonic_ms())
        if self._gathered:
            effects, self._gathered = [*self._gathered, *effects], []
        if self._gathers and len(effects) < GATHER:
            self._gathered = effects
        else:
            self._carry_out(effects)

    def _carry_out(self, effects: list[Effect]) -> None:
        clients, workers = self._clients, self._workers
        if clients is None or workers is None:
            return
        self._applying = True
        for effect in effects:
            match effect:
                case ToClient(peer, message, body):
                    clients.send(peer, message, body)
                case ToWorker(peer, message, body):
                    workers.send(peer, message, body)
                case DropClient(peer):
                    clients.drop(peer)
                case DropWorker(peer):
                    workers.drop(peer)
                case Log(level, text):
                    log.log(level, "%s", text)
        self._applying = False


def _client_peer(frames: list[bytes]) -> tuple[ev.ClientPeer, list[bytes]]:
    """Who sent this, and the message itself: a REQ peer's envelope is all frames through the first empty one.

    It is kept as long as its job and echoed, so it is small (REQ_CORRELATE's id has 4 bytes); another is none.
    """
    route = frames[0]
    if b"" in frames[1:-1] and frames[1] != TAG:
        end = frames.index(b"", 1)
        if end <= 2 and len(frames[1]) <= MAX_ENVELOPE_BYTES:
            return ev.OneShot(route, tuple(frames[1 : end + 1])), frames[end + 1 :]
    return route, frames[1:]


def _client_prefix(peer: ev.ClientPeer) -> tuple[bytes, ...]:
    return (peer.route, *peer.envelope) if isinstance(peer, ev.OneShot) else (peer,)


def _worker_prefix(peer: bytes) -> tuple[bytes]:
    return (peer,)


async def serve(config: BrokerConfig, *, on_started: Callable[[Broker], None] | None = None) -> None:
    """Run a broker until SIGTERM or SIGINT."""
    # Jobs by the thousand are made and dropped each second, nearly none in cycles: look for those less often.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    broker = Broker(config)
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    manager = ServiceManager.of_this_process()
    await broker.start()
    watchdog = asyncio.create_task(manager.keep_alive(), name="dspymq-broker-watchdog")
    trimmer = asyncio.create_task(_trim_memory(), name="dspymq-broker-trimmer")
    try:
        manager.ready(f"clients at {broker.clients_address}, workers at {broker.workers_address}")
        if on_started is not None:
            on_started(broker)
        await stopped.wait()
    finally:
        manager.stopping()
        watchdog.cancel()
        trimmer.cancel()
        await broker.stop()


async def _trim_memory() -> None:
    """Give back what is free, again and again: what a rush took does not stay for good."""
    trim = memory_trimmer()
    while True:
        await asyncio.sleep(TRIM_S)
        trim()
