"""Brokers, pools and clients together, what can go wrong among them, and how everything heals in the end."""

from __future__ import annotations

from typing import Final

from dspymq.broker.core import CoreSettings
from dspymq.protocol import client_messages as c
from tests.unit.model import books
from tests.unit.model.broker_host import BrokerHost
from tests.unit.model.client_host import ClientHost, Handle
from tests.unit.model.client_oracle import ORPHAN_MS, RETAIN_MS, ClientOracle
from tests.unit.model.executor import Plan
from tests.unit.model.ledger import Ledger
from tests.unit.model.pool_host import Pool, PoolHost
from tests.unit.model.wire import Network
from tests.unit.model.world import World

SETTINGS: Final = CoreSettings(
    client_ping_ms=1_000,
    worker_ping_ms=400,
    adopt_ms=2_000,
    orphan_ms=ORPHAN_MS,
    retain_ms=RETAIN_MS,
    grace_ms=500,
)
POOL: Final = {"processes": 2, "grace_ms": 1_500, "cancel_grace_ms": 400, "stall_ms": 1_500, "start_timeout_ms": 4_000}
SLOTS: Final = {"default": 2}

LONG_ENOUGH_MS: Final = SETTINGS.worker_dead_ms - SETTINGS.worker_ping_ms - 150
"""A pool without contact for so long may be taken for lost: it was last heard up to a ping before."""

LONGEST_MS: Final = 10_000
"""The longest timeout of a job and the grace after it."""

LOOK_MS: Final = 50


