"""The wire between peers and brokers: TCP connections under DEALER sockets, as ZeroMQ has them, in virtual time.

Within a connection nothing is lost, doubled or overtaken. When it breaks, of what is under way in each direction a
part still arrives, the rest is lost, and the next connection is another route. A peer may hear of that at once, late
or never; its socket may have connected again before, and then the end of what it had sent may come once more under the
new route. A partition holds everything back, for as long as it lasts. Every message is bytes: the real codec's.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from tests.unit.model.world import World

Frames = Sequence[bytes]

RETRY_MS: Final = 100
"""A socket whose connection was refused tries again by itself."""

REPLAYED: Final = 4
"""Messages at most that come again under a new route."""


HELLO: Final = b"\xa5hello"


class Listener(Protocol):
    """A broker, as the network sees it."""

    def is_up(self) -> bool:
        """Whether it accepts connections."""

    def accept(self, connection: Connection) -> None:
        """A connection under a new route."""

    def receive(self, connection: Connection, frames: Frames) -> None:
        """A message came in."""

    def disconnected(self, connection: Connection) -> None:
        """The route is no more: sends to it fail."""


class Direction:
    """One way of a connection: first in, first out, with delays."""

    __slots__ = ("_deliver", "_ended", "_generation", "_last_ms", "_queue", "_world", "held")

    def __init__(self, world: World, deliver: Callable[[Frames], None]) -> None:
        self._world = world
        self._deliver = deliver
        self._queue: deque[Frames] = deque()
        self._last_ms = 0
        self._generation = 0
        self.held = False
        self._ended = False

    def __len__(self) -> int:
        return len(self._queue)

    def send(self, frames: Frames, delay_ms: int) -> None:
        """Put a message on its way; into a connection that has ended it goes nowhere."""
        if self._ended:
            return
        self._queue.append(frames)
        if not self.held:
            self._schedule(delay_ms)

    def hold(self) -> None:
        """Nothing arrives until `release`."""
        self.held = True
        self._generation += 1

    def release(self) -> None:
        """What was held arrives, in order."""
        self.held = False
        self._generation += 1
        self._last_ms = self._world.now_ms
        for _ in self._queue:
            self._schedule(1)

    def lose(self, kept: int) -> None:
        """The connection ends: all but the first `kept` messages under way are lost."""
        self._ended = True
        while len(self._queue) > kept:
            self._queue.pop()

    def flush(self) -> None:
        """Whatever is under way arrives now."""
        while self._queue:
            self._deliver(self._queue.popleft())

    def _schedule(self, delay_ms: int) -> None:
        self._last_ms = max(self._world.now_ms + delay_ms, self._last_ms)
        self._world.at(self._last_ms, self._due, self._generation)

    def _due(self, generation: int) -> None:
        if generation == self._generation and self._queue:
            self._deliver(self._queue.popleft())


class Connection:
    """One TCP connection; `route` is what the broker's ROUTER calls it."""

    def __init__(self, world: World, socket: Socket, broker: Listener, route: bytes) -> None:
        self.world = world
        self.socket = socket
        self.broker = broker
        self.route = route
        self.open = True
        self.to_broker = Direction(world, lambda frames: broker.receive(self, frames))
        self.to_peer = Direction(world, lambda frames: socket.receive(frames))

    def end(self, kept_up: int, kept_down: int) -> None:
        """The connection is over; of what is under way only this much arrives."""
        self.open = False
        self.to_broker.lose(kept_up)
        self.to_peer.lose(kept_down)
        if self.socket.endpoint == "clients" and not self.to_broker.held:
            # Else an old submit could come after the new one, and take the job away from it (a ROUTER that is busy
            # may do that, too: its client then hears `superseded`).
            self.to_broker.flush()


class Network:
    """All addresses, and who listens there."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.listeners: dict[str, Listener] = {}
        self._routes = itertools.count(1)

    def delay_ms(self) -> int:
        """How long the next message takes."""
        turn = self.world.rng.random()
        return 0 if turn < 0.3 else 1 + int(turn * turn * 12)

    def new_route(self) -> bytes:
        """A routing id that was never used."""
        return b"\0%04d" % next(self._routes)


class Island:
    """A peer's host: a partition cuts it off with all its connections, those that it has closed meanwhile too."""

    def __init__(self) -> None:
        self.cut_off = False
        self.connections: dict[Connection, None] = {}

    def cut(self) -> None:
        """Nothing comes through, and nobody is told."""
        self.cut_off = True
        for connection in self.connections:
            connection.to_broker.hold()
            connection.to_peer.hold()

    def join(self) -> None:
        """What was held arrives; connections that ended meanwhile end now."""
        self.cut_off = False
        for connection in list(self.connections):
            connection.to_broker.release()
            connection.to_peer.release()
            if not connection.open:
                self.forget(connection)

    def forget(self, connection: Connection) -> None:
        """The broker's side learns of the end a little later, if it can."""
        if not self.cut_off:
            self.connections.pop(connection, None)
            connection.world.after(2, connection.broker.disconnected, connection)


