"""workers.list, workers.drain, workers.undrain, stats.get (SPEC section 10)."""

from __future__ import annotations

from typing import Any

from dspymq.broker.core.context import Context
from dspymq.broker.core.jobs import JobMachine
from dspymq.broker.core.params import Params
from dspymq.broker.core.scheduler import Scheduler
from dspymq.broker.core.store import JobStore
from dspymq.broker.core.workers import Fleet, Worker
from dspymq.protocol import worker_messages as w
from dspymq.protocol.errors import ProtocolError

DEFAULT_DRAIN_MS = 30_000


class WorkerRequests:
    """Who works, and how much."""

    def __init__(
        self, context: Context, store: JobStore, scheduler: Scheduler, fleet: Fleet, machine: JobMachine
    ) -> None:
        self._context = context
        self._store = store
        self._scheduler = scheduler
        self._fleet = fleet
        self._machine = machine

    def list_workers(self, _: Params) -> Any:
        """All workers, with their slots and executors."""
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

    def drain(self, params: Params) -> Any:
        """Give the worker nothing more until `undrain`; what it has it finishes, or gives back after `grace_ms`."""
        worker = self._named(params)
        worker.draining = True
        if worker.session is not None:
            drain = w.Drain(grace_ms=params.count("grace_ms", DEFAULT_DRAIN_MS))
            self._context.to_worker(worker.session, drain)
        self._context.emit("worker.draining", worker=worker.name)
        return self._worker_row(worker)

    def undrain(self, params: Params) -> Any:
        """Give the worker jobs again."""
        worker = self._named(params)
        worker.draining = False
        self._context.emit("worker.undrained", worker=worker.name)
        self._machine.fill(worker)
        return self._worker_row(worker)

    def _named(self, params: Params) -> Worker:
        name = params.text("worker")
        worker = self._fleet.workers.get(name)
        if worker is None:
            known = [row.name for row in self._fleet.workers.values()]
            raise ProtocolError("unknown_worker", f"no worker {name!r}", details={"workers": known[:100]})
        return worker

    def stats(self, _: Params) -> Any:
        """Counts of this broker since its start."""
        scheduler = self._scheduler
        started_ms = self._context.started_ms
        return {
            "epoch": self._context.epoch,
            "uptime_ms": self._context.now_ms - started_ms if started_ms is not None else 0,
            "clients": len(self._context.clients),
            "workers": len(self._fleet.workers),
            "ready": self._fleet.serves,
            "jobs": {
                "live": self._store.live,
                "queued": scheduler.queued,
                "queued_bytes": scheduler.queued_bytes,
                "in_flight": self._store.live - scheduler.queued - len(self._machine.parked),
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
            "circuits": self._machine.circuits.rows()[:200],
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
