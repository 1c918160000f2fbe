"""Who is next: queues kept per (what a worker must offer, flow), so that no queued job is ever scanned.

The flow that holds the fewest slots is served next, ties go to the least recently served (SPEC section 11). Priority
orders a flow's own jobs and buys nobody else's turn; then first in, first out. A dispatch costs the same with 200,000
jobs queued as with none: each need keeps a heap of its flows, whose out-of-date entries are dropped when they surface.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from typing import TYPE_CHECKING, Final, NamedTuple

from dspymq.broker.core.job import Job
from dspymq.protocol import client_messages as c

if TYPE_CHECKING:
    from dspymq.broker.core.workers import Worker

MAX_PRIORITY: Final = 9
ROUTED: Final = frozenset({"chunks", "tools"})
"""What a job may want that not every worker can give."""

IDLE_NEEDS: Final = 1_024
"""Needs without a queued job that are remembered, with the workers that meet them."""


class Need(NamedTuple):
    """What a worker must offer to run a job.

    `prefer` is the revision of an earlier attempt, kept while a worker has it; `avoid` names the (worker, generation)
    pairs that gave the job back.
    """

    program: str
    revision: str | None
    profile: str | None
    lane: str
    features: frozenset[str]
    prefer: str | None = None
    avoid: frozenset[tuple[str, int]] = frozenset()


def need_of(submit: c.Submit) -> Need:
    """What a worker must offer to run this submit: program, revision, profile, lane, and features it wants used."""
    features = ROUTED.intersection(submit.want) if submit.want else frozenset()
    return Need(submit.program, submit.revision, submit.profile, submit.lane, features)


class Flow:
    """One party in the fair share: its slots, when it was last served, and how much it has queued."""

    __slots__ = ("jobs", "name", "queues", "served", "slots", "version")

    def __init__(self, name: str, version: int) -> None:
        self.name = name
        self.slots = 0
        self.served = 0
        self.version = version
        """Changes with the flow's standing, never the same for two flows: tells stale heap entries apart."""
        self.jobs = 0
        """Jobs of this flow that owe a result, queued or not."""
        self.queues: dict[NeedQueue, FlowQueue] = {}


class FlowQueue:
    """The queued jobs of one flow for one need, by priority and then by age."""

    __slots__ = ("_by_priority", "count")

    def __init__(self) -> None:
        self._by_priority: dict[int, OrderedDict[int, Job]] = {}
        self.count = 0

    def add(self, job: Job, *, at_head: bool) -> None:
        """Queue the job; a returned one goes before all others of its priority."""
        queue = self._by_priority.setdefault(job.submit.priority, OrderedDict())
        queue[job.seq] = job
        if at_head:
            queue.move_to_end(job.seq, last=False)
        self.count += 1

    def remove(self, job: Job) -> None:
        """Take the job out, wherever it stands."""
        queue = self._by_priority[job.submit.priority]
        del queue[job.seq]
        if not queue:
            del self._by_priority[job.submit.priority]
        self.count -= 1

    def head(self) -> Job:
        """The job that is next; the queue is not empty."""
        queue = self._by_priority[max(self._by_priority)]
        return next(iter(queue.values()))


class NeedQueue:
    """All queued jobs with one need, and the workers that meet it."""

    __slots__ = ("_heap", "count", "flows", "need", "workers")

    def __init__(self, need: Need) -> None:
        self.need = need
        self.count = 0
        self.flows: dict[Flow, FlowQueue] = {}
        self.workers: dict[str, Worker] = {}
        self._heap: list[tuple[int, int, int, Flow]] = []

    def note(self, flow: Flow) -> None:
        """The flow's standing changed, or it has jobs here now."""
        heapq.heappush(self._heap, (flow.slots, flow.served, flow.version, flow))
        if len(self._heap) > 2 * len(self.flows) + 32:
            self._heap = [(f.slots, f.served, f.version, f) for f in self.flows]
            heapq.heapify(self._heap)

    def first(self) -> Flow | None:
        """The flow whose turn it is among those with jobs here."""
        heap = self._heap
        while heap:
            flow = heap[0][3]
            if heap[0][2] == flow.version and flow in self.flows:
                return flow
            heapq.heappop(heap)
        return None


