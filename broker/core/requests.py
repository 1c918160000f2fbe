"""The methods of `request` (SPEC section 10). Methods grow; the messages do not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from dspymq.broker.core.define_requests import DefineRequests
from dspymq.broker.core.event_hub import EventHub
from dspymq.broker.core.job_requests import JobRequests
from dspymq.broker.core.params import Params
from dspymq.broker.core.program_requests import ProgramRequests
from dspymq.broker.core.sessions import Session, WorkerSession
from dspymq.broker.core.worker_requests import WorkerRequests
from dspymq.protocol import body as bodies
from dspymq.protocol.errors import ProtocolError
from dspymq.protocol.messages import Reply, Request

MAX_PARAMS_BYTES: Final = 1024 * 1024

WORKER_METHODS: Final = frozenset({"programs.list", "programs.get", "stats.get"})
"""What a worker may ask."""


class Requests:
    """Answers requests from the broker's own state."""

    def __init__(
        self,
        programs: ProgramRequests,
        definitions: DefineRequests,
        workers: WorkerRequests,
        jobs: JobRequests,
        events: EventHub,
    ) -> None:
        self.methods: Final[dict[str, Callable[[Params], Any]]] = {
            "programs.list": programs.list_programs,
            "programs.get": programs.get,
            "programs.define": definitions.define,
            "programs.undefine": definitions.undefine,
            "programs.alias": definitions.alias,
            "workers.list": workers.list_workers,
            "workers.drain": workers.drain,
            "workers.undrain": workers.undrain,
            "jobs.list": jobs.list_jobs,
            "jobs.get": jobs.get,
            "jobs.cancel": jobs.cancel,
            "jobs.retry": jobs.retry,
            "jobs.drop": jobs.drop,
            "events.subscribe": events.subscribe,
            "events.unsubscribe": events.unsubscribe,
            "stats.get": workers.stats,
        }

    def answer(self, request: Request, body: bytes, session: Session) -> tuple[Reply, bytes] | None:
        """The reply and its body; None if it comes later.

        Raises ProtocolError: unknown_method, not_allowed, invalid_body, body_too_large, or what the method says.
        """
        method = self.methods.get(request.method)
        if method is None:
            known = sorted(self.methods)
            message = f"no method {request.method!r}; there are {', '.join(known)}"
            raise ProtocolError("unknown_method", message, details={"methods": known})
        if isinstance(session, WorkerSession) and request.method not in WORKER_METHODS:
            raise ProtocolError("not_allowed", f"a worker may not call {request.method}")
        if len(body) > MAX_PARAMS_BYTES:
            raise ProtocolError("body_too_large", f"params have {len(body)} bytes, the limit is {MAX_PARAMS_BYTES}")
        result = method(Params(bodies.part(body, "params"), session, request.rid))
        if result is None:
            return None
        return Reply(rid=request.rid), bodies.encode(result=result)
