"""A worker pool: the real cores of pool and session, played as `supervisor.pool` and `broker_link` play them.

SIGKILL takes the executors along, SIGSTOP does not: they go on, and what they and the broker say waits.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

from dspymq.protocol import encode, worker_codec
from dspymq.protocol import worker_messages as w
from dspymq.protocol.limits import Limits
from dspymq.protocol.messages import Hello, Welcome
from dspymq.worker.supervisor import effects as ef
from dspymq.worker.supervisor import events as ev
from dspymq.worker.supervisor import session as s
from dspymq.worker.supervisor.context import PoolSettings
from dspymq.worker.supervisor.core import PoolCore
from tests.unit.model.executor import Executor
from tests.unit.model.ledger import Ledger
from tests.unit.model.pool_oracle import PoolOracle
from tests.unit.model.wire import Frames, Island, Network, Socket
from tests.unit.model.world import World

LOOK_MS: Final = 500
CONGESTED: Final = 12
"""Messages under way to the broker, from which on its socket counts as full."""

CODEC: Final = worker_codec()


class PoolHost:
    """One pool's host. Each `start` is another pool, under another name."""

    def __init__(
        self,
        world: World,
        network: Network,
        ledger: Ledger,
        name: str,
        addresses: Sequence[str],
        slots: dict[str, int],
        **settings: int,
    ) -> None:
        self.world = world
        self.name = name
        self.ledger = ledger
        self.island = Island()
        self._network = network
        self._addresses = list(addresses)
        self._slots = slots
        self._settings = settings
        self._starts = itertools.count(1)
        self.pool: Pool | None = None
        self.restarts = True
        self.failing_starts = 0
        """So many of the next executors end before they are ready."""

    def start(self) -> None:
        """The pool's process starts."""
        worker = f"{self.name}.{next(self._starts)}"
        settings = PoolSettings(worker=worker, name=worker, **self._settings)
        self.pool = Pool(self, settings, self._addresses, self._network, self._slots)
        self.pool.start()

    def ended(self, pool: Pool) -> None:
        """The pool's process has ended; somebody starts it again."""
        if self.pool is pool:
            self.pool = None
            self.world.after(self.world.rng.randint(20, 600), self._start_again)

    def kill(self) -> None:
        """SIGKILL."""
        if self.pool is not None:
            self.world.saw(self.name, "pool is killed")
            self.pool.end("its pool was killed", linger=False)

    def _start_again(self) -> None:
        if self.pool is None:
            self.start()