class Scheduler:
    """The queues of a broker."""

    def __init__(self) -> None:
        self.needs: dict[Need, NeedQueue] = {}
        self.flows: dict[str, Flow] = {}
        self.queued = 0
        self.queued_bytes = 0
        self._services = 0
        self._versions = 0
        self._drop_needs_at = IDLE_NEEDS

    def flow(self, name: str) -> Flow:
        """The flow of this name, made at its first use."""
        flow = self.flows.get(name)
        if flow is None:
            self._versions += 1
            flow = self.flows[name] = Flow(name, self._versions)
        return flow

    def release_flow(self, flow: Flow) -> None:
        """Forget a flow that has no job and no slot left."""
        if not flow.jobs and not flow.slots and not flow.queues:
            self.flows.pop(flow.name, None)

    def queue_for(self, need: Need) -> tuple[NeedQueue, bool]:
        """The queue of this need, and whether it is new (then its workers are still to be found)."""
        queue = self.needs.get(need)
        if queue is not None:
            return queue, False
        if len(self.needs) >= self._drop_needs_at:
            self._drop_idle_needs()
            # Else each new need would look at all of them, when most have jobs.
            self._drop_needs_at = max(IDLE_NEEDS, 2 * len(self.needs))
        queue = self.needs[need] = NeedQueue(need)
        return queue, True

    def add(self, job: Job, queue: NeedQueue, *, at_head: bool) -> None:
        """Queue the job under this need."""
        flow = job.flow
        jobs = queue.flows.get(flow)
        if jobs is None:
            jobs = queue.flows[flow] = flow.queues[queue] = FlowQueue()
            queue.note(flow)
        jobs.add(job, at_head=at_head)
        job.queue = queue
        queue.count += 1
        self.queued += 1
        self.queued_bytes += len(job.body)
        if queue.count == 1:
            for worker in queue.workers.values():
                worker.open[queue] = None

    def remove(self, job: Job) -> None:
        """Take a queued job out: it is dispatched, cancelled or expired."""
        queue = job.queue
        assert queue is not None, "only a queued job can be removed"
        jobs = queue.flows[job.flow]
        jobs.remove(job)
        if not jobs.count:
            del queue.flows[job.flow]
            del job.flow.queues[queue]
        job.queue = None
        queue.count -= 1
        self.queued -= 1
        self.queued_bytes -= len(job.body)
        if not queue.count:
            for worker in queue.workers.values():
                worker.open.pop(queue, None)

    def pick(self, worker: Worker) -> Job | None:
        """The job that this worker should run next, within its free slots; it stays queued."""
        best: Flow | None = None
        for queue in worker.open:
            if worker.free(queue.need.lane) > 0:
                flow = queue.first()
                if flow is not None and (best is None or (flow.slots, flow.served) < (best.slots, best.served)):
                    best = flow
        if best is None:
            return None
        heads = [
            jobs.head()
            for queue, jobs in best.queues.items()
            if queue in worker.open and worker.free(queue.need.lane) > 0
        ]
        return min(heads, key=lambda job: (-job.submit.priority, job.seq))

    def took_slot(self, flow: Flow) -> None:
        """The flow got a slot."""
        self._services += 1
        flow.served = self._services
        self._stand(flow, 1)

    def gave_slot(self, flow: Flow) -> None:
        """The flow's slot is free again."""
        self._stand(flow, -1)

    def move_slot(self, before: Flow, after: Flow) -> None:
        """A slot that one flow held is another's now."""
        self._stand(before, -1)
        self._stand(after, 1)

    def _stand(self, flow: Flow, change: int) -> None:
        flow.slots += change
        self._versions += 1
        flow.version = self._versions
        for queue in flow.queues:
            queue.note(flow)

    def _drop_idle_needs(self) -> None:
        # A queue without jobs stands in no worker's `open`, so nothing else refers to it.
        for need in [need for need, queue in self.needs.items() if not queue.count]:
            del self.needs[need]
