"""How a job ends: its one result, how long that is kept, and its tombstone (SPEC section 5)."""

from __future__ import annotations

import msgspec

from dspymq.broker.core import journal
from dspymq.broker.core.context import Context
from dspymq.broker.core.job import End, Job
from dspymq.broker.core.scheduler import Scheduler
from dspymq.broker.core.store import JobStore
from dspymq.broker.core.table import State
from dspymq.broker.core.timers import Timers
from dspymq.protocol import client_messages as c
from dspymq.protocol import worker_messages as w
from dspymq.protocol.errors import REASONS, Code
from dspymq.protocol.messages import Timings

CODES = frozenset(str(code) for code in Code)


class Ending:
    """Used by the job machine alone."""

    def __init__(self, context: Context, store: JobStore, scheduler: Scheduler) -> None:
        self._context = context
        self._store = store
        self._scheduler = scheduler
        self.timers: Timers[Job] = Timers()
        """A job's deadline, then its grace, then its retention."""
        self.orphans: Timers[Job] = Timers()
        """Jobs whose client is gone, until they are cancelled for it."""

    def end(self, job: Job, end: End) -> None:
        """End the job from here, without a worker's word."""
        if job.state is State.QUEUED:
            job.queued_ms += self._context.now_ms - job.queued_since_ms
        result = c.Result(
            job=job.job_id,
            attempt=job.attempt,
            code=end.code,
            reason=end.reason,
            message=end.message,
            retryable=REASONS[end.reason].retryable,
            retry_after_ms=end.retry_after_ms,
            timings=Timings(queued_ms=job.queued_ms),
        )
        self._done(job, result, b"")

    def finish_stopped(self, job: Job, attempt: int, message: w.Result, body: bytes, end: End) -> None:
        """End a job that is being stopped, with the usage that its worker says.

        A result that was earlier than the cancel stands; the deadline's does not.
        """
        if end.code is Code.DEADLINE_EXCEEDED or message.code == Code.CANCELLED:
            message = msgspec.structs.replace(
                message,
                code=end.code,
                reason=end.reason,
                message=end.message,
                retryable=REASONS[end.reason].retryable,
                retry_after_ms=None,
                details=None,
            )
            body = b""
        self.finish(job, attempt, message, body)

    def finish(self, job: Job, attempt: int, message: w.Result, body: bytes) -> None:
        """End the job as its worker says."""
        timings = message.timings or Timings()
        result = c.Result(
            job=job.job_id,
            attempt=attempt,
            code=message.code,
            reason=message.reason,
            message=message.message,
            retryable=message.retryable,
            retry_after_ms=message.retry_after_ms,
            details=message.details,
            chunks=message.chunks,
            usage=message.usage,
            timings=Timings(queued_ms=job.queued_ms, run_ms=timings.run_ms, lm_ms=timings.lm_ms),
            revision=message.revision,
        )
        self._done(job, result, body)

    def send_result(self, job: Job) -> None:
        """Send the stored result to the attached session."""
        if job.client is not None and job.result is not None:
            self._context.to_client(job.client, job.result, job.result_body)

    def forget(self, job: Job) -> None:
        """ACK or RETENTION_OVER on a finished job: only its tombstone is left."""
        if job.client is not None:
            job.client.jobs.pop(job, None)
            job.client = None
        self.timers.cancel(job)
        self._store.forget(job)

    def _done(self, job: Job, result: c.Result, body: bytes) -> None:
        job.state = State.DONE
        job.result = result
        job.result_body = body
        job.end = None
        job.flow.jobs -= 1
        self._scheduler.release_flow(job.flow)
        self._context.counts[f"done.{result.code if result.code in CODES else 'other'}"] += 1
        self.orphans.cancel(job)
        self.timers.set(job, self._context.now_ms + self._context.settings.retain_ms)
        self._store.settle(job)
        self.send_result(job)
        self._context.emit(
            "job.done", job=job.job_id, attempt=job.attempt, code=result.code, reason=result.reason, flow=job.flow.name
        )
        journal.done(self._context, job, result)
        then = self._context.ours.pop(job, None)
        if then is not None:
            then()
        for old in self._store.over_budget():
            self.forget(old)