class Pool:
    """One process of a supervisor, with its executors."""

    def __init__(
        self, host: PoolHost, settings: PoolSettings, addresses: list[str], network: Network, slots: dict[str, int]
    ) -> None:
        self.host = host
        self.world = world = host.world
        self.ledger = host.ledger
        self.worker = settings.worker
        self.core = PoolCore(settings, world.rng.random)
        self.session = s.Session(
            addresses, Hello(name=self.worker, lang="model", features=["chunks", "tools"]), world.rng.random
        )
        self.oracle = PoolOracle(self)
        self.executors: dict[str, Executor] = {}
        self.alive = True
        self.stopped = False
        self.socket: Socket | None = None
        self._network = network
        self._slots = slots
        self._limits = Limits()
        self._blocked = False
        self._events: deque[ev.Event] = deque()
        self._handling = False
        self._restart_due = False
        self._last_ms = world.now_ms
        self._timer_ms = 0
        self._timer = 0
        self._waiting: list[Callable[[], None]] = []
        """What comes in while the process is stopped."""

    # -- its life ---------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin."""
        self.world.saw(self.worker, "pool starts")
        self._handle(ev.Start())
        self._on_timer(self._timer)

    def shutdown(self) -> None:
        """SIGTERM; it acts as soon as the process runs."""
        self._arrives(lambda: self._handle(ev.Shutdown()))

    def stop(self, ms: int) -> None:
        """SIGSTOP, and SIGCONT so much later."""
        if self.alive and not self.stopped:
            self.world.saw(self.worker, f"supervisor stops for {ms} ms")
            self.stopped = True
            self.world.after(ms, self.go_on)

    def end(self, why: str, *, linger: bool) -> None:
        """The process ends, its executors with it."""
        if not self.alive:
            return
        self.alive = False
        for lease in self.oracle.held():
            self.ledger.excuse(lease, why)
        for executor in list(self.executors.values()):
            executor.die(-9)
        if self.socket is not None:
            self.socket.close(linger=linger)
        self.host.ended(self)

    # -- what comes in ----------------------------------------------------------------------------------------------

    def _arrives(self, take: Callable[[], None]) -> None:
        if self.stopped:
            self._waiting.append(take)
        elif self.alive:
            take()

    def go_on(self) -> None:
        """SIGCONT."""
        if not self.alive or not self.stopped:
            return
        self.world.saw(self.worker, "supervisor goes on")
        self.stopped = False
        # The loop wakes with everything at once: some of it is handled before the new session begins.
        waiting, self._waiting = self._waiting, []
        if self.world.chance(0.3):
            self._on_timer(self._timer)
        before = self.world.some(len(waiting))
        for take in waiting[:before]:
            take()
        self._restart_if_due()
        for take in waiting[before:]:
            if self.alive:
                take()
        self._restart_if_due()
        self._on_timer(self._timer)

    def _handle(self, event: ev.Event) -> None:
        self._notice_stall()
        self._events.append(event)
        if self._handling:
            return
        self._handling = True
        while self._events and self.alive:
            one = self._events.popleft()
            self.oracle.before(one)
            effects = self.core.handle(one, self._last_ms)
            self.oracle.after(one)
            for effect in effects:
                self._do(effect)
        self._handling = False
        self._arm()

    def _notice_stall(self) -> None:
        gap_ms = self.world.now_ms - self._last_ms
        self._last_ms = self.world.now_ms
        if gap_ms > self.session.stall_ms:
            self.world.saw(self.worker, f"own stall of {gap_ms} ms")
            self._events.append(ev.OwnStall())
            if not self._restart_due:
                self._restart_due = True
                self.oracle.own_stall()
                self.world.after(0, self._restart_if_due)

    def _restart_if_due(self) -> None:
        if self._restart_due and self.alive and not self.stopped:
            # First its socket is drained.
            if self.socket is not None and self.socket.connection is not None and not self.host.island.cut_off:
                self.socket.connection.to_peer.flush()
            self._restart_due = False
            self._steps(self.session.restart(self.world.now_ms, "own stall"))
            self._arm()

    # -- time -------------------------------------------------------------------------------------------------------

    def _arm(self) -> None:
        if not self.alive:
            return
        due_ms = min(self._last_ms + LOOK_MS, self.session.next_ms())
        core_ms = self.core.next_ms()
        if core_ms is not None:
            due_ms = min(due_ms, core_ms)
        if self._timer_ms > self.world.now_ms and self._timer_ms <= due_ms:
            return
        self._timer += 1
        self._timer_ms = max(due_ms, self.world.now_ms + 1)
        self.world.at(self._timer_ms, self._on_timer, self._timer)

    def _on_timer(self, number: int) -> None:
        if number != self._timer or self.stopped or not self.alive:
            return
        self._timer_ms = 0
        self._handle(ev.Tick())
        if self.alive and not self._restart_due:
            self._steps(self.session.tick(self.world.now_ms, busy=self.core.busy))
        self._arm()

    # -- the broker -------------------------------------------------------------------------------------------------

    def _steps(self, steps: list[s.Step], body: bytes = b"") -> None:
        for step in steps:
            match step:
                case s.Deliver(message):
                    self._handle(ev.FromBroker(message, body))
                case s.Send(message):
                    self._send(message, b"")
                case s.Open(address, hello):
                    self._open(address, hello)
                case s.Close():
                    self._close()
                case s.Up(welcome):
                    self._up(welcome)
                case s.Down(_):
                    self._handle(ev.SessionDown())

    def _up(self, welcome: Welcome) -> None:
        self._limits = welcome.limits
        self._handle(ev.SessionUp(welcome))

    def _open(self, address: str, hello: Hello) -> None:
        self.socket = Socket(
            self._network,
            self.host.island,
            "workers",
            address,
            self.worker,
            lambda frames: self._arrives(lambda: self._received(socket, frames)),
            lambda reason: self._arrives(lambda: self._disconnected(socket)),
        )
        socket = self.socket
        self._send(hello, b"")

    def _close(self) -> None:
        if self.socket is not None:
            self.socket.close()
            self.socket = None
        self._blocked = False

    def _received(self, socket: Socket, frames: Frames) -> None:
        if socket is not self.socket or not self.alive:
            return
        message, body = CODEC.decode(frames)
        self._steps(self.session.received(message, self.world.now_ms, busy=self.core.busy), body)
        self._arm()

    def _disconnected(self, socket: Socket) -> None:
        if socket is self.socket and self.alive:
            self._steps(self.session.disconnected(self.world.now_ms, busy=self.core.busy))
            self._arm()

    def _send(self, message: Any, body: bytes) -> None:
        if self.socket is None:
            return
        self.socket.send(encode(message, body))
        if self.session.phase is s.Phase.UP and not self._blocked and self.socket.under_way() > CONGESTED:
            self._blocked = True
            self._handle(ev.Congested(True))
            self.world.after(5, self._uncongested, self.socket)

    def _uncongested(self, socket: Socket) -> None:
        if socket is not self.socket or not self.alive or not self._blocked:
            return
        if socket.under_way() or self.stopped:
            self.world.after(5, self._uncongested, socket)
        else:
            self._blocked = False
            self._handle(ev.Congested(False))

    # -- what the core wants ----------------------------------------------------------------------------------------

    def _do(self, effect: ef.Effect) -> None:
        match effect:
            case ef.ToBroker(message, body):
                self.oracle.sends(message)
                if self.session.phase is s.Phase.UP:
                    self._send(message, body)
            case ef.ToExecutor(name, message, body):
                self.oracle.tells(name, message)
                executor = self.executors.get(name)
                if executor is not None and executor.alive:
                    executor.told(*CODEC.decode(encode(message, body)))
            case ef.StartExecutor(name, _):
                self._start_executor(name)
            case ef.KillExecutor(name):
                if name in self.executors:
                    self.world.after(self.world.rng.randint(0, 3), self.executors[name].die, -9)
            case ef.Exit(code):
                self.world.saw(self.worker, f"pool exits with {code}")
                self.oracle.exits(code)
                self.end("its pool had exited", linger=True)

    def _start_executor(self, name: str) -> None:
        pipe = _Pipe(self, name)
        executor = Executor(self.world, self.ledger, name, self._slots, pipe.write, pipe.end)
        self.executors[name] = executor
        self.world.after(self.world.rng.randint(5, 60), self._forked, executor, pipe)

    def _forked(self, executor: Executor, pipe: _Pipe) -> None:
        if not executor.alive or not self.alive:
            return
        pipe.started()
        if self.host.failing_starts:
            self.host.failing_starts -= 1
            self.world.after(10, executor.die, 1)
        else:
            executor.later(self.world.rng.randint(5, 80), executor.ready)

    def from_pipe(self, event: ev.Event) -> None:
        """An executor's pipe has something."""
        self._arrives(lambda: self._handle(event))

    def executor_gone(self, name: str, code: int | None) -> None:
        """An executor's pipe was read to its end."""

        def take() -> None:
            self.executors.pop(name, None)
            self._handle(ev.ExecutorGone(name, code))

        self._arrives(take)


class _Pipe:
    """From an executor to its supervisor: in order, and read to its end before the executor's end is reported."""

    def __init__(self, pool: Pool, name: str) -> None:
        self._pool = pool
        self._name = name
        self._last_ms = 0

    def started(self) -> None:
        """The process exists."""
        self._later(self._pool.from_pipe, ev.ExecutorStarted(self._name, 4_711))

    def write(self, message: Any, body: bytes) -> None:
        """The executor says something."""
        if isinstance(message, w.Result | w.Chunk | w.Started):
            self._pool.world.saw(f"{self._name} > pool", message)
        message, body = CODEC.decode(encode(message, body))
        self._later(self._pool.from_pipe, ev.FromExecutor(self._name, message, body))

    def end(self, code: int | None) -> None:
        """The executor has ended."""
        self._later(self._pool.executor_gone, self._name, code)

    def _later(self, call: Callable[..., None], *args: Any) -> None:
        world = self._pool.world
        self._last_ms = max(world.now_ms + world.rng.randint(0, 2), self._last_ms)
        world.at(self._last_ms, call, *args)