class Socket:
    """A peer's DEALER: one connection after another to one address, until it is closed.

    `on_down` is the socket's monitor: called when the peer learns that a connection ended or was refused.
    """

    def __init__(
        self,
        network: Network,
        island: Island,
        endpoint: str,
        address: str,
        name: str,
        on_frames: Callable[[Frames], None],
        on_down: Callable[[str], None],
    ) -> None:
        self.name = name
        self.reads = True
        """Whether the peer takes what comes; if not, the broker has to keep it."""
        self._network = network
        self._island = island
        self._world = network.world
        self.endpoint = endpoint
        self._address = address
        self._on_frames = on_frames
        self._on_down = on_down
        self.connection: Connection | None = None
        self.closed = False
        self._waiting: list[Frames] = []
        self._sent: deque[Frames] = deque(maxlen=REPLAYED)
        self._refused = False
        self._world.after(network.delay_ms(), self._connect)

    def send(self, frames: Frames) -> None:
        """Send, or keep until there is a connection."""
        self._sent.append(frames)
        if self.connection is None:
            self._waiting.append(frames)
        else:
            self.connection.to_broker.send(frames, self._network.delay_ms())

    def under_way(self) -> int:
        """Messages that were sent and have not arrived."""
        return len(self._waiting) if self.connection is None else len(self.connection.to_broker)

    def receive(self, frames: Frames) -> None:
        """A message came for the peer."""
        if not self.closed:
            self._on_frames(frames)

    def close(self, *, linger: bool = False) -> None:
        """Close for good; with `linger` what was sent still arrives."""
        if self.closed:
            return
        self.closed = True
        connection, self.connection = self.connection, None
        if connection is not None:
            under_way = len(connection.to_broker)
            connection.end(under_way if linger else self._world.some(under_way), 0)
            self._island.forget(connection)

    def break_off(self, *, told_after_ms: int | None, replays: bool = False) -> None:
        """The connection breaks, and the socket connects again by itself.

        The peer learns it after `told_after_ms`, or (None) never. With `replays` the end of what it had sent comes
        again under the new route.
        """
        connection, self.connection = self.connection, None
        if connection is None or self.closed:
            return
        connection.end(self._world.some(len(connection.to_broker)), self._world.some(len(connection.to_peer)))
        self._island.forget(connection)
        if replays:
            self._waiting = self._replay()
        self._world.after(self._network.delay_ms(), self._connect)
        if told_after_ms is not None:
            self._world.after(told_after_ms, self._told, connection)

    # -- inside -----------------------------------------------------------------------------------------------------

    def _replay(self) -> list[Frames]:
        """What comes again: never a greeting with more behind it, since that more waited for its answer."""
        again = list(self._sent)[-self._world.rng.randint(1, REPLAYED) :]
        while len(again) > 1 and any(HELLO in frames[1] for frames in again):
            again.pop(0)
        return again

    def _told(self, connection: Connection) -> None:
        if self._island.cut_off:
            self._world.after(RETRY_MS, self._told, connection)
        elif not self.closed:
            # What came before the end of the connection is read to its end.
            connection.to_peer.flush()
            if not self.closed:
                self._on_down("connection lost")

    def _connect(self) -> None:
        if self.closed or self.connection is not None:
            return
        broker = self._network.listeners.get(self._address)
        if self._island.cut_off or broker is None or not broker.is_up():
            self._world.after(RETRY_MS, self._connect)
            if not self._island.cut_off and not self._refused:
                self._refused = True
                self._on_down("connection refused")
            return
        connection = self.connection = Connection(self._world, self, broker, self._network.new_route())
        self._island.connections[connection] = None
        broker.accept(connection)
        waiting, self._waiting = self._waiting, []
        for frames in waiting:
            connection.to_broker.send(frames, self._network.delay_ms())
