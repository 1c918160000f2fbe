"""What an operator reads of jobs and workers: one line an event, with job, lease and worker (`event key=value`).

At INFO a job that takes its usual way is not mentioned. One that lost an attempt is followed to its end from there on:
`attempt.lost`, `job.requeued`, `job.dispatched`, `job.done`; so an incident can be read from the log alone. With
`traces` (DEBUG) every job is. Never what a job carries, nor what a program says.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from dspymq.broker.core.context import Context
    from dspymq.broker.core.job import Job, Lease
    from dspymq.broker.core.workers import Worker
    from dspymq.protocol import client_messages as c
    from dspymq.protocol import worker_messages as w

DETAILS: Final = ("executor", "exit_code", "killed_for")
"""What a worker may say of the process that ended."""

MAX_DETAIL_CHARS: Final = 100


def submitted(context: Context, job: Job) -> None:
    """A job was taken in."""
    if context.traces:
        context.log(logging.DEBUG, f"job.submitted job={job.job_id!r} program={job.submit.program!r}")


def dispatched(context: Context, lease: Lease) -> None:
    """A job goes to a worker."""
    job = lease.job
    if _follows(context, job):
        text = f"job.dispatched {_attempt(lease)} isolate={job.isolate} program={job.submit.program!r}"
        context.log(_level(job), text)


def given_back(context: Context, lease: Lease, message: w.Released) -> None:
    """A worker gives an attempt back. What is only moved, before it was started, is no incident."""
    moved = not message.started and message.cause in ("capacity", "drain")
    level = logging.DEBUG if moved else logging.INFO if message.cause == "drain" else logging.WARNING
    known = {key: str(value)[:MAX_DETAIL_CHARS] for key, value in (message.details or {}).items() if key in DETAILS}
    more = "".join(f" {key}={text!r}" for key, text in known.items())
    attempt_lost(context, lease, message.cause, f" blame={message.blame} started={message.started}{more}", level)


def attempt_lost(context: Context, lease: Lease, cause: str, more: str = "", level: int = logging.WARNING) -> None:
    """An attempt came to nothing; above DEBUG its job is followed from now on."""
    lease.job.is_followed |= level > logging.DEBUG
    if _follows(context, lease.job):
        context.log(level, f"attempt.lost {_attempt(lease)} cause={cause}{more}")


def requeued(context: Context, job: Job) -> None:
    """A job waits again."""
    if _follows(context, job):
        context.log(_level(job), f"job.requeued job={job.job_id!r} attempt={job.attempt} isolate={job.isolate}")


def done(context: Context, job: Job, result: c.Result) -> None:
    """A job has its result."""
    if _follows(context, job):
        level = logging.WARNING if result.reason in ("poison", "worker_lost") else _level(job)
        what = f"code={result.code[:MAX_DETAIL_CHARS]!r} reason={(result.reason or '')[:MAX_DETAIL_CHARS]!r}"
        context.log(level, f"job.done job={job.job_id!r} attempt={result.attempt} {what}")


def worker_ready(context: Context, worker: Worker, ready: w.Ready) -> None:
    """A worker can be given jobs, in a new session."""
    session = worker.session
    name = session.name if session is not None else ""
    slots = sum(ready.slots.values())
    held = len(ready.held or [])
    text = f"worker.ready worker={worker.name!r} name={name!r} slots={slots} programs={len(ready.programs)} held={held}"
    context.log(logging.INFO, text)


def worker_gone(context: Context, worker: Worker, how: str, leases: int) -> None:
    """It is `away` for now, has `left`, or is `lost`; it has so many leases."""
    level = logging.WARNING if leases and how != "away" else logging.INFO
    context.log(level, f"worker.{how} worker={worker.name!r} leases={leases}")


def _follows(context: Context, job: Job) -> bool:
    return job.is_followed or context.traces


def _level(job: Job) -> int:
    return logging.INFO if job.is_followed else logging.DEBUG


def _attempt(lease: Lease) -> str:
    return f"job={lease.job.job_id!r} lease={lease.lease} attempt={lease.attempt} worker={lease.worker.name!r}"
