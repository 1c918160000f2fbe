"""Jobs that outlive their broker (SPEC section 8): what a worker still holds of them is adopted, not run again.

Whoever comes back first, worker or client, no job whose worker survived is run a second time: a client's job waits
for `adopt_ms` for a worker that reports it, and a worker's job waits for `orphan_ms` for a client that asks for it.
"""

from __future__ import annotations

from typing import Final

from dspymq.broker.core import job as ends
from dspymq.broker.core.bounds import Bounds
from dspymq.broker.core.context import Context
from dspymq.broker.core.job import Job, JobKey, Lease
from dspymq.broker.core.jobs import JobMachine
from dspymq.broker.core.scheduler import Scheduler, need_of
from dspymq.broker.core.sessions import ClientSession
from dspymq.broker.core.store import DIGEST_BYTES, JobStore
from dspymq.broker.core.table import LIVE, Action, JobEvent, State
from dspymq.broker.core.workers import Fleet, Worker
from dspymq.protocol import client_messages as c
from dspymq.protocol import worker_messages as w

UNCLAIMED: Final = "_unclaimed"
"""The flow and the program's name of jobs that a worker holds and no client has asked for yet."""


class Adoption:
    """Brings jobs and the workers that hold them together again."""

    def __init__(
        self,
        context: Context,
        store: JobStore,
        scheduler: Scheduler,
        fleet: Fleet,
        machine: JobMachine,
        bounds: Bounds,
    ) -> None:
        self._context = context
        self._settings = context.settings
        self._store = store
        self._scheduler = scheduler
        self._fleet = fleet
        self._machine = machine
        self._bounds = bounds

    def park(self, job: Job) -> None:
        """The job was sent to another broker before: give the worker that may have it time to say so."""
        job.adopt_until_ms = self._context.now_ms + self._settings.adopt_ms
        self._machine.parked.set(job, job.adopt_until_ms)

    def adopt(self, worker: Worker, held: w.Held) -> Lease | None:
        """HELD under a lease that this broker does not know. The lease if the worker shall go on with it.

        A job that waits is adopted if the digests agree. Of several holders the greatest lease wins. A job that no
        client has asked for yet is kept, without its inputs, for `orphan_ms`.
        """
        key = (held.ns, held.job)
        digest = _digest_bytes(held.digest)
        job = self._store.jobs.get(key)
        if job is None:
            if key in self._store.tombstones or digest is None or self._bounds.full(UNCLAIMED, 0) is not None:
                return None
            job = self._unclaimed(key, digest, held)
        elif job.digest != digest or not self._yields_to(job, held):
            return None
        elif job.lease is not None:
            self._machine.fence(job.lease)
        else:
            self._machine.dequeue(job)
        return self._hold(job, worker, held)

    def _yields_to(self, job: Job, held: w.Held) -> bool:
        if self._machine.action(job, JobEvent.HELD) is not Action.ADOPT or held.lease in job.given_back:
            return False
        return job.lease is None or held.lease > job.lease.lease

    def claim(self, job: Job, session: ClientSession, submit: c.Submit, body: bytes) -> None:
        """The inputs of an adopted job are here: it belongs to this session's flow and may run again if it must."""
        before, after = job.flow, self._scheduler.flow(session.flow_name)
        job.submit = submit
        job.inputs_known = True
        if job.state in LIVE:
            job.body = body
            self._store.resize(job)
            job.deadline_ms = self._context.now_ms + submit.timeout_ms
            if job.state is not State.CANCELLING:
                self._machine.timers.set(job, job.deadline_ms)
            if submit.known_epoch not in (None, self._context.epoch):
                # What was reported may be an older attempt than another worker still has.
                job.adopt_until_ms = self._context.now_ms + self._settings.adopt_ms
            before.jobs -= 1
            after.jobs += 1
            if job.lease is not None:
                self._scheduler.move_slot(before, after)
                job.lease.flow = after
            job.flow = after
            self._scheduler.release_flow(before)
        else:
            self._store.keep_inputs(job, body)

    def tick(self) -> None:
        """Jobs that nobody reported in time are run, if they may run at all."""
        for job in self._machine.parked.due(self._context.now_ms):
            self._not_adopted(job)

    def _not_adopted(self, job: Job) -> None:
        need = need_of(job.submit)
        if not job.submit.redeliver:
            self._machine.end(job, ends.WORKER_LOST)
        elif self._fleet.is_unknown(need.program):
            self._machine.end(job, ends.UNKNOWN_PROGRAM)
        elif job.submit.fail_fast and self._fleet.missing(need):
            self._machine.end(job, ends.NO_WORKER)
        else:
            self._machine.queue(job, need._replace(prefer=job.prefer, avoid=job.avoid))

    def _unclaimed(self, key: JobKey, digest: bytes, held: w.Held) -> Job:
        """A job as its worker reports it: no inputs, no client, kept for orphan_ms."""
        now_ms = self._context.now_ms
        submit = c.Submit(job=held.job, program=UNCLAIMED, timeout_ms=max(held.left_ms, 1), redeliver=False)
        job = Job(key, submit, b"", digest, self._scheduler.flow(UNCLAIMED), self._machine.next_seq(), now_ms)
        job.inputs_known = False
        job.flow.jobs += 1
        self._store.add(job)
        # What is done already is only waiting to be sent.
        deadline_ms = now_ms + self._settings.orphan_ms if held.state == "done" else job.deadline_ms
        self._machine.timers.set(job, deadline_ms)
        self._machine.orphans.set(job, now_ms + self._settings.orphan_ms)
        return job

    def _hold(self, job: Job, worker: Worker, held: w.Held) -> Lease:
        """The worker runs the job under the lease of an earlier broker, which is the current one now."""
        self._context.counts["adopted"] += 1
        job.attempt = max(job.attempt, held.attempt)
        # That attempt was charged when it was dispatched, if this broker did that; coming back is no new one.
        job.charged = max(job.charged, 1)
        if job.state is State.QUEUED:
            job.queued_ms += self._context.now_ms - job.queued_since_ms
        lease = Lease(held.lease, job, held.attempt, worker, held.lane, "")
        job.lease = lease
        job.state = State.RUNNING
        worker.add(lease)
        self._scheduler.took_slot(job.flow)
        self._context.emit("job.adopted", job=job.job_id, attempt=job.attempt, worker=worker.name)
        return lease


def _digest_bytes(text: str) -> bytes | None:
    try:
        digest = bytes.fromhex(text)
    except ValueError:
        return None
    return digest if len(digest) == DIGEST_BYTES else None
