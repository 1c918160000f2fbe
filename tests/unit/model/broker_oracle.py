"""What must hold at a broker's edge: an account of its own of leases, slots, reports and results, checked per event.

It sees what comes in and goes out, and keeps its own books of that; of the core's it looks at a job's state before a
report is answered, and at who is queued when a job is dispatched.
"""

from __future__ import annotations

from collections import Counter, defaultdict

from dspymq.broker.core import BrokerCore
from dspymq.broker.core import events as ev
from dspymq.broker.core.effects import Effect, ToClient, ToWorker
from dspymq.broker.core.job import Job
from dspymq.broker.core.table import State
from dspymq.protocol import client_messages as c
from dspymq.protocol import worker_messages as w
from dspymq.protocol.messages import Bye
from tests.unit.model.fairness import watch_dispatches
from tests.unit.model.ledger import Ledger
from tests.unit.model.world import World


class Entry:
    """A lease that a worker has, as far as this broker was told."""

    def __init__(self, lease: str, job: str, worker: str, lane: str) -> None:
        self.lease = lease
        self.job = job
        self.worker = worker
        self.lane = lane
        self.fenced = False


class Page:
    """What becomes of a page of `held`, worked out before it is handled (SPEC R-6.14 and R-8.5)."""

    def __init__(self, core: BrokerCore, worker: str, held: list[w.Held], given_back: dict[str, set[str]]) -> None:
        self.keep: list[str] = []
        self.adopted: list[w.Held] = []
        known = core.fleet.workers.get(worker)
        leases = known.leases if known is not None else {}
        states: dict[tuple[str, str], tuple[State | None, str, str]] = {}
        for one in held:
            key = (one.ns, one.job)
            if key not in states:
                job = core.store.jobs.get(key)
                state = State.GONE if key in core.store.tombstones else None
                current = ""
                if job is not None:
                    state = job.state
                    current = job.lease.lease if job.lease is not None else ""
                states[key] = (state, job.digest.hex() if job is not None else one.digest, current)
            if one.lease in leases:
                if leases[one.lease].current:
                    self.keep.append(one.lease)
                continue
            state, digest, current = states[key]
            if one.lease in given_back[one.job]:
                continue
            waits = state in (None, State.QUEUED)
            runs_older = state in (State.DISPATCHED, State.RUNNING) and one.lease > current
            if digest == one.digest and (waits or runs_older):
                self.keep.append(one.lease)
                self.adopted.append(one)
                states[key] = (State.RUNNING, digest, one.lease)


