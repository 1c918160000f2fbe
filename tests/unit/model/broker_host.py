"""A broker's process: the real core, played as `broker.server` plays it, under one address."""

from __future__ import annotations

from typing import Any, Final

from dspymq.broker.core import BrokerCore, CoreSettings
from dspymq.broker.core import events as ev
from dspymq.broker.core.effects import DropClient, DropWorker, Effect, ToClient, ToWorker
from dspymq.protocol import ProtocolError, client_codec, encode, worker_codec
from dspymq.protocol import client_messages as c
from dspymq.protocol import worker_messages as w
from dspymq.protocol.ids import uuid7
from tests.unit.model.broker_oracle import BrokerOracle
from tests.unit.model.ledger import Ledger
from tests.unit.model.wire import Connection, Frames, Network
from tests.unit.model.world import World

TICK_MS: Final = 50
STALL_MS: Final = 300
"""A tick that comes so much late makes the shell say Stalled."""

OUTBOX_BYTES: Final = 3_000
"""What may wait for a peer that does not read, results and dispatches aside."""


class BrokerHost:
    """One address. `start` begins a new life under a new epoch, `kill` ends it without a word."""

    def __init__(self, world: World, network: Network, ledger: Ledger, address: str, settings: CoreSettings) -> None:
        self.world = world
        self.address = address
        self.settings = settings
        self._network = network
        self._ledger = ledger
        self._client_codec = client_codec(settings.limits)
        self._worker_codec = worker_codec(settings.limits)
        self.core: BrokerCore | None = None
        self.oracle: BrokerOracle | None = None
        self.stalled = False
        self.went_on_ms = 0
        self._routes: dict[bytes, Connection] = {}
        self._outboxes: dict[bytes, list[tuple[Frames, int]]] = {}
        self._inbox: list[tuple[Connection, Frames]] = []
        self._deferred: list[ev.Event] = []
        self._round_due = False
        network.listeners[address] = self

    # -- its life ---------------------------------------------------------------------------------------------------

    def is_up(self) -> bool:
        """Whether its process runs."""
        return self.core is not None

    def start(self, epoch_ms: int | None = None) -> None:
        """A process starts, as if at this time: a broker that ran all along has an older epoch."""
        entropy = self.world.rng.randbytes(10)
        epoch = uuid7(self.world.now_ms if epoch_ms is None else epoch_ms, entropy)
        self.core = BrokerCore(self.settings, epoch)
        self.oracle = BrokerOracle(self.world, self.core, self._ledger)
        self.world.saw(self.address, f"broker starts, epoch ...{epoch[-8:]}")
        self._last_ms = self.world.now_ms
        self._tick(self.core)

    def kill(self) -> None:
        """SIGKILL, or the machine is gone: some peers are told at once, some never."""
        if self.core is None or self.oracle is None:
            return
        self.world.saw(self.address, "broker is killed")
        self.oracle.life_over()
        self.core = self.oracle = None
        self.stalled = self._round_due = False
        self._inbox.clear()
        self._outboxes.clear()
        self._deferred.clear()
        routes, self._routes = self._routes, {}
        told = self.world.chance(0.7)
        for connection in list(routes.values()):
            after_ms = self._network.delay_ms() if told or self.world.chance(0.5) else None
            if connection.socket.connection is connection:
                connection.socket.break_off(told_after_ms=after_ms)

    def stall(self, ms: int) -> None:
        """SIGSTOP, and SIGCONT so much later."""
        if self.core is not None and not self.stalled:
            self.world.saw(self.address, f"broker stops for {ms} ms")
            self.stalled = True
            self.world.after(ms, self.go_on, self.core)

    def say_goodbye(self) -> None:
        """SIGTERM: tell everybody, then end."""
        if self.core is not None and not self.stalled:
            self._handle(ev.Shutdown())
            for connection in list(self._routes.values()):
                connection.to_peer.flush()
            self.kill()

    # -- the network ------------------------------------------------------------------------------------------------

    def accept(self, connection: Connection) -> None:
        """See wire.Listener."""
        self._routes[connection.route] = connection

    def disconnected(self, connection: Connection) -> None:
        """See wire.Listener."""
        self._routes.pop(connection.route, None)
        self._outboxes.pop(connection.route, None)

    def receive(self, connection: Connection, frames: Frames) -> None:
        """See wire.Listener."""
        if self.core is None:
            return
        if self.stalled:
            self._inbox.append((connection, frames))
            return
        self._take(connection, frames)
        if not self._round_due:
            self._round_due = True
            self.world.after(0, self._round_over, self.core)

    def drain_outbox(self, connection: Connection) -> None:
        """The peer reads again."""
        for frames, _ in self._outboxes.pop(connection.route, []):
            connection.to_peer.send(frames, self._network.delay_ms())

    # -- inside -----------------------------------------------------------------------------------------------------

    def _take(self, connection: Connection, frames: Frames) -> None:
        route = connection.route
        event: ev.Event
        if connection.socket.endpoint == "clients":
            try:
                event = ev.ClientMessage(route, *self._client_codec.decode(frames))
            except ProtocolError as problem:
                event = ev.BadClientMessage(route, problem)
        else:
            try:
                event = ev.WorkerMessage(route, *self._worker_codec.decode(frames))
            except ProtocolError as problem:
                event = ev.BadWorkerMessage(route, problem)
        self.world.check(isinstance(event, ev.ClientMessage | ev.WorkerMessage), "what peers send can be read", event)
        self.world.saw(f"{connection.socket.name} > {self.address}", event[1])
        self._handle(event)

    def _round_over(self, core: BrokerCore) -> None:
        if core is self.core and not self.stalled:
            self._round_due = False
            self._handle(ev.RoundOver())

    def _tick(self, core: BrokerCore) -> None:
        if core is not self.core or self.stalled:
            return
        self._last_ms = self.world.now_ms
        self._handle(ev.Tick())
        self.world.after(TICK_MS, self._tick, core)

    def go_on(self, core: BrokerCore | None) -> None:
        """SIGCONT."""
        if core is None or core is not self.core or not self.stalled:
            return
        self.world.saw(self.address, "broker goes on")
        self.stalled = False
        self.went_on_ms = self.world.now_ms
        # Time is told late, but first its sockets are read.
        for endpoint in ("workers", "clients"):
            for connection, frames in [one for one in self._inbox if one[0].socket.endpoint == endpoint]:
                self._take(connection, frames)
            self._handle(ev.RoundOver())
        self._inbox.clear()
        self._round_due = False
        late_ms = self.world.now_ms - self._last_ms
        if late_ms > STALL_MS:
            self._handle(ev.Stalled(late_ms))
        self._tick(core)

    def _handle(self, event: ev.Event) -> None:
        self._deferred.append(event)
        while self._deferred:
            self._apply(self._deferred.pop(0))

    def _apply(self, event: ev.Event) -> None:
        if self.core is None or self.oracle is None:
            return
        self.oracle.before(event)
        effects = self.core.handle(event, self.world.now_ms)
        self.oracle.handled(event)
        for effect in effects:
            self.oracle.sees(event, effect)
            self._do(effect)

    def _do(self, effect: Effect) -> None:
        match effect:
            case ToClient():
                self._send(effect.peer, effect.message, effect.body, c.Result, "clients")
            case ToWorker():
                self._send(effect.peer, effect.message, effect.body, w.Dispatch, "workers")
            case DropClient(peer) | DropWorker(peer):
                self._outboxes.pop(peer, None)  # type: ignore[arg-type]

    def _send(self, peer: Any, message: Any, body: bytes, with_jobs: type, endpoint: str) -> None:
        connection = self._routes.get(peer)
        if connection is None:
            self.world.saw(f"{self.address} > ?", message)
            gone = ev.ClientUnreachable(peer) if endpoint == "clients" else ev.WorkerUnreachable(peer)
            self._deferred.append(gone)
            return
        self.world.saw(f"{self.address} > {connection.socket.name}", message)
        frames = encode(message, body)
        outbox = self._outboxes.get(peer)
        if outbox is None and connection.socket.reads:
            connection.to_peer.send(frames, self._network.delay_ms())
            return
        if outbox is None:
            outbox = self._outboxes[peer] = []
        outbox.append((frames, 0 if type(message) is with_jobs else sum(map(len, frames))))
        if sum(size for _, size in outbox) > OUTBOX_BYTES:
            self._outboxes.pop(peer)
            self._deferred.append(ev.SlowConsumer(peer))
