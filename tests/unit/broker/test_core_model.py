"""The core against everything at once: clients, workers, losses, duplicates, late answers, races, time.

After every step no job is lost or ended twice, slots are not exceeded, and what is kept of finished jobs is bounded;
at the end everything is answered. Each result's body is the lease it ran under, so a result under an old lease that
got through would show.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from dspymq.broker.core import events as ev
from dspymq.broker.core.table import LEASED, LIVE, State
from dspymq.protocol import client_messages as c
from dspymq.protocol import worker_messages as w
from dspymq.protocol.messages import Bye, Error, Header
from tests.unit.broker.harness import CoreHarness, held, ready

PROGRAMS = ("p1", "p2")
CLIENTS = ("alice", "bob", "carol")
WORKERS = ("w1", "w2", "w3")
TERMINAL_REFUSALS = {"result_gone", "id_conflict"}

pick = st.integers(0, 1_000_000)


@dataclass
class ModelJob:
    submit: c.Submit
    body: bytes
    owner: str
    refused: bool = False
    leases: list[str] = field(default_factory=list)
    terminal: tuple[c.Result, bytes] | None = None
    cancelled: bool = False
    epoch: str = ""
    """Under which it was last sent."""
    attempt: int = 0
    """The last one that this broker dispatched."""


@dataclass
class ModelWorker:
    peer: bytes
    slots: int
    dispatches: list[w.Dispatch] = field(default_factory=list)
    """What this worker believes it has."""


class BrokerMachine(RuleBasedStateMachine):
    @initialize()
    def start(self) -> None:
        self.h = CoreHarness(retain_bytes=400, tombstones=8, orphan_ms=20_000, retain_ms=30_000, grace_ms=2_000)
        self.peers: dict[str, bytes] = {}
        self.owners: dict[bytes, str] = {}
        self.workers: dict[str, ModelWorker] = {}
        self.jobs: dict[str, ModelJob] = {}
        self.history: list[tuple[str, w.Dispatch]] = []
        self.serial = 0

    # -- what comes back --------------------------------------------------------------------------------------------

    def collect(self) -> None:
        log, self.h.log = self.h.log, []
        self.h.sent.clear()
        for peer, message, body in log:
            self.arrived(peer, message, body)

    def arrived(self, peer: bytes, message: Header, body: bytes) -> None:
        if isinstance(message, w.Dispatch):
            self.dispatched(peer, message)
        elif isinstance(message, c.Result):
            self.answered(message, body)
        elif isinstance(message, Error) and message.job in self.jobs and message.reason == "queue_full":
            self.jobs[message.job].refused = True
        elif isinstance(message, w.Cancel):
            known = [d for _, d in self.history if d.lease == message.lease]
            assert known, "a cancel names a lease that was dispatched"

    def dispatched(self, peer: bytes, dispatch: w.Dispatch) -> None:
        job = self.jobs[dispatch.job]
        assert job.terminal is None, "a finished job never runs again"
        assert dispatch.attempt > job.attempt, "attempts count up, one a lease"
        assert not job.leases or dispatch.lease > job.leases[-1]
        job.attempt = dispatch.attempt
        assert dispatch.timeout_ms > 0
        job.leases.append(dispatch.lease)
        name = next(name for name, worker in self.workers.items() if worker.peer == peer)
        worker = self.workers[name]
        worker.dispatches.append(dispatch)
        self.history.append((name, dispatch))
        assert len(worker.dispatches) <= worker.slots, "slots are never exceeded"

    def answered(self, result: c.Result, body: bytes) -> None:
        job = self.jobs[result.job]
        if job.terminal is None:
            if result.code == "OK":
                # After a restart an earlier lease may have been adopted.
                current = job.leases if self.h.epochs else job.leases[-1:]
                assert body.decode() in current, "only the current lease ends a job"
            if result.code == "CANCELLED" and result.reason == "cancelled":
                assert job.cancelled, "nobody cancelled this job"
            job.terminal = (result, body)
        else:
            assert job.terminal == (result, body), "a result never changes"

    # -- clients ----------------------------------------------------------------------------------------------------

    @rule(name=st.sampled_from(CLIENTS))
    def client_joins(self, name: str) -> None:
        if name in self.peers:
            return
        self.serial += 1
        peer = b"c%d" % self.serial
        self.peers[name] = peer
        self.h.join_client(peer, name)
        for job in self.jobs.values():
            if job.owner == name and job.terminal is None and not job.refused:
                self.send_again(peer, job)
        self.collect()

    def send_again(self, peer: bytes, job: ModelJob) -> None:
        again = msgspec.structs.replace(job.submit, known_epoch=job.epoch)
        job.epoch = self.h.core.context.epoch
        self.h.client(peer, again, job.body)

    @precondition(lambda self: self.peers)
    @rule(
        which=pick,
        program=st.sampled_from(PROGRAMS),
        timeout_ms=st.sampled_from([500, 5_000, 60_000, 600_000]),
        priority=st.integers(0, 9),
        keep=st.booleans(),
        redeliver=st.booleans(),
    )
    def submit(self, which: int, program: str, timeout_ms: int, priority: int, keep: bool, redeliver: bool) -> None:
        name = sorted(self.peers)[which % len(self.peers)]
        job_id = f"job{len(self.jobs)}"
        submit = c.Submit(
            job=job_id,
            program=program,
            timeout_ms=timeout_ms,
            priority=priority,
            on_disconnect="keep" if keep else "cancel",
            redeliver=redeliver,
        )
        self.jobs[job_id] = ModelJob(submit, b"body", name, epoch=self.h.core.context.epoch)
        self.h.client(self.peers[name], submit, b"body")
        if self.has_error(self.peers[name], job_id):
            self.jobs[job_id].refused = True
        self.collect()

    def has_error(self, peer: bytes, job_id: str) -> bool:
        return any(isinstance(m, Error) and m.job == job_id for m, _ in self.h.sent.get(peer, []))

    @precondition(lambda self: self.peers and self.jobs)
    @rule(which=pick, other=st.booleans())
    def submit_again(self, which: int, other: bool) -> None:
        job = list(self.jobs.values())[which % len(self.jobs)]
        peer = self.peers.get(job.owner)
        told = job.epoch == self.h.core.context.epoch
        # A restarted broker keeps nothing of what has ended: asked again, it would run it again.
        if peer is not None and not job.refused and told:
            self.h.client(peer, job.submit, b"other" if other else job.body)
            if other:
                refusals = [m.reason for m, _ in self.h.sent[peer] if isinstance(m, Error)]
                assert refusals, "another content is refused"
                assert set(refusals) <= {"id_conflict"}
            self.collect()

    @precondition(lambda self: self.peers and self.jobs)
    @rule(which=pick)
    def cancel(self, which: int) -> None:
        job_id = list(self.jobs)[which % len(self.jobs)]
        job = self.jobs[job_id]
        peer = self.peers.get(job.owner)
        if peer is not None:
            job.cancelled = True
            self.h.client(peer, c.Cancel(job=job_id))
            self.collect()

    @precondition(lambda self: self.peers and self.jobs)
    @rule(which=pick)
    def ack(self, which: int) -> None:
        job_id = list(self.jobs)[which % len(self.jobs)]
        peer = self.peers.get(self.jobs[job_id].owner)
        if peer is not None:
            self.h.client(peer, c.Ack(jobs=[job_id, "unknown"]))
            self.collect()

    @precondition(lambda self: self.peers)
    @rule(which=pick, bye=st.booleans())
    def client_leaves(self, which: int, bye: bool) -> None:
        name = sorted(self.peers)[which % len(self.peers)]
        peer = self.peers.pop(name)
        if bye:
            self.h.client(peer, Bye())
        else:
            self.h.event(ev.ClientUnreachable(peer))
        self.collect()

    # -- workers ----------------------------------------------------------------------------------------------------

    @rule(name=st.sampled_from(WORKERS), slots=st.integers(0, 3), loses=pick)
    def worker_joins_or_reconnects(self, name: str, slots: int, loses: int) -> None:
        """A reconnecting worker may have missed some dispatches; it holds at most its slots."""
        self.serial += 1
        peer = b"w%d" % self.serial
        known = self.workers.get(name)
        dispatches = [d for n, d in enumerate(known.dispatches if known else []) if not loses >> n & 1]
        slots = max(slots, len(dispatches))
        self.workers[name] = ModelWorker(peer, slots)
        page = [held(d) for d in dispatches]
        self.h.join_worker(peer, name, slots=slots, programs=PROGRAMS, held=page)
        kept = {lease for m, _ in self.h.sent[peer] if isinstance(m, w.Synced) for lease in m.keep}
        self.workers[name].dispatches = [d for d in dispatches if d.lease in kept]
        self.collect()

    def a_dispatch(self, which: int) -> tuple[str, w.Dispatch] | None:
        """Any dispatch there ever was, preferably a recent one, current or not."""
        recent = self.history[-8:]
        return recent[which % len(recent)] if recent else None

    def say(self, name: str, message: w.Message, body: bytes = b"") -> None:
        worker = self.workers[name]
        self.h.worker(worker.peer, message, body)

    @precondition(lambda self: self.history)
    @rule(which=pick, what=st.sampled_from(["started", "chunk"]))
    def worker_speaks(self, which: int, what: str) -> None:
        name, dispatch = self.a_dispatch(which) or ("", None)
        assert dispatch is not None
        if what == "started":
            self.say(name, w.Started(lease=dispatch.lease, attempt=dispatch.attempt, revision="r1", worker="x"))
        else:
            self.say(name, w.Chunk(lease=dispatch.lease, attempt=dispatch.attempt, seq=0), b"t")
        self.collect()

    @precondition(lambda self: self.history)
    @rule(which=pick, code=st.sampled_from(["OK", "OK", "UNKNOWN", "CANCELLED"]), twice=st.booleans())
    def worker_answers(self, which: int, code: str, twice: bool) -> None:
        name, dispatch = self.a_dispatch(which) or ("", None)
        assert dispatch is not None
        worker = self.workers[name]
        worker.dispatches = [d for d in worker.dispatches if d.lease != dispatch.lease]
        reason = "by the worker" if code != "OK" else None
        result = w.Result(lease=dispatch.lease, attempt=dispatch.attempt, code=code, reason=reason)
        for _ in range(2 if twice else 1):
            self.say(name, result, dispatch.lease.encode() if code == "OK" else b"")
        self.collect()

    @precondition(lambda self: self.history)
    @rule(
        which=pick,
        started=st.booleans(),
        cause=st.sampled_from(["drain", "crash", "stall", "capacity"]),
        blame=st.sampled_from(["self", "shared", "none"]),
    )
    def worker_gives_back(self, which: int, started: bool, cause: str, blame: str) -> None:
        name, dispatch = self.a_dispatch(which) or ("", None)
        assert dispatch is not None
        worker = self.workers[name]
        worker.dispatches = [d for d in worker.dispatches if d.lease != dispatch.lease]
        released = w.Released(lease=dispatch.lease, started=started, cause=cause, blame=blame)  # type: ignore[arg-type]
        self.say(name, released)
        self.collect()

    @precondition(lambda self: self.workers)
    @rule(which=pick, slots=st.integers(0, 3))
    def worker_is_ready_again(self, which: int, slots: int) -> None:
        name = sorted(self.workers)[which % len(self.workers)]
        worker = self.workers[name]
        worker.slots = max(slots, len(worker.dispatches))
        self.say(name, ready(name, worker.slots, PROGRAMS))
        self.collect()

    @rule(order=st.permutations([*CLIENTS, *WORKERS]))
    def broker_restarts(self, order: list[str]) -> None:
        """All come back at once, in any order: no job that a worker still has is run again."""
        self.h.restart()
        clients, self.peers = self.peers, {}
        survivors: dict[str, str] = {}
        for worker in self.workers.values():
            for dispatch in worker.dispatches:
                survivors[dispatch.job] = max(dispatch.lease, survivors.get(dispatch.job, ""))
        for job in self.jobs.values():
            job.attempt = 0
        for name in order:
            if name in clients:
                self.client_joins(name)
            elif name in self.workers:
                self.worker_joins_or_reconnects(name, self.workers[name].slots, 0)
        again = {d.job for worker in self.workers.values() for d in worker.dispatches if d.lease not in self.old}
        assert not again & survivors.keys(), "a job whose worker survived is not run again"

    @property
    def old(self) -> set[str]:
        """Leases of earlier brokers."""
        return {d.lease for _, d in self.history if not d.lease.startswith(self.h.core.context.epoch)}

    # -- time -------------------------------------------------------------------------------------------------------

    @rule(ms=st.sampled_from([20, 400, 2_500, 7_000, 40_000]), deaf=pick)
    def time_passes(self, ms: int, deaf: int) -> None:
        """Some workers stay silent meanwhile; they are lost after dead_ms, and learn it when they next speak."""
        names = sorted(self.workers)
        heard = [self.workers[name].peer for n, name in enumerate(names) if not deaf >> n & 1]
        self.h.wait(ms, heard=(*heard, *self.peers.values()))
        self.collect()

    # -- what always holds ------------------------------------------------------------------------------------------

    @invariant()
    def the_books_agree(self) -> None:
        if not hasattr(self, "h"):
            return
        core = self.h.core
        live = [job for job in core.store.jobs.values() if job.state in LIVE]
        queued = [job for job in live if job.state is State.QUEUED]
        assert core.store.live == len(live)
        waiting = [job for job in queued if job.queue is not None]
        assert len(queued) == len(waiting) + len(core.machine.parked)
        assert core.scheduler.queued == len(waiting) == sum(queue.count for queue in core.scheduler.needs.values())
        assert core.scheduler.queued_bytes == sum(len(job.body) for job in waiting)
        for job in live:
            if job.state is State.QUEUED:
                assert job.lease is None
            else:
                assert job.state in LEASED
                assert job.lease is not None
                assert job.lease.worker.leases[job.lease.lease] is job.lease
            assert job in core.machine.timers._bucket_of, "a live job has a deadline or a grace"
        leases = [lease for worker in core.fleet.workers.values() for lease in worker.leases.values()]
        for worker in core.fleet.workers.values():
            assert sum(worker.used.values()) == len(worker.leases)
        for flow in core.scheduler.flows.values():
            assert flow.slots == sum(lease.flow is flow for lease in leases)
            assert flow.jobs == sum(job.flow is flow for job in live)

    @invariant()
    def finished_jobs_are_bounded(self) -> None:
        if not hasattr(self, "h"):
            return
        core = self.h.core
        assert core.store.done_bytes <= 400
        assert core.store.done_bytes == sum(len(job.result_body) + len(job.body) for job in core.store.done.values())
        assert len(core.store.tombstones) <= 8
        assert len(core.store.jobs) == core.store.live + len(core.store.done)
        assert len(core.machine.timers) <= len(core.store.jobs)
        assert len(core.machine.orphans) <= core.store.live
        for session in core.context.clients.values():
            assert all(job.client is session for job in session.jobs)
        for name, model in self.jobs.items():
            # Whoever is away tells a restarted broker of his jobs when he is back.
            told = model.owner in self.peers or model.epoch == core.context.epoch
            if model.terminal is None and not model.refused and told:
                assert ("anonymous", name) in core.store.jobs or ("anonymous", name) in core.store.tombstones, (
                    f"{name} is lost"
                )

    def teardown(self) -> None:
        if not hasattr(self, "h"):
            return
        for name in CLIENTS:
            self.client_joins(name)
        self.worker_joins_or_reconnects("w1", 3, 0)
        for _ in range(200):
            open_now = list(self.workers["w1"].dispatches)
            for dispatch in open_now:
                self.workers["w1"].dispatches.remove(dispatch)
                result = w.Result(lease=dispatch.lease, attempt=dispatch.attempt, code="OK")
                self.say("w1", result, dispatch.lease.encode())
                self.collect()
            self.h.wait(1_000, heard=(self.workers["w1"].peer, *self.peers.values()))
            self.say("w1", ready("w1", 3, PROGRAMS))
            self.collect()
            if not self.h.core.store.live:
                break
        assert self.h.core.store.live == 0, "everything is answered in the end"
        # The workers that stayed silent are lost by now, or soon.
        self.h.wait(5_000, heard=(self.workers["w1"].peer,))
        leases = [lease for worker in self.h.core.fleet.workers.values() for lease in worker.leases.values()]
        assert not leases, "every slot is free in the end"
        assert self.h.core.scheduler.queued == 0
        for name, job in self.jobs.items():
            gone = ("anonymous", name) not in self.h.core.store.jobs
            assert job.refused or job.terminal is not None or gone, f"{name} was never answered"


BrokerMachine.TestCase.settings = settings(
    max_examples=150,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
TestBrokerModel = BrokerMachine.TestCase
