"""jobs.list, jobs.get, jobs.cancel, jobs.retry, jobs.drop (SPEC section 10), for the principal's own jobs."""

from __future__ import annotations

from itertools import islice
from typing import Any, Final

import msgspec

from dspymq.broker.core.bounds import Bounds
from dspymq.broker.core.context import Context
from dspymq.broker.core.job import Job, size_of
from dspymq.broker.core.jobs import JobMachine
from dspymq.broker.core.params import Params
from dspymq.broker.core.scheduler import need_of
from dspymq.broker.core.sessions import ClientSession
from dspymq.broker.core.store import JobStore
from dspymq.broker.core.table import State
from dspymq.protocol.errors import ProtocolError

MAX_ROWS: Final = 1_000
MAX_SCANNED: Final = 20_000
"""Jobs that one jobs.list looks at: a broker with more of them says `truncated` instead of standing still."""


class JobRequests:
    """What was asked for, and what became of it."""

    def __init__(self, context: Context, store: JobStore, machine: JobMachine, bounds: Bounds) -> None:
        self._context = context
        self._store = store
        self._machine = machine
        self._bounds = bounds

    def list_jobs(self, params: Params) -> Any:
        """Jobs by state and program, oldest first."""
        states = params.texts("states")
        unknown = set(states) - {state.value for state in State}
        if unknown:
            raise ProtocolError("invalid_params", f"params.states: no state {sorted(unknown)[0]!r}")
        program = params.optional_text("program")
        limit = min(params.count("limit", 100), MAX_ROWS)
        rows: list[dict[str, Any]] = []
        truncated = len(self._store.jobs) > MAX_SCANNED
        for job in islice(self._store.jobs.values(), MAX_SCANNED):
            if job.key[0] != _client(params).principal:
                continue
            if (not states or job.state.value in states) and program in (None, job.submit.program):
                if len(rows) == limit:
                    truncated = True
                    break
                rows.append(self._row(job))
        return {"jobs": rows, "truncated": truncated}

    def get(self, params: Params) -> Any:
        """One job, whole, but for its inputs and outputs."""
        job = self._job(params)
        submit = job.submit
        lease = job.lease
        return {
            **self._row(job),
            "profile": submit.profile,
            "lane": submit.lane,
            "priority": submit.priority,
            "want": list(submit.want),
            "on_disconnect": submit.on_disconnect,
            "redeliver": submit.redeliver,
            "charged": job.charged,
            "refunds": job.refunds,
            "convictions": job.convictions,
            "isolate": job.isolate,
            "lease": lease.lease if lease else None,
            "worker": lease.worker.name if lease else None,
            "message": job.result.message if job.result else None,
            "usage": _builtins(job.result.usage) if job.result else None,
            "late_usage": _builtins(job.late_usage),
        }

    def cancel(self, params: Params) -> Any:
        """Cancel, whoever is attached: that client gets the result."""
        job = self._job(params)
        self._machine.cancel(job)
        return self._row(job)

    def retry(self, params: Params) -> Any:
        """Run a finished job's content again under a new id, unattached; attach to it to get the result."""
        old = self._job(params)
        if old.state is not State.DONE:
            raise ProtocolError(
                "not_finished", f"job {old.job_id} is {old.state.value}: cancel it, or wait for its end"
            )
        if not old.inputs_known:
            raise ProtocolError("unknown_job", "its inputs were sent to an earlier broker, and are not known here")
        session = _client(params)
        job_id = params.optional_id("new_job") or self._context.new_job_id()
        key = (session.principal, job_id)
        if key in self._store.jobs or key in self._store.tombstones:
            raise ProtocolError("id_conflict", f"there is, or was, a job {job_id} already")
        self._bounds.check(session.flow_name, size_of(old.submit, old.body))
        submit = msgspec.structs.replace(old.submit, job=job_id, on_disconnect="keep", known_epoch=None)
        job = self._machine.create(session, submit, old.body, old.digest)
        self._machine.detach(job)
        self._machine.queue(job, need_of(submit))
        return self._row(job)

    def drop(self, params: Params) -> Any:
        """Forget a finished job now."""
        job = self._job(params)
        if job.state is not State.DONE:
            raise ProtocolError(
                "not_finished", f"job {job.job_id} is {job.state.value}: cancel it, or wait for its end"
            )
        self._machine.forget(job)
        return {"job": job.job_id}

    def _job(self, params: Params) -> Job:
        key = (_client(params).principal, params.text("job"))
        job = self._store.jobs.get(key)
        if job is not None:
            return job
        if key in self._store.tombstones:
            raise ProtocolError("result_gone", "this job ended and its result is no longer kept")
        raise ProtocolError("unknown_job", "no such job")

    def _row(self, job: Job) -> dict[str, Any]:
        now_ms = self._context.now_ms
        live = job.state is not State.DONE
        return {
            "job": job.job_id,
            "state": job.state.value,
            "program": job.submit.program,
            "attempt": job.attempt,
            "revision": (job.result.revision if job.result else None) or (job.lease.revision if job.lease else None),
            "flow": job.flow.name,
            "attached": job.client is not None,
            "age_ms": now_ms - job.created_ms,
            "left_ms": max(job.deadline_ms - now_ms, 0) if live else None,
            "code": job.result.code if job.result else None,
            "reason": job.result.reason if job.result else None,
        }


def _client(params: Params) -> ClientSession:
    session = params.session
    assert isinstance(session, ClientSession), "workers may not call these"
    return session


def _builtins(value: Any) -> Any:
    return None if value is None else msgspec.to_builtins(value)
