"""How many jobs there may be: in all, of one flow, and in bytes (SPEC section 11)."""

from __future__ import annotations

from dspymq.broker.core.scheduler import Scheduler
from dspymq.broker.core.settings import CoreSettings
from dspymq.broker.core.store import JobStore
from dspymq.protocol.errors import ProtocolError


class Bounds:
    """Looked at by whatever makes a job."""

    def __init__(self, settings: CoreSettings, store: JobStore, scheduler: Scheduler) -> None:
        self._settings = settings
        self._store = store
        self._scheduler = scheduler

    def full(self, flow_name: str, size: int) -> str | None:
        """What is full for a job of this flow and so many bytes; None if there is room.

        The bytes are those of all jobs that owe a result: what a worker has may have to be sent to another.
        """
        limits = self._settings.limits
        flow = self._scheduler.flows.get(flow_name)
        if self._store.live >= limits.max_jobs:
            return f"the broker has {limits.max_jobs} jobs"
        if flow is not None and flow.jobs >= limits.max_jobs_per_flow:
            return f"this client has {limits.max_jobs_per_flow} jobs"
        if self._store.live_bytes + size > limits.max_queued_bytes:
            return f"the bodies of its jobs have {limits.max_queued_bytes} bytes"
        return None

    def check(self, flow_name: str, size: int) -> None:
        """Raises ProtocolError `queue_full`, which says when to try again."""
        full = self.full(flow_name, size)
        if full is not None:
            retry_after_ms = self._settings.queue_retry_ms
            raise ProtocolError("queue_full", f"{full}: try again later", retry_after_ms=retry_after_ms)
