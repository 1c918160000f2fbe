"""The job machine: performs the actions of the table (SPEC section 5). No other code changes a job's state."""

from __future__ import annotations

from itertools import islice
from typing import Final, Literal

import msgspec

from dspymq.broker.core import job as ends
from dspymq.broker.core import journal
from dspymq.broker.core.circuits import Circuits
from dspymq.broker.core.context import Context
from dspymq.broker.core.definitions import split_alias
from dspymq.broker.core.ending import Ending
from dspymq.broker.core.job import End, Job, Lease
from dspymq.broker.core.scheduler import Need, Scheduler, need_of
from dspymq.broker.core.sessions import ClientSession
from dspymq.broker.core.store import JobStore
from dspymq.broker.core.table import TABLE, Action, JobEvent, State
from dspymq.broker.core.timers import GRANULARITY_MS, Timers
from dspymq.broker.core.workers import Fleet, Worker
from dspymq.protocol import client_messages as c
from dspymq.protocol import worker_messages as w
from dspymq.protocol.errors import Code

FIRED_AT_ONCE: Final = 500
"""Timers of a kind that fire in one tick at most: the jobs of 100,000 deadlines in one moment end over seconds, in
which others are served.
"""

REFUSED_AT_ONCE: Final = 500
"""Queued jobs of programs whose circuits are open that are ended at most in one go."""


