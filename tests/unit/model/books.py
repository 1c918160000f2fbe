"""What a broker's, pool's or client's own books must say, found by counting everything; and that nothing is left."""

from __future__ import annotations

from dspymq.broker.core import BrokerCore
from dspymq.broker.core.table import LEASED, LIVE, State
from tests.unit.model.client_host import SLACK_MS, ClientHost
from tests.unit.model.fairness import waiting_for
from tests.unit.model.pool_host import Pool
from tests.unit.model.world import World

LATE_MS = 120
"""How late a timer may be: the tick, and the timers' granularity."""


def check_broker(world: World, core: BrokerCore, went_on_ms: int) -> None:
    """The sums that a broker keeps are what counting gives, and nothing waits that could go on.

    `went_on_ms`: when its process was last stopped until.
    """
    check = world.check
    jobs = list(core.store.jobs.values())
    live = [job for job in jobs if job.state in LIVE]
    queued = [job for job in live if job.state is State.QUEUED]
    waiting = [job for job in queued if job.queue is not None]
    check(core.store.live == len(live), "live jobs are counted")
    check(len(queued) == len(waiting) + len(core.machine.parked), "who is queued waits somewhere")
    check(core.scheduler.queued == len(waiting), "queued jobs are counted")
    check(core.scheduler.queued == sum(q.count for q in core.scheduler.needs.values()), "by need, too")
    check(core.store.live_bytes == sum(job.size for job in live), "bytes of live jobs are counted")
    check(core.store.done_bytes == sum(job.size for job in jobs if job not in live), "bytes of kept jobs are counted")
    check(len(jobs) == len(live) + len(core.store.done), "a job is live or done")
    now_ms, grace_ms = world.now_ms, core.settings.grace_ms + 1_000
    for job in live:
        if job.state in LEASED:
            leased = job.lease is not None and job.lease.worker.leases.get(job.lease.lease) is job.lease
            check(leased, "a job that runs has its lease", job.job_id)
        else:
            check(job.lease is None, "a job that waits has none", job.job_id)
        late_ms = now_ms - max(job.deadline_ms, went_on_ms) - (0 if job.state is State.QUEUED else grace_ms)
        check(late_ms < LATE_MS, "every wait has an end", job.job_id, job.state, late_ms)
        check(job in core.machine.timers._bucket_of, "a live job has a timer", job.job_id)
    leases = [lease for worker in core.fleet.workers.values() for lease in worker.leases.values()]
    for worker in core.fleet.workers.values():
        check(sum(worker.used.values()) == len(worker.leases), "used slots are counted", worker.name)
        idle = [job.job_id for job in waiting_for(core, worker)]
        check(not idle, "a slot is free and a job waits for it", worker.name, idle)
    for flow in core.scheduler.flows.values():
        check(flow.slots == sum(lease.flow is flow for lease in leases), "slots of a flow are counted", flow.name)
        check(flow.jobs == sum(job.flow is flow for job in live), "jobs of a flow are counted", flow.name)
    for session in core.context.clients.values():
        check(all(job.client is session for job in session.jobs), "who is attached is attached", session.name)


def check_client(world: World, client: ClientHost) -> None:
    """What is open at a client's core is what its user waits for, and not for longer than it should."""
    core = client.core
    world.check(len(core.jobs) == len(client.handles), f"{client.name}: open jobs are counted")
    for handle in client.handles.values():
        # After its time, or its process's own stop, the broker's answer is waited for a little.
        late_ms = world.now_ms - max(handle.due_ms, client.went_on_ms) - SLACK_MS
        world.check(client.stopped or late_ms < LATE_MS, f"{handle.job} does not end", late_ms)
        world.check(core.wake_at_ms() is not None or client.closed, "who waits, waits for a time")


def check_pool(world: World, pool: Pool) -> None:
    """A pool's executors and leases agree."""
    work = pool.core._work
    for executor in pool.core._crew.executors.values():
        for lease in executor.leases.values():
            world.check(work.leases.get(lease.id) is lease, f"{executor.id} has a lease that nobody holds", lease.id)
        world.check(sum(executor.used.values()) == len(executor.leases), "slots of executors are counted")
        for lane, used in executor.used.items():
            world.check(used <= executor.slots.get(lane, 0), f"{executor.id} is over its slots", lane, used)


def nothing_left(world: World, core: BrokerCore, pools: list[Pool], clients: list[ClientHost]) -> None:
    """After everything has ended and retention is over, only those are known who are there."""
    check = world.check
    check(not core.store.jobs, "no job is left", list(core.store.jobs))
    check(not core.store.live and not core.store.live_bytes and not core.store.done_bytes, "and no byte of one")
    check(not len(core.machine.timers), "no timer is left")
    check(not len(core.machine.orphans), "nobody is waited for")
    check(not len(core.machine.parked), "nothing is parked")
    check(not core.scheduler.flows, "no flow is left", list(core.scheduler.flows))
    check(not any(queue.count for queue in core.scheduler.needs.values()), "no queue has anything")
    workers = core.fleet.workers
    check(set(workers) == {pool.worker for pool in pools}, "the workers are those that are there", list(workers))
    check(not any(worker.leases for worker in workers.values()), "no lease is left")
    check(not any(worker.open for worker in workers.values()), "no queue is open")
    check(len(core.context.workers) == len(pools), "each has one session", core.context.workers)
    check(len(core.context.clients) <= len(clients), "a client has one session", core.context.clients)
    for pool in pools:
        check(not pool.core._work.leases, f"{pool.worker} holds nothing", list(pool.core._work.leases))
        check(not pool.core._work._alone, f"{pool.worker} has nothing waiting")
        busy = [executor.name for executor in pool.executors.values() if executor.attempts]
        check(not busy, "no executor is at work", busy)
        isolated = [one.id for one in pool.core._crew.executors.values() if one.isolated]
        check(not isolated, "no isolated executor is left", isolated)
    for client in clients:
        check(not len(client.core.jobs), f"{client.name} has no job")
        # Without work a client looks for no session, not for acks either: the broker forgets in time.
        acked = not client.core.jobs._acks or not client.core.session.live
        check(acked, f"{client.name} has acknowledged everything")
        check(not len(client.core.requests), f"{client.name} has no request")
        left = set(client.core._timers._at) - {"life"}
        check(not left, f"{client.name} has no timer", left)
