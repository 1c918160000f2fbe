"""Who is served next (SPEC section 11), found by looking at every queued job: slow, and so simple that it is right."""

from __future__ import annotations

from typing import Any

from dspymq.broker.core import BrokerCore
from dspymq.broker.core.job import Job
from dspymq.broker.core.scheduler import Flow
from dspymq.broker.core.table import State
from dspymq.broker.core.workers import Worker
from tests.unit.model.world import World


def waiting_for(core: BrokerCore, worker: Worker) -> list[Job]:
    """The queued jobs that this worker could be given now."""
    return [
        job
        for job in core.store.jobs.values()
        if job.state is State.QUEUED
        and job.queue is not None
        and worker.free(job.queue.need.lane) > 0
        and core.fleet.fits(worker, job.queue.need)
    ]


def watch_dispatches(world: World, core: BrokerCore) -> None:
    """Check each dispatch of this core against everybody who waits."""
    machine: Any = core.machine
    dispatch = machine._dispatch

    def watched(job: Job, worker: Worker, need: Any) -> None:
        others = [other for other in waiting_for(core, worker) if other is not job]
        slots = _slots(core)
        mine = (slots.get(job.flow, 0), job.flow.served)
        for other in others:
            if other.flow is job.flow:
                first = other.submit.priority <= job.submit.priority
                world.check(first, "the higher priority goes first", job.submit, other.submit)
            else:
                theirs = (slots.get(other.flow, 0), other.flow.served)
                world.check(
                    mine <= theirs,
                    "the flow with the fewest slots, then the one served least recently, is next",
                    (job.job_id, job.flow.name, mine),
                    (other.job_id, other.flow.name, theirs),
                )
        dispatch(job, worker, need)

    machine._dispatch = watched


def _slots(core: BrokerCore) -> dict[Flow, int]:
    slots: dict[Flow, int] = {}
    for worker in core.fleet.workers.values():
        for lease in worker.leases.values():
            slots[lease.flow] = slots.get(lease.flow, 0) + 1
    return slots
