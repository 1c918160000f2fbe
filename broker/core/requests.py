"""The methods of `request` (SPEC section 10). Methods grow; the messages do not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from dspymq.broker.core.context import Context
from dspymq.broker.core.scheduler import Scheduler
from dspymq.broker.core.store import JobStore
from dspymq.broker.core.workers import Fleet, Worker
from dspymq.protocol import body as bodies
from dspymq.protocol.errors import ProtocolError
from dspymq.protocol.messages import Reply, Request

MAX_PARAMS_BYTES = 1024 * 1024

WORKER_METHODS = frozenset({"programs.list", "programs.get", "stats.get"})
"""What a worker may ask."""

Params = dict[str, Any]


class Requests:
    """Answers requests from the broker's own state."""

    def __init__(self, context: Context, store: JobStore, scheduler: Scheduler, fleet: Fleet) -> None:
        self._context = context
        self._store = store
        self._scheduler = scheduler
        self._fleet = fleet
        self._methods: dict[str, Callable[[Params], Any]] = {
            "programs.list": self._programs_list,
            "programs.get": self._programs_get,
            "workers.list": self._workers_list,
            "stats.get": self._stats_get,
        }

    def answer(self, request: Request, body: bytes, *, role: Literal["client", "worker"]) -> tuple[Reply, bytes]:
        """The reply and its body.

        Raises ProtocolError: unknown_method, not_allowed, invalid_body, body_too_large, or what the method says.
        """
        method = self._methods.get(request.method)
        if method is None:
            known = sorted(self._methods)
            message = f"no method {request.method!r}; there are {', '.join(known)}"
            raise ProtocolError("unknown_method", message, details={"methods": known})
        if role == "worker" and request.method not in WORKER_METHODS:
            raise ProtocolError("not_allowed", f"a worker may not call {request.method}")
        if len(body) > MAX_PARAMS_BYTES:
            raise ProtocolError("body_too_large", f"params have {len(body)} bytes, the limit is {MAX_PARAMS_BYTES}")
        result = method(bodies.part(body, "params"))
        return Reply(rid=request.rid), bodies.encode(result=result)

    def _programs_list(self, params: Params) -> Any:
        rows = []
        for name in self._fleet.catalog.programs:
            workers = self._offering(name)
            rows.append(
                {
                    "name": name,
                    "revision": self._newest(name),
                    "revisions": sorted({revision for worker in workers for revision in worker.programs[name]}),
                    "workers": len(workers),
                    "description": self._description(name).get("description", ""),
                }
            )
        return {"programs": rows}

    def _programs_get(self, params: Params) -> Any:
        name = params.get("name")
        if not isinstance(name, str):
            raise ProtocolError("invalid_params", "params.name must be the program's name, a string")
        if name not in self._fleet.catalog:
            matches = self._fleet.catalog.close_matches(name)
            hint = f"; did you mean {' or '.join(matches)}?" if matches else ""
            details = {"close_matches": matches}
            raise ProtocolError("unknown_program", f"no program {name!r}{hint}", details=details)
        workers = self._offering(name)
        return {
            **self._description(name),
            "name": name,
            "revision": self._newest(name),
            "revisions": sorted({revision for worker in workers for revision in worker.programs[name]}),
            "workers": [worker.name for worker in workers],
        }

    def _workers_list(self, params: Params) -> Any:
        return {"workers": [self._worker_row(worker) for worker in self._fleet.workers.values()]}

    def _worker_row(self, worker: Worker) -> dict[str, Any]:
        if worker.session is None:
            state = "away"
        elif not worker.synced:
            state = "syncing"
        else:
            state = "draining" if worker.draining or not any(worker.slots.values()) else "ready"
        return {
            "worker": worker.name,
            "name": worker.session.name if worker.session else "",
            "state": state,
            "slots": worker.slots,
            "in_flight": {lane: used for lane, used in worker.used.items() if used or lane in worker.slots},
            "programs": {name: sorted(revisions) for name, revisions in worker.programs.items()},
            "profiles": sorted(worker.profiles),
            "executors": worker.description.get("executors", []),
            "heard_ms_ago": self._context.now_ms - worker.session.heard_ms if worker.session else None,
        }

    def _stats_get(self, params: Params) -> Any:
        scheduler = self._scheduler
        started_ms = self._context.started_ms
        return {
            "epoch": self._context.epoch,
            "uptime_ms": self._context.now_ms - started_ms if started_ms is not None else 0,
            "clients": len(self._context.clients),
            "workers": len(self._fleet.workers),
            "jobs": {
                "live": self._store.live,
                "queued": scheduler.queued,
                "queued_bytes": scheduler.queued_bytes,
                "in_flight": self._store.live - scheduler.queued,
                "kept": len(self._store.done),
                "kept_bytes": self._store.done_bytes,
                "tombstones": len(self._store.tombstones),
            },
            "slots": self._slots(),
            "queues": [
                {
                    "program": need.program,
                    "revision": need.revision,
                    "profile": need.profile,
                    "lane": need.lane,
                    "queued": queue.count,
                    "flows": len(queue.flows),
                    "missing": self._fleet.missing(need),
                }
                for need, queue in scheduler.needs.items()
                if queue.count
            ][:200],
            "counts": dict(self._context.counts),
        }

    def _slots(self) -> dict[str, dict[str, int]]:
        lanes: dict[str, dict[str, int]] = {}
        for worker in self._fleet.workers.values():
            for lane, granted in worker.slots.items():
                row = lanes.setdefault(lane, {"granted": 0, "used": 0})
                row["granted"] += granted if worker.synced else 0
                row["used"] += worker.used.get(lane, 0)
        return lanes

    def _offering(self, program: str) -> list[Worker]:
        return [worker for worker in self._fleet.workers.values() if program in worker.programs]

    def _newest(self, program: str) -> str | None:
        offered = {revision for worker in self._offering(program) for revision in worker.programs[program]}
        return self._fleet.catalog.newest(program, offered)

    def _description(self, program: str) -> dict[str, Any]:
        """How a worker that offers the newest revision describes it; {} while nobody does."""
        newest = self._newest(program)
        for worker in self._offering(program):
            if newest in worker.programs[program]:
                found = worker.description.get("programs", {})
                if isinstance(found, dict) and isinstance(found.get(program), dict):
                    return dict(found[program])
        return {}