class Simulation:
    """Two broker addresses of which one is served at a time, two pools, three clients."""

    def __init__(self, seed: int, traffic: int = 0) -> None:
        """`traffic`: jobs that users submit by themselves, at once and again and again."""
        self.world = world = World(seed)
        self.network = Network(world)
        self.ledger = Ledger(world)
        self.oracle = ClientOracle(world, self.ledger)
        self.brokers = [BrokerHost(world, self.network, self.ledger, name, SETTINGS) for name in ("A", "B")]
        self.pools = [
            PoolHost(world, self.network, self.ledger, name, ["A", "B"], SLOTS, **POOL) for name in ("P1", "P2")
        ]
        self.clients = [
            ClientHost(world, self.network, self.ledger, name, ["A", "B"], self.oracle) for name in ("c1", "c2", "c3")
        ]
        self.handles: list[Handle] = []
        self.jobs: dict[str, tuple[c.Submit, Plan]] = {}
        self.began_ms = world.now_ms
        self.brokers[0].start()
        for pool in self.pools:
            pool.start()
        self._look()
        world.run_for(400)
        self._traffic = traffic
        self._submit_some()

    # -- what users do ----------------------------------------------------------------------------------------------

    def submit(self, client: ClientHost, submit: c.Submit, plan: Plan, *, reads: bool = True) -> Handle | None:
        """A new job."""
        if client.closed or client.stopped:
            return None
        handle = client.submit(submit, plan)
        handle.reads = reads
        self.jobs[submit.job] = (submit, plan)
        self.handles.append(handle)
        return handle

    def new_job(self) -> str:
        """An id that was never used."""
        return f"j{len(self.jobs) + 1}"

    def _submit_some(self) -> None:
        rng = self.world.rng
        for _ in range(self._traffic):
            want = rng.choice([[], ["started"], ["chunks"], ["chunks"], ["accepted", "chunks", "tools"]])
            plan = Plan(
                run_ms=rng.choice([5, 100, 300, 300, 800]),
                pieces=6 if "chunks" in want else 0,
                tools=2 if "tools" in want else 0,
                end=rng.choice(["ok"] * 8 + ["fail", "hang", "die"]),
                stubborn=self.world.chance(0.1),
            )
            submit = c.Submit(
                job=self.new_job(),
                program=rng.choice(["p", "q"]),
                timeout_ms=rng.choice([800, 5_000, 7_000]),
                want=want,  # type: ignore[arg-type]
                window=rng.choice([None, 2, 6]),
                redeliver=self.world.chance(0.7),
                on_disconnect=rng.choice(["keep", "cancel"]),
                priority=rng.choice([0, 4, 4, 9]),
            )
            self.submit(rng.choice(self.clients), submit, plan, reads=self.world.chance(0.8))
        if self._traffic:
            self.world.after(rng.randint(50, 500), self._submit_some)

    def attach(self, client: ClientHost, job: str, want: list[str], window: int | None) -> None:
        """Join a job of any client."""
        if client.closed or client.stopped or job in client.handles:
            return
        self.oracle.taken.add(job)
        message = c.Attach(job=job, want=want, window=window)  # type: ignore[arg-type]
        self.handles.append(client.attach(message, self.jobs[job][1], 3_000))

    def resume(self, client: ClientHost) -> None:
        """After a crash: go on with what was open."""
        lost, client.lost = client.lost, []
        for handle in lost:
            if isinstance(handle.opened.message, c.Submit) and handle.job not in client.handles:
                self.oracle.redone.add(handle.job)
                self.handles.append(client.submit(handle.opened.message, handle.plan, resume=True))

    # -- what goes wrong --------------------------------------------------------------------------------------------

    @property
    def broker(self) -> BrokerHost | None:
        """The one that runs."""
        return next((broker for broker in self.brokers if broker.is_up()), None)

    def restart_broker(self, *, away_ms: int, other: bool, older: bool, polite: bool) -> None:
        """The broker ends; it, or the `other` one, serves a little later. `older`: that one ran all along."""
        broker = self.broker
        if broker is None:
            return
        if polite:
            broker.say_goodbye()
        broker.kill()
        following = next(one for one in self.brokers if (one is not broker) is other)
        self.world.after(away_ms, self._start_broker, following, older and other)

    def _start_broker(self, broker: BrokerHost, older: bool) -> None:
        if self.broker is None:
            broker.start(self.began_ms - 1_000 if older else None)

    # -- time -------------------------------------------------------------------------------------------------------

    def run_for(self, ms: int) -> None:
        """Let time pass, and look at everybody's books."""
        self.world.run_for(ms)
        self.check()

    def _look(self) -> None:
        broker = self.broker
        stands_still = broker is not None and broker.stalled
        for host in self.pools:
            pool = host.pool
            if pool is not None:
                in_contact = self._in_contact(pool, broker)
                pool.oracle.look(in_contact, LONG_ENOUGH_MS, LOOK_MS if stands_still else 0)
        for client in self.clients:
            client.look(broker is not None and self._hears(client, broker))
        self.world.after(LOOK_MS, self._look)

    def _hears(self, client: ClientHost, broker: BrokerHost) -> bool:
        connection = client.socket.connection if client.socket is not None else None
        if broker.stalled or client.stopped or client.island.cut_off or not client.reads or connection is None:
            return False
        return connection.open and connection.broker is broker and client.core.session.live

    def _in_contact(self, pool: Pool, broker: BrokerHost | None) -> bool:
        connection = pool.socket.connection if pool.socket is not None else None
        if broker is None or broker.stalled or pool.stopped or pool.host.island.cut_off or connection is None:
            return False
        return connection.open and connection.broker is broker and pool.core._link.synced

    def check(self) -> None:
        """Everybody's books are right."""
        try:
            broker = self.broker
            if broker is not None and broker.core is not None and not broker.stalled:
                books.check_broker(self.world, broker.core, broker.went_on_ms)
            for client in self.clients:
                books.check_client(self.world, client)
            for host in self.pools:
                if host.pool is not None and not host.pool.stopped:
                    books.check_pool(self.world, host.pool)
        except Exception as problem:
            self.world.explain(problem)
            raise

    # -- the end ----------------------------------------------------------------------------------------------------

    def heal(self) -> None:
        """Nothing goes wrong any more: everything is answered, new jobs run, and in the end nothing is left."""
        self.world.saw("---", "everything heals")
        self._traffic = 0
        for island in [*(host.island for host in self.pools), *(client.island for client in self.clients)]:
            island.join()
        if self.broker is not None:
            self.broker.go_on(self.broker.core)
        for host in self.pools:
            host.failing_starts = 0
            if host.pool is not None:
                for executor in host.pool.executors.values():
                    executor.thaw()
                host.pool.go_on()
        for client in self.clients:
            client.go_on(client.core)
            client.read(True)
            if client.closed:
                client.crash()
            self.resume(client)
        self._wait(12_000, lambda: self.broker is not None, "a broker is back")
        self._wait(20_000, lambda: all(handle.value is not None for handle in self._open()), "everything is answered")
        self._wait(4_000, lambda: not any(len(client.core.requests) for client in self.clients), "requests end")
        self._wait(8_000, self._all_in_contact, "all pools are back")
        self._undrain()
        self._probe()
        self._wait(LONGEST_MS + SETTINGS.retain_ms, self._forgotten, "everything is forgotten")
        self.run_for(1_600)
        self._nothing_left()

    def _forgotten(self) -> bool:
        broker = self.broker
        return broker is not None and broker.core is not None and not broker.core.store.jobs

    def _all_in_contact(self) -> bool:
        pools = [host.pool for host in self.pools]
        return all(pool is not None and self._in_contact(pool, self.broker) for pool in pools)

    def _open(self) -> list[Handle]:
        return [handle for client in self.clients for handle in client.handles.values()]

    def _wait(self, ms: int, holds: object, what: str) -> None:
        end_ms = self.world.now_ms + ms
        while not holds():  # type: ignore[operator]
            self.run_for(200)
            if self.world.now_ms >= end_ms:
                self._fail(f"{what}: not within {ms} ms")

    def _fail(self, text: str) -> None:
        problem = AssertionError(text)
        self.world.explain(problem)
        raise problem

    def _undrain(self) -> None:
        for host in self.pools:
            if host.pool is not None:
                self.clients[0].ask("workers.undrain", worker=host.pool.worker)

    def _probe(self) -> None:
        """As many jobs as there are slots, and some more, must all go well."""
        probes = []
        for number in range(9):
            submit = c.Submit(job=f"probe{number}", program="p", timeout_ms=15_000)
            client = self.clients[number % 3]
            probes.append(client.submit(submit, Plan(run_ms=100)))
        self._wait(6_000, lambda: all(probe.value is not None for probe in probes), "new jobs run")
        for probe in probes:
            if isinstance(probe.value, Exception):
                self._fail(f"a new job fails: {probe.value}")

    def _nothing_left(self) -> None:
        broker = self.broker
        assert broker is not None
        assert broker.core is not None
        pools = [host.pool for host in self.pools if host.pool is not None]
        try:
            books.nothing_left(self.world, broker.core, pools, self.clients)
            self.world.check(not broker._outboxes, "nothing waits to be sent", broker._outboxes)
        except Exception as problem:
            self.world.explain(problem)
            raise
