"""What must hold at a pool's edge, whatever happens: watched from outside, event by event."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dspymq.protocol import worker_messages as w
from dspymq.protocol.messages import Pong
from dspymq.worker.supervisor import events as ev
from dspymq.worker.supervisor.leases import LIVE, LeaseState

if TYPE_CHECKING:
    from tests.unit.model.pool_host import Pool


class PoolOracle:
    """Looks at the events and effects of one PoolCore."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._world = pool.world
        self._ends: dict[str, Any] = {}
        """Leases that have their end and are held, before the event at hand."""
        self._dropped: set[str] = set()
        self._stale: set[str] = set()
        """Dispatches that came in after a stall, for a session that is over."""
        self._page: set[str] = set()
        self._reported: set[str] = set()
        self._last_page = False
        self._draining = False
        self._had_jobs: dict[str, int] = {}
        self._alone: set[str] = set()
        """Executors that had a job with `isolate`."""
        self._out_since_ms: int | None = pool.world.now_ms

    @property
    def _leases(self) -> dict[str, Any]:
        return self._pool.core._work.leases

    def held(self) -> list[str]:
        """All leases of the pool."""
        return list(self._leases)

    # -- events -----------------------------------------------------------------------------------------------------

    def before(self, event: ev.Event) -> None:
        """An event is about to be handled."""
        self._ends = {lease.id: lease for lease in self._leases.values() if lease.state not in LIVE}
        if isinstance(event, ev.SessionUp | ev.SessionDown | ev.OwnStall):
            self._page, self._reported, self._last_page = set(), set(), False
        if isinstance(event, ev.FromBroker):
            if isinstance(event.message, w.Dispatch) and self._draining:
                self._stale.add(event.message.lease)
            elif isinstance(event.message, w.Synced):
                self._dropped |= self._page - set(event.message.keep)
        if isinstance(event, ev.SessionUp):
            self._draining = False

    def own_stall(self) -> None:
        """The shell has noticed that the process was stopped: until the next session nothing may be started."""
        self._draining = True

    def after(self, event: ev.Event) -> None:
        """The event was handled: whatever was forgotten may be."""
        for lease_id, lease in self._ends.items():
            if lease_id not in self._leases:
                self._world.check(self._may_forget(event, lease), f"{lease_id} is forgotten too early", event)
        if isinstance(event, ev.FromBroker) and isinstance(event.message, w.Synced) and self._pool.core._link.synced:
            missing = {lease.id for lease in self._leases.values() if not lease.dropped} - self._reported
            self._world.check(not missing, f"{self._pool.worker} holds what it did not report", missing)

    def _may_forget(self, event: ev.Event, lease: Any) -> bool:
        message = event.message if isinstance(event, ev.FromBroker) else None
        if lease.id in self._dropped or lease.cancel_cause == "fenced":
            return True
        if isinstance(message, w.Ack):
            return lease.id in message.leases
        if isinstance(message, w.Synced) and lease.id not in self._reported:
            return isinstance(lease.end, w.Released) and not lease.end.started
        return isinstance(message, Pong) and lease.state is LeaseState.RELEASED and 0 < lease.fence <= message.n

    # -- effects ----------------------------------------------------------------------------------------------------

    def sends(self, message: Any) -> None:
        """The core says something to the broker."""
        world, link = self._world, self._pool.core._link
        world.check(link.up, "nothing is sent without a session", message)
        lease = getattr(message, "lease", None)
        if lease is not None:
            world.check(link.synced, "nothing of a lease is sent before synced", message)
            world.check(lease not in self._dropped, "nothing is sent of what the broker dropped", message)
        if isinstance(message, w.Ready) and message.held is not None:
            self._page = {held.lease for held in message.held}
            self._reported |= self._page

    def tells(self, name: str, message: Any) -> None:
        """The core says something to an executor."""
        if not isinstance(message, w.Dispatch):
            return
        world = self._world
        executor = self._pool.executors.get(name)
        world.check(message.lease not in self._stale, "what waited through a stall is started", message)
        world.check(executor is None or executor.is_ready, f"{name} is not ready", message)
        self._had_jobs[name] = self._had_jobs.get(name, 0) + 1
        if message.isolate:
            self._alone.add(name)
        alone = name not in self._alone or self._had_jobs[name] == 1
        world.check(alone, "a job with `isolate` shares its process with nobody, before or after", message)

    def exits(self, code: int) -> None:
        """The pool ends by itself."""
        if code == 0:
            self._world.check(not self._leases, "a pool that has drained holds nothing", list(self._leases))

    # -- contact ----------------------------------------------------------------------------------------------------

    def look(self, in_contact: bool, enough_ms: int, stood_still_ms: int) -> None:
        """How long no broker could know of this pool; after `enough_ms` all that it holds may run elsewhere.

        Not counted is the time in which the broker itself stood still, `stood_still_ms` since the last look.
        """
        now_ms = self._world.now_ms
        if self._out_since_ms is not None:
            self._out_since_ms += stood_still_ms
        if in_contact:
            self._out_since_ms = None
            return
        if self._out_since_ms is None:
            self._out_since_ms = now_ms
        if now_ms - self._out_since_ms >= enough_ms:
            for lease in self._leases:
                self._pool.ledger.excuse(lease, f"its pool had no session for {now_ms - self._out_since_ms} ms")
