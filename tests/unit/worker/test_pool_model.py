"""Whatever happens, in whatever order: each lease that a pool took has one end, and the broker gets it."""

from collections import defaultdict

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from dspymq.protocol import worker_messages as w
from dspymq.protocol.messages import Bye, Ping, Pong
from dspymq.worker.supervisor import effects as ef
from dspymq.worker.supervisor import events as ev
from dspymq.worker.supervisor.executor import Memory
from tests.unit.worker.pool_rig import WELCOME, Rig, error

SLOTS = 3
PICK = st.integers(0, 1_000_000)


class PlayedExecutor:
    """What the test's executor knows."""

    def __init__(self) -> None:
        self.is_ready = False
        self.leases: dict[str, bool] = {}  # started?
        self.cancelled: set[str] = set()
        self.had_jobs = 0
        self.alone = False
        self.revision = ""


class PoolMachine(RuleBasedStateMachine):
    """An honest broker, and executors that do anything a process can do."""

    def __init__(self) -> None:
        super().__init__()
        self.rig = Rig(
            processes=2,
            grace_ms=3_000,
            cancel_grace_ms=2_000,
            stall_ms=2_000,
            patient=True,
            max_jobs_per_executor=4,
            max_age_ms=60_000,
            max_rss_bytes=500 << 20,
        )
        self.rig.slots_of = {"default": SLOTS}
        self.executors: dict[str, PlayedExecutor] = {}
        self.killed: set[str] = set()
        self.up = False
        self.synced = False
        self.page: list[str] | None = None
        self.granted = 0
        self.offered = ""
        """The revision that the broker was told last."""
        self.stale = ""
        """The one before, while a dispatch of it may be on its way: until a ping after the change is answered."""
        self.stale_until = 0
        self.unanswered: list[int] = []
        self.counter = 0
        self.live: set[str] = set()
        """Leases whose end the broker waits for."""
        self.ends: dict[str, list[str]] = defaultdict(list)
        self.results: set[str] = set()
        """Received and not yet acked."""
        self.dropped: set[str] = set()
        self.fenced: set[str] = set()
        """Leases that nobody waits for: another session hears nothing of them."""
        self.alone: set[str] = set()
        """Leases that must run alone."""
        self.began: set[str] = set()
        """Leases whose program runs, or has run."""

    # -- the world does what the core says --------------------------------------------------------------------------

    def do(self, event: ev.Event) -> None:
        for effect in self.rig.do(event):
            if isinstance(effect, ef.StartExecutor):
                self.executors[effect.executor] = executor = PlayedExecutor()
                executor.revision = f"r{effect.generation}"
            elif isinstance(effect, ef.EndGeneration):
                revision = f"r{effect.generation}"
                alive = {name for name, one in self.executors.items() if one.revision == revision}
                assert alive <= self.killed, "its fork server takes its executors along"
            elif isinstance(effect, ef.KillExecutor):
                assert effect.executor in self.executors
                self.killed.add(effect.executor)
            elif isinstance(effect, ef.ToExecutor):
                self.told(effect.executor, effect.message)
            elif isinstance(effect, ef.ToBroker):
                assert self.up, "nothing can be sent without a session"
                self.heard(effect.message)

    def told(self, name: str, message: object) -> None:
        executor = self.executors.get(name)
        assert executor is not None, "only those that are there can be told anything"
        if isinstance(message, w.Dispatch):
            assert executor.is_ready
            assert name not in self.killed
            assert message.lease not in executor.leases
            assert message.revision == executor.revision, "it has another version of the program"
            executor.leases[message.lease] = False
            executor.had_jobs += 1
            assert len(executor.leases) <= SLOTS
            if message.lease in self.alone or executor.alone:
                assert executor.had_jobs == 1, "an isolated job shares its process with nobody, before or after"
                executor.alone = True
        elif isinstance(message, w.Cancel):
            executor.cancelled.add(message.lease)
        elif isinstance(message, Bye):
            assert not executor.leases

    def heard(self, message: object) -> None:
        assert getattr(message, "lease", None) not in self.dropped, "of a dropped lease nothing is sent"
        if isinstance(message, w.Ready):
            self.granted = message.slots.get("default", 0)
            revision = message.programs[0].revision if message.programs else ""
            if revision != self.offered:
                self.offered, self.stale, self.stale_until = revision, self.offered, 0
            if message.held is not None:
                assert self.page is None
                self.page = [held.lease for held in message.held]
        elif isinstance(message, Ping):
            self.unanswered.append(message.n)
            self.stale_until = self.stale_until or message.n
        elif isinstance(message, w.Result | w.Released):
            assert self.synced, "no end before synced"
            kind = "result" if isinstance(message, w.Result) else "released"
            if message.lease in self.live:
                self.ends[message.lease].append(kind)
                self.live.discard(message.lease)
            # One that was sent again after an outage must say the same.
            assert set(self.ends[message.lease]) <= {kind}
            assert self.ends[message.lease], "an end of a lease that nobody has"
            if kind == "result":
                self.results.add(message.lease)
        elif isinstance(message, w.Started | w.Chunk | w.Progress):
            assert self.synced

    # -- the broker -------------------------------------------------------------------------------------------------

    @initialize()
    def start(self) -> None:
        self.do(ev.Start())

    @precondition(lambda self: not self.up)
    @rule()
    def session_up(self) -> None:
        self.up = True
        self.live -= self.fenced
        self.results -= self.fenced
        self.dropped |= self.fenced
        self.do(ev.SessionUp(WELCOME))

    @precondition(lambda self: self.up)
    @rule()
    def session_down(self) -> None:
        self.up = self.synced = False
        self.stale = ""
        self.page = None
        self.unanswered = []
        self.do(ev.SessionDown())

    @precondition(lambda self: self.page is not None)
    @rule(pick=PICK)
    def answer_page(self, pick: int) -> None:
        assert self.page is not None
        keep = [lease for lease in self.page if lease in self.live or lease in self.results]
        if keep and pick % 4 == 0:
            dropped = keep.pop(pick % len(keep))
            self.live.discard(dropped)
            self.results.discard(dropped)
            self.dropped.add(dropped)
        missing = {lease for lease in self.live if lease not in self.page}
        self.page = None
        self.synced = bool(self.offered)
        self.live -= missing
        self.do(ev.FromBroker(w.Synced(keep=keep)))
        # What was given back before it began is told by the silence of `held`.
        assert not missing & self.began, f"begun, not ended, and not held: {missing}"
        assert not missing & set(self.rig.core._work.leases), f"kept, and not held: {missing}"

    @precondition(lambda self: self.synced and len(self.live) < self.granted)
    @rule(
        isolate=st.sampled_from([False, False, True]),
        timeout_ms=st.sampled_from([500, 5_000, 100_000]),
        late=st.booleans(),
    )
    def dispatch(self, isolate: bool, timeout_ms: int, late: bool) -> None:
        self.counter += 1
        lease = f"l{self.counter:04}"
        self.live.add(lease)
        if isolate:
            self.alone.add(lease)
        message = w.Dispatch(
            lease=lease,
            ns="a",
            job=lease,
            attempt=1,
            digest="d",
            program="p",
            revision=self.stale if late and self.stale else self.offered,
            timeout_ms=timeout_ms,
            want=["started", "chunks"] if self.counter % 2 else [],
            isolate=isolate,
        )
        self.do(ev.FromBroker(message))

    @precondition(lambda self: self.synced and self.live)
    @rule(pick=PICK, cause=st.sampled_from(["cancel", "deadline", "fenced"]))
    def cancel(self, pick: int, cause: str) -> None:
        lease = sorted(self.live)[pick % len(self.live)]
        if cause == "fenced":
            self.fenced.add(lease)
        self.do(ev.FromBroker(w.Cancel(lease=lease, cause=cause, grace_ms=1_500)))  # type: ignore[arg-type]

    @precondition(lambda self: self.synced and self.results)
    @rule()
    def ack(self) -> None:
        leases = sorted(self.results)
        self.results = set()
        self.do(ev.FromBroker(w.Ack(leases=leases)))

    @precondition(lambda self: self.up and self.unanswered)
    @rule()
    def pong(self) -> None:
        number = self.unanswered.pop(0)
        if self.stale_until and number >= self.stale_until:
            self.stale = ""
        self.do(ev.FromBroker(Pong(n=number)))

    @precondition(lambda self: self.synced)
    @rule(blocked=st.booleans())
    def congested(self, blocked: bool) -> None:
        self.do(ev.Congested(blocked))

    @precondition(lambda self: self.synced)
    @rule()
    def drain(self) -> None:
        self.do(ev.FromBroker(w.Drain(grace_ms=1_000)))

    # -- the executors ----------------------------------------------------------------------------------------------

    def some(self, pick: int, *, ready: bool) -> str | None:
        names = sorted(name for name, executor in self.executors.items() if executor.is_ready is ready)
        return names[pick % len(names)] if names else None

    @rule(pick=PICK)
    def executor_ready(self, pick: int) -> None:
        name = self.some(pick, ready=False)
        if name is not None:
            self.make_ready(name)

    def make_ready(self, name: str) -> None:
        if name not in self.executors or name in self.killed or self.executors[name].is_ready:
            return
        self.executors[name].is_ready = True
        self.do(ev.ExecutorStarted(name, 1))
        offers = [w.Offer(name="p", revision=self.executors[name].revision)]
        self.do(ev.FromExecutor(name, w.Ready(worker=name, slots={"default": SLOTS}, programs=offers)))

    @rule(whole=st.sampled_from([True, True, False]))
    def reload(self, whole: bool) -> None:
        self.do(ev.Reload("test"))
        for _ in range(2 if whole else 0):
            starting = sorted(name for name, executor in self.executors.items() if not executor.is_ready)
            for name in starting:
                self.make_ready(name)

    @rule(pick=PICK)
    def programs_fail(self, pick: int) -> None:
        name = self.some(pick, ready=False)
        if name is not None and name not in self.killed:
            self.do(ev.FromExecutor(name, error("programs_failed")))
            self.die(name, 3)

    @rule(pick=PICK, mib=st.sampled_from([50, 450, 900]))
    def memory_is_measured(self, pick: int, mib: int) -> None:
        name = self.some(pick, ready=True)
        if name is not None:
            self.do(ev.Memory({name: Memory(100 << 20, mib << 20)}))

    @rule(pick=PICK, ready=st.booleans())
    def executor_dies(self, pick: int, ready: bool) -> None:
        name = self.some(pick, ready=ready)
        if name is not None:
            self.die(name)

    def die(self, name: str, code: int = -9) -> None:
        del self.executors[name]
        self.killed.discard(name)
        self.do(ev.ExecutorGone(name, code))
        assert not [e for e in self.rig.effects if isinstance(e, ef.ToExecutor) and e.executor == name]

    @rule(pick=PICK)
    def executor_beats(self, pick: int) -> None:
        name = self.some(pick, ready=True)
        if name is not None:
            self.do(ev.FromExecutor(name, Ping()))

    @rule(pick=PICK)
    def job_moves(self, pick: int) -> None:
        name = self.some(pick, ready=True)
        if name is None or not self.executors[name].leases:
            return
        executor = self.executors[name]
        lease = sorted(executor.leases)[pick % len(executor.leases)]
        if not executor.leases[lease] and pick % 5:
            executor.leases[lease] = True
            self.began.add(lease)
            self.do(ev.FromExecutor(name, w.Started(lease=lease, attempt=1, revision="r", worker=name)))
        elif pick % 3 == 0:
            self.do(ev.FromExecutor(name, w.Chunk(lease=lease, attempt=1, seq=0)))
        else:
            self.finish(name, lease)

    def finish(self, name: str, lease: str) -> None:
        del self.executors[name].leases[lease]
        self.do(ev.FromExecutor(name, w.Result(lease=lease, attempt=1, code="OK")))

    @rule(ms=st.sampled_from([10, 400, 1_600, 6_000]))
    def time_passes(self, ms: int) -> None:
        self.rig.now_ms += ms
        self.do(ev.Tick())

    @invariant()
    def a_tick_is_asked_for_only_for_a_reason_and_never_missed(self) -> None:
        due = self.rig.core.next_ms()
        if self.live and self.executors:
            assert due is not None, "a lease without a timer could hang for ever"

    @invariant()
    def no_more_processes_than_the_work_needs(self) -> None:
        busy = sum(bool(executor.leases) for executor in self.executors.values())
        # Two that serve, two that are worn or come, two for isolated jobs, those that were told to leave or killed.
        ending = sum(one.state.value == "leaving" or one.killed for one in self.rig.core._crew.executors.values())
        retiring = sum(one.state.value == "retiring" for one in self.rig.core._crew.executors.values())
        assert len(self.executors) <= 6 + busy + ending + retiring

    # -- and in the end ---------------------------------------------------------------------------------------------

    def teardown(self) -> None:
        """The broker stays, time passes, executors finish or die: nothing is left."""
        if not self.up:
            self.session_up()
        for _ in range(60):
            if self.page is not None:
                self.answer_page(1)
            for name in list(self.killed):
                self.die(name)
            for name in [name for name, executor in self.executors.items() if not executor.is_ready]:
                self.executor_ready(sorted(n for n, e in self.executors.items() if not e.is_ready).index(name))
            for name, executor in list(self.executors.items()):
                for lease in list(executor.leases):
                    self.finish(name, lease)
            while self.unanswered:
                self.pong()
            if self.results:
                self.ack()
            if self.synced and not self.rig.core.busy:
                break
            self.rig.now_ms += 500
            self.do(ev.Tick())
        assert not self.rig.core.busy
        assert not self.live
        assert all(len(kinds) == 1 for kinds in self.ends.values())


TestPool = PoolMachine.TestCase
TestPool.settings = settings(
    max_examples=150, stateful_step_count=60, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