class JobMachine:
    """Jobs from their first submit to their tombstone."""

    def __init__(self, context: Context, store: JobStore, scheduler: Scheduler, fleet: Fleet) -> None:
        self._context = context
        self._settings = context.settings
        self._store = store
        self._scheduler = scheduler
        self._fleet = fleet
        self._seq = 0
        self.circuits = Circuits(context)
        self._unfilled: dict[Worker, None] = {}
        """Workers that may have more to do: there was too much to refuse at once."""
        self._ending = Ending(context, store, scheduler)
        self.timers = self._ending.timers
        self.orphans = self._ending.orphans
        self.parked: Timers[Job] = Timers()
        """Queued jobs that first wait for a worker that may still run them for an earlier broker."""

    # -- events -----------------------------------------------------------------------------------------------------

    def action(self, job: Job, event: JobEvent) -> Action:
        """What the table says of this event now."""
        return TABLE[event][job.state]

    def create(self, session: ClientSession, submit: c.Submit, body: bytes, digest: bytes) -> Job:
        """A new job, attached to this session; `queue` makes it wait for a worker."""
        flow = self._scheduler.flow(session.flow_name)
        key = (session.principal, submit.job)
        job = Job(key, submit, body, digest, flow, self.next_seq(), self._context.now_ms)
        flow.jobs += 1
        self._store.add(job)
        self.timers.set(job, job.deadline_ms)
        self._attach_to(job, session)
        self._context.counts["submitted"] += 1
        self._context.emit("job.submitted", job=submit.job, program=submit.program, flow=flow.name)
        journal.submitted(self._context, job)
        return job

    def queue(self, job: Job, need: Need, *, at_head: bool = False) -> None:
        """Make the job wait for a worker, and give it one if one is free."""
        queue, is_new = self._scheduler.queue_for(need)
        if is_new:
            self._fleet.attach_workers(queue)
        job.state = State.QUEUED
        job.queued_since_ms = self._context.now_ms
        if job.deadline_ms <= self._context.now_ms:
            self.deadline(job)
            return
        if self._is_refused(job, need):
            return
        worker = self._fleet.choose(queue, job.submit.affinity)
        if worker is not None and not worker.open:
            # Nobody waits for this worker: the job need not queue for it.
            self._dispatch(job, worker, need)
            return
        self._scheduler.add(job, queue, at_head=at_head)
        if worker is not None:
            self.fill(worker)

    def fill(self, worker: Worker) -> None:
        """Give the worker jobs until it has no free slot or there is none for it."""
        ended = 0
        while worker.open:
            job = self._scheduler.pick(worker)
            if job is None:
                return
            queue = job.queue
            assert queue is not None, "what is picked is queued"
            if job.deadline_ms <= self._context.now_ms:
                self.deadline(job)
                continue
            self._scheduler.remove(job)
            if not self._is_refused(job, queue.need):
                self._dispatch(job, worker, queue.need)
                continue
            ended += 1
            if ended == REFUSED_AT_ONCE:
                self._unfilled[worker] = None
                return

    def fill_all(self) -> None:
        """Any worker may have become the right one for jobs that wait."""
        for worker in self._fleet.workers.values():
            self.fill(worker)

    def attach(self, job: Job, session: ClientSession, submit: c.Submit | c.Attach) -> None:
        """SUBMIT_SAME on a live job, or an attach: this session gets the answers from now on."""
        before = job.submit
        on_disconnect = submit.on_disconnect if isinstance(submit, c.Submit) else before.on_disconnect
        job.submit = msgspec.structs.replace(
            before, want=submit.want, window=submit.window, on_disconnect=on_disconnect
        )
        self._attach_to(job, session)
        if job.lease is not None and job.state is not State.CANCELLING:
            self.show(job.lease)
        elif (
            job.queue is not None
            and job.deadline_ms > self._context.now_ms
            and need_of(job.submit).features != job.queue.need.features
        ):
            # Not every worker can give what is wanted now. (A job whose time is over ends after it was accepted.)
            need = job.queue.need._replace(features=need_of(job.submit).features)
            job.queued_ms += self._context.now_ms - job.queued_since_ms
            self._scheduler.remove(job)
            self.queue(job, need, at_head=True)

    def show(self, lease: Lease) -> None:
        """Tell the worker what the client wants from now on, so that it sends started, a snapshot, open tool calls.

        Also without `want`: the worker must stop sending what nobody wants any more.
        """
        submit = lease.job.submit
        if lease.worker.session is not None:
            again = w.Attach(lease=lease.lease, want=submit.want, window=submit.window)
            self._context.to_worker(lease.worker.session, again)

    def detach(self, job: Job) -> None:
        """The job is nobody's: who wants its result attaches to it."""
        if job.client is not None:
            job.client.jobs.pop(job, None)
            job.client = None

    def started(self, lease: Lease) -> None:
        """STARTED: the attempt runs."""
        job = lease.job
        if self.action(job, JobEvent.STARTED) is Action.RUN:
            job.state = State.RUNNING

    def result(self, lease: Lease, message: w.Result, body: bytes) -> None:
        """RESULT under the current lease."""
        job = lease.job
        action = self.action(job, JobEvent.RESULT)
        self.circuits.result(job, lease.revision, message)
        self._settle_lease(lease)
        if action is Action.FINISH_CANCELLING and job.end is not None:
            self._ending.finish_stopped(job, lease.attempt, message, body, job.end)
        else:
            self._ending.finish(job, lease.attempt, message, body)
        self.fill(lease.worker)

    def released(self, lease: Lease, *, started: bool, blame: str) -> None:
        """RELEASED_UNSTARTED or RELEASED_STARTED under the current lease."""
        job = lease.job
        event = JobEvent.RELEASED_STARTED if started else JobEvent.RELEASED_UNSTARTED
        action = self.action(job, event)
        self._settle_lease(lease)
        job.given_back |= {lease.lease}
        if action is Action.END:
            self._end_as_stopped(job)
        elif action is Action.REFUND:
            self._refund(job, lease.worker, avoids=True)
        else:
            if action is Action.REFUND_STARTED:
                self._context.counts["released_after_start"] += 1
            if blame != "none":
                self._blame(job, alone=blame == "self")
            self._recover(job, lease)
        self.fill(lease.worker)

    def worker_lost(self, lease: Lease) -> None:
        """WORKER_LOST, with the current lease on it."""
        job = lease.job
        action = self.action(job, JobEvent.WORKER_LOST)
        self._settle_lease(lease)
        if action is Action.END:
            self._end_as_stopped(job)
        else:
            self._recover(job, lease)

    def never_received(self, lease: Lease) -> None:
        """NEVER_RECEIVED: the worker that should have this lease does not."""
        job = lease.job
        action = self.action(job, JobEvent.NEVER_RECEIVED)
        self._settle_lease(lease)
        if action is Action.END:
            self._end_as_stopped(job)
        elif action is Action.REFUND:
            self._refund(job, lease.worker, avoids=False)
        else:
            self._recover(job, lease)

    def settle_fenced(self, lease: Lease) -> None:
        """A lease that is no longer current gives its slot back: its worker answered, or no longer has it."""
        lease.worker.remove(lease)
        self._scheduler.gave_slot(lease.flow)
        self._scheduler.release_flow(lease.flow)
        self.fill(lease.worker)

    def cancel(self, job: Job, end: End = ends.CANCELLED) -> Action:
        """CANCEL: by its client, or because that is gone. Returns the table's action; REPLAY is the caller's."""
        action = self.action(job, JobEvent.CANCEL)
        if action is Action.END_CANCELLED:
            self.dequeue(job)
            self.end(job, end)
        elif action is Action.STOP:
            self._stop(job, end)
        elif action is Action.STOP_AGAIN:
            self._send_cancel(job)
        return action

    def deadline(self, job: Job) -> None:
        """DEADLINE: timeout_ms is over."""
        action = self.action(job, JobEvent.DEADLINE)
        if action is Action.END_EXPIRED:
            self.dequeue(job)
            self.end(job, ends.EXPIRED)
        elif action is Action.STOP_EXPIRED:
            self._stop(job, ends.EXPIRED)

    def owner_gone(self, job: Job, *, at_once: bool) -> None:
        """The session a job was attached to is over; `at_once` for a bye, else `orphan_ms` from now."""
        job.client = None
        if self.action(job, JobEvent.OWNER_GONE) is not Action.ABANDON or job.submit.on_disconnect == "keep":
            return
        # Due already, and yet not ended here: there may be 100,000 of them (see `cancel_orphans`).
        self.orphans.set(job, self._context.now_ms + (-GRANULARITY_MS if at_once else self._settings.orphan_ms))

    def cancel_orphans(self) -> None:
        """Cancel jobs whose client is gone for too long: so many in one go, the others in the next."""
        for job in islice(self.orphans.due(self._context.now_ms), FIRED_AT_ONCE):
            self.cancel(job, ends.CLIENT_GONE)

    def tick(self) -> None:
        """Fire the timers that are due."""
        now_ms = self._context.now_ms
        for job in islice(self.timers.due(now_ms), FIRED_AT_ONCE):
            if self.action(job, JobEvent.GRACE_OVER) is Action.END_FENCED:
                self._grace_over(job)
            elif self.action(job, JobEvent.RETENTION_OVER) is Action.FORGET:
                self._ending.forget(job)
            else:
                self.deadline(job)
        self.cancel_orphans()
        unfilled, self._unfilled = self._unfilled, {}
        for worker in unfilled:
            self.fill(worker)

    # -- actions ----------------------------------------------------------------------------------------------------

    def _attach_to(self, job: Job, session: ClientSession) -> None:
        before = job.client
        if before is session:
            return
        if before is not None:
            before.jobs.pop(job, None)
        self.orphans.cancel(job)
        job.client = session
        session.jobs[job] = None

    def end(self, job: Job, end: End) -> None:
        """End the job from here, without a worker's word."""
        self._ending.end(job, end)

    def forget(self, job: Job) -> None:
        """ACK or RETENTION_OVER on a finished job: only its tombstone is left."""
        self._ending.forget(job)

    def send_result(self, job: Job) -> None:
        """Send the stored result to the attached session."""
        self._ending.send_result(job)

    def next_seq(self) -> int:
        """The age of the next job among all."""
        self._seq += 1
        return self._seq

    def dequeue(self, job: Job) -> None:
        """Take a job out of its queue, or out of the wait for a worker that may have it."""
        if job.queue is not None:
            self._scheduler.remove(job)
        else:
            self.parked.cancel(job)

    def fence(self, lease: Lease) -> None:
        """The lease is not current any more: its worker shall stop. The slot stays taken until it settles."""
        lease.job.lease = None
        if lease.worker.session is not None:
            self._context.to_worker(lease.worker.session, w.Cancel(lease=lease.lease, cause="fenced", grace_ms=0))

    def _is_refused(self, job: Job, need: Need) -> bool:
        """Whether its program is not run for now; then the job has ended."""
        refusal = self.circuits.refusal(job, self._fleet.revision_for(need)) if self.circuits.any_open else None
        if refusal is not None:
            self.end(job, refusal)
        return refusal is not None

    def _dispatch(self, job: Job, worker: Worker, need: Need) -> None:
        now_ms = self._context.now_ms
        session = worker.session
        assert session is not None, "only workers that are there have free slots"
        revision = self._fleet.revision_for(need)
        assert revision is not None, "a worker that fits offers a revision"
        job.queued_ms += now_ms - job.queued_since_ms
        job.attempt += 1
        job.charged += 1
        lease = Lease(self._context.new_lease(), job, job.attempt, worker, need.lane, revision)
        job.lease = lease
        job.state = State.DISPATCHED
        worker.add(lease)
        self._fleet.took(worker, job.submit.affinity)
        self.circuits.begins(job, revision)
        self._scheduler.took_slot(job.flow)
        submit = job.submit
        name, _ = split_alias(submit.program)
        dispatch = w.Dispatch(
            lease=lease.lease,
            ns=job.key[0],
            job=job.key[1],
            attempt=lease.attempt,
            digest=job.digest.hex(),
            program=name,
            revision=revision,
            timeout_ms=job.deadline_ms - now_ms,
            profile=submit.profile,
            lane=lease.lane,
            want=submit.want,
            window=submit.window,
            isolate=job.isolate,
            defined=self._fleet.is_defined(worker, name, revision),
            trace=submit.trace,
        )
        self._context.to_worker(session, dispatch, job.body)
        journal.dispatched(self._context, lease)
        self._context.emit(
            "job.dispatched", job=job.job_id, attempt=job.attempt, worker=worker.name, program=submit.program
        )

    def _settle_lease(self, lease: Lease) -> None:
        self.circuits.released(lease.job, lease.revision)
        lease.job.lease = None
        lease.worker.remove(lease)
        self._scheduler.gave_slot(lease.flow)

    def _refund(self, job: Job, worker: Worker, *, avoids: bool) -> None:
        """The attempt never began: queue the job again, free of charge a few times, away from who gave it back."""
        if self._vanishes(job):
            return
        job.refunds += 1
        if job.refunds <= self._settings.max_refunds:
            job.charged -= 1
            self._context.counts["refunded"] += 1
        elif job.charged >= self._settings.max_attempts:
            self.end(job, ends.WORKER_LOST)
            return
        if avoids:
            job.avoid = self._fleet.still_avoided(job.avoid) | {(worker.name, worker.generation)}
        self._queue_again(job, worker)

    def _blame(self, job: Job, *, alone: bool) -> None:
        job.isolate = True
        if alone:
            # Crashes of its own are counted apart from attempts lost to others.
            job.convictions += 1
            job.charged -= 1

    def _recover(self, job: Job, lease: Lease) -> None:
        if self._vanishes(job):
            return
        if job.convictions >= self._settings.max_convictions:
            self.circuits.failed(job, lease.revision)
            self.end(job, ends.POISON)
        elif not job.submit.redeliver or job.charged >= self._settings.max_attempts:
            self.end(job, ends.WORKER_LOST)
        else:
            self._context.counts["requeued"] += 1
            job.prefer = lease.revision or None
            self._queue_again(job, lease.worker)

    def _queue_again(self, job: Job, worker: Worker) -> None:
        """At the head: at the revision of an earlier attempt, while a worker has it, and away from who gave it back.

        What was adopted and came to nothing first waits, like any job of an earlier broker, for other workers' reports.
        """
        self._context.emit("job.requeued", job=job.job_id, attempt=job.attempt, worker=worker.name)
        journal.requeued(self._context, job)
        now_ms = self._context.now_ms
        if now_ms < job.adopt_until_ms:
            job.state = State.QUEUED
            job.queued_since_ms = now_ms
            self.parked.set(job, job.adopt_until_ms)
            return
        self.queue(job, need_of(job.submit)._replace(prefer=job.prefer, avoid=job.avoid), at_head=True)

    def _vanishes(self, job: Job) -> bool:
        """Whether it does: its worker has lost a job that no client has asked this broker for, nor can it run again."""
        if job.inputs_known or job.client is not None:
            return False
        self.timers.cancel(job)
        self.orphans.cancel(job)
        job.state = State.GONE
        job.flow.jobs -= 1
        self._scheduler.release_flow(job.flow)
        self._store.vanish(job)
        return True

    def _stop(self, job: Job, end: End) -> None:
        job.state = State.CANCELLING
        job.end = end
        self.orphans.cancel(job)
        # The worker gets the whole grace; what it reports at its end must still arrive.
        self.timers.set(job, self._context.now_ms + self._settings.grace_ms + 1_000)
        self._send_cancel(job)

    def _send_cancel(self, job: Job) -> None:
        lease, end = job.lease, job.end
        if lease is not None and lease.worker.session is not None:
            late = end is not None and end.code is Code.DEADLINE_EXCEEDED
            cause: Literal["deadline", "cancel"] = "deadline" if late else "cancel"
            message = w.Cancel(lease=lease.lease, cause=cause, grace_ms=self._settings.grace_ms)
            self._context.to_worker(lease.worker.session, message)

    def _grace_over(self, job: Job) -> None:
        self._context.counts["fenced"] += 1
        if job.lease is not None:
            self.fence(job.lease)
        self._end_as_stopped(job)

    def _end_as_stopped(self, job: Job) -> None:
        self.end(job, job.end or ends.CANCELLED)