class BrokerOracle:
    """One life of a broker."""

    def __init__(self, world: World, core: BrokerCore, ledger: Ledger) -> None:
        self._world = world
        self._core = core
        self._ledger = ledger
        self._settings = core.settings
        self._entries: dict[str, Entry] = {}
        self._last_lease = ""
        self._attempts: dict[str, int] = {}
        self._first_ms: dict[str, int] = {}
        """When a submit of a job first came."""
        self._was_elsewhere: set[str] = set()
        """Jobs that an earlier broker had been sent."""
        self._was_adopted: set[str] = set()
        self._slots: dict[str, dict[str, int]] = {}
        self._readies: Counter[str] = Counter()
        self._heard_ms: dict[str, int] = {}
        self._names: dict[bytes, str] = {}
        self._synced: set[bytes] = set()
        self._pages: dict[bytes, Page] = {}
        self._kept: dict[str, set[str]] = defaultdict(set)
        self._isolated: set[str] = set()
        self._convicted: Counter[str] = Counter()
        self._avoids: dict[str, set[tuple[str, int]]] = defaultdict(set)
        self._given_back: dict[str, set[str]] = defaultdict(set)
        self._settled: dict[str, tuple[c.Result, bytes]] = {}
        self._settled_ms: dict[str, int] = {}
        self._settled_turn: dict[str, int] = {}
        self._turn = 0
        self._ended: set[str] = set()
        """Leases whose result has come in."""
        self._acked: set[str] = set()
        """Jobs that the message at hand may make the broker forget."""
        self._event: ev.Event | None = None
        self._watch_store()
        watch_dispatches(world, core)

    def life_over(self) -> None:
        """The broker dies: results that it had taken over die with it."""
        for lease in self._ended:
            self._ledger.excuse(lease, "its result died with a broker")

    # -- in ---------------------------------------------------------------------------------------------------------

    def before(self, event: ev.Event) -> None:
        """An event is about to be handled."""
        self._event = event
        self._turn += 1
        self._acked = set()
        if isinstance(event, ev.ClientMessage):
            self._from_client(event)
        elif isinstance(event, ev.WorkerMessage):
            self._from_worker(event)
        elif isinstance(event, ev.Stalled):
            self._heard_ms = dict.fromkeys(self._heard_ms, self._world.now_ms)
            # Nobody could report anything meanwhile, unless he came when the sockets were read just now.
            now_ms = self._world.now_ms
            self._first_ms = {job: min(at_ms + event.for_ms, now_ms) for job, at_ms in self._first_ms.items()}

    def _from_client(self, event: ev.ClientMessage) -> None:
        session = self._core.context.clients.get(event.peer)
        message = event.message
        if session is None:
            return
        if isinstance(message, c.Submit):
            epoch = self._core.context.epoch
            if message.job not in self._first_ms:
                self._first_ms[message.job] = self._world.now_ms
                if self._ledger.submitted_to[message.job] - {epoch}:
                    self._was_elsewhere.add(message.job)
            self._ledger.submitted_to[message.job].add(epoch)
        elif isinstance(message, c.Ack):
            for job_id in message.jobs:
                job = self._core.store.jobs.get((session.principal, job_id))
                if job is not None and job.client in (session, None) and job.state is State.DONE:
                    self._acked.add(job_id)

    def _from_worker(self, event: ev.WorkerMessage) -> None:
        session = self._core.context.workers.get(event.peer)
        message = event.message
        if session is None:
            return
        if isinstance(message, w.Ready):
            self._ready(event.peer, session.worker is None, message)
        if session.worker is None:
            return
        name = session.worker.name
        self._heard_ms[name] = self._world.now_ms
        entry = self._entries.get(getattr(message, "lease", ""))
        if entry is None or entry.worker != name or not isinstance(message, w.Result | w.Released):
            return
        del self._entries[entry.lease]
        if isinstance(message, w.Result):
            self._ended.add(entry.lease)
        elif not entry.fenced:
            self._given_back[entry.job].add(entry.lease)
            self._gives_back(entry, message)

    def _gives_back(self, entry: Entry, message: w.Released) -> None:
        if message.blame != "none" and message.started:
            self._isolated.add(entry.job)
            self._convicted[entry.job] += message.blame == "self"
        job = self._core.store.jobs.get(("anonymous", entry.job))
        if not message.started and job is not None and job.state is State.DISPATCHED:
            self._avoids[entry.job].add((entry.worker, self._readies[entry.worker]))

    def _ready(self, peer: bytes, first: bool, message: w.Ready) -> None:
        name = self._names[peer] = message.worker
        self._readies[name] += 1
        self._slots[name] = message.slots
        self._heard_ms[name] = self._world.now_ms
        if first:
            self._kept[name] = set()
        if first or message.held is not None:
            self._synced.discard(peer)
            self._pages[peer] = Page(self._core, name, message.held or [], self._given_back)

    def handled(self, event: ev.Event) -> None:
        """The event was handled, its effects are still to be seen: who was lost may be."""
        workers = self._core.fleet.workers
        for name in [name for name in self._heard_ms if name not in workers]:
            silent_ms = self._world.now_ms - self._heard_ms.pop(name)
            said_bye = isinstance(event, ev.WorkerMessage) and isinstance(event.message, Bye)
            enough = silent_ms >= self._settings.worker_dead_ms
            self._world.check(said_bye or enough, f"{name} is lost after {silent_ms} ms of silence")
            for entry in [entry for entry in self._entries.values() if entry.worker == name]:
                del self._entries[entry.lease]

    # -- out --------------------------------------------------------------------------------------------------------

    def sees(self, event: ev.Event, effect: Effect) -> None:
        """The core wants something done."""
        if isinstance(effect, ToClient):
            if isinstance(effect.message, c.Result):
                known = self._settled.get(effect.message.job)
                same = known == (effect.message, effect.body)
                self._world.check(same, "a result is what it was", known, effect.message)
        elif isinstance(effect, ToWorker):
            self._to_worker(event, effect)

    def _to_worker(self, event: ev.Event, effect: ToWorker) -> None:
        message = effect.message
        if isinstance(message, w.Synced):
            self._answer(event, effect.peer, message)
        elif isinstance(message, w.Dispatch):
            self._dispatch(effect.peer, message)
        elif isinstance(message, w.Ack):
            for lease in message.leases:
                entry = self._entries.get(lease)
                self._world.check(entry is None, "what is acknowledged has come in", lease)
        elif isinstance(message, w.Cancel) and message.cause == "fenced" and message.lease in self._entries:
            self._entries[message.lease].fenced = True

    def _answer(self, event: ev.Event, peer: bytes, message: w.Synced) -> None:
        page = self._pages.pop(peer, None)
        assert isinstance(event, ev.WorkerMessage)
        assert isinstance(event.message, w.Ready)
        self._world.check(page is not None, "synced answers a page", message)
        if page is None:
            return
        name = event.message.worker
        self._world.check(message.keep == page.keep, "of a page is kept what has to be", page.keep, message)
        for held in page.adopted:
            for other in self._of_job(held.job):
                other.fenced = True
            self._entries[held.lease] = Entry(held.lease, held.job, name, held.lane)
            newest = self._attempts.get(held.job, 0)
            if held.attempt < newest:
                self._ledger.stepped_back.add(held.job)
            self._attempts[held.job] = max(held.attempt, newest)
            self._was_adopted.add(held.job)
        self._kept[name] |= set(message.keep)
        if event.message.more:
            return
        self._synced.add(peer)
        for entry in [entry for entry in self._entries.values() if entry.worker == name]:
            if entry.lease not in self._kept[name]:
                del self._entries[entry.lease]

    def _of_job(self, job: str) -> list[Entry]:
        return [entry for entry in self._entries.values() if entry.job == job and not entry.fenced]

    def _dispatch(self, peer: bytes, message: w.Dispatch) -> None:
        world, job = self._world, message.job
        name = self._names[peer]
        world.check(peer in self._synced, "nothing is dispatched before synced", message)
        world.check(message.lease > self._last_lease, "leases count up", message)
        world.check(message.attempt > self._attempts.get(job, 0), "attempts count up", message)
        world.check(message.timeout_ms > 0, "what is dispatched has time left", message)
        # One that a lost worker had may go on to another and end within one turn.
        world.check(self._settled_turn.get(job, self._turn) == self._turn, "a finished job does not run", message)
        others = [entry.lease for entry in self._of_job(job)]
        world.check(not others, "one attempt of a job at a time", message, others)
        used = sum(entry.worker == name and entry.lane == message.lane for entry in self._entries.values())
        world.check(used < self._slots[name].get(message.lane, 0), "slots are not exceeded", message, used)
        world.check(message.isolate == (job in self._isolated), "who was blamed runs alone", message)
        world.check(
            self._convicted[job] < self._settings.max_convictions, "who was convicted twice does not run", message
        )
        avoided = (name, self._readies[name]) in self._avoids[job]
        world.check(not avoided, "a job avoids who gave it back, until that says ready again", message)
        if job in self._was_elsewhere and job not in self._was_adopted:
            waited_ms = world.now_ms - self._first_ms[job]
            enough = waited_ms >= self._settings.adopt_ms
            world.check(enough, "what an earlier broker had may still be reported", message, waited_ms)
        self._ledger.dispatched(message.lease)
        self._last_lease = message.lease
        self._attempts[job] = message.attempt
        if name in self._heard_ms:
            # Else the worker was lost in the same turn.
            self._entries[message.lease] = Entry(message.lease, job, name, message.lane)

    def _watch_store(self) -> None:
        store = self._core.store
        settle, forget, vanish = store.settle, store.forget, store.vanish

        def settled(job: Job) -> None:
            self._world.check(job.job_id not in self._settled, "a job has one end", job.job_id)
            assert job.result is not None
            self._settled[job.job_id] = (job.result, job.result_body)
            self._settled_ms[job.job_id] = self._world.now_ms
            self._settled_turn[job.job_id] = self._turn
            self._check_end(job.result)
            settle(job)

        def forgotten(job: Job) -> None:
            over = self._world.now_ms - self._settled_ms[job.job_id] >= self._settings.retain_ms
            full = store.done_bytes > self._settings.retain_bytes
            world, job_id = self._world, job.job_id
            world.check(job_id in self._acked or over or full, f"the result of {job_id} is forgotten", self._event)
            forget(job)

        def vanished(job: Job) -> None:
            """Nobody had asked for it; whoever does later begins anew."""
            self._world.check(not job.inputs_known and job.client is None, "only what nobody asked for vanishes")
            for known in (self._attempts, self._convicted, self._avoids, self._given_back):
                known.pop(job.job_id, None)
            self._isolated.discard(job.job_id)
            vanish(job)

        store.vanish = vanished  # type: ignore[method-assign]
        store.settle = settled  # type: ignore[method-assign]
        store.forget = forgotten  # type: ignore[method-assign]

    def _check_end(self, result: c.Result) -> None:
        world = self._world
        if result.attempt == 0:
            world.check(not result.chunks and result.revision is None, "what never ran has no chunks", result)
        if result.code == "OK":
            current = isinstance(self._event, ev.WorkerMessage) and isinstance(self._event.message, w.Result)
            world.check(current, "only a worker's result is OK", result)
