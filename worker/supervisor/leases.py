"""A lease as the pool holds it: from its dispatch until the broker has its end."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

import msgspec

from dspymq.protocol import worker_messages as w
from dspymq.protocol.errors import Code
from dspymq.protocol.messages import Blame, Cause, Header

if TYPE_CHECKING:
    from dspymq.worker.supervisor.executors import Executor


class LeaseState(enum.Enum):
    """How far a lease is."""

    WAITING = "waiting"
    """Is to run alone and waits for an executor of its own."""
    SENT = "sent"
    """Given to an executor, which has not said that it started."""
    RUNNING = "running"
    DONE = "done"
    """Has its result; held until the broker acknowledges it."""
    RELEASED = "released"
    """Given back; held until the broker is known to have heard it."""


LIVE = frozenset({LeaseState.WAITING, LeaseState.SENT, LeaseState.RUNNING})
"""States in which the lease still owes its end."""

ON_EXECUTOR = frozenset({LeaseState.SENT, LeaseState.RUNNING})


class Lease:
    """One attempt of a job on this pool."""

    __slots__ = (
        "body",
        "cancel_cause",
        "cancelled_ms",
        "deadline_ms",
        "dispatch",
        "dropped",
        "due_ms",
        "end",
        "end_body",
        "evidence",
        "executor",
        "fence",
        "gap",
        "overdue",
        "reported",
        "seq",
        "started",
        "state",
        "taken_ms",
        "want",
        "window",
    )

    def __init__(self, dispatch: w.Dispatch, body: bytes, now_ms: int) -> None:
        self.dispatch = dispatch
        self.body = body
        """The submit's body, until an executor has it."""
        self.state = LeaseState.WAITING
        self.taken_ms = now_ms
        self.executor: Executor | None = None
        self.want = frozenset(dispatch.want)
        self.window = dispatch.window
        self.deadline_ms = now_ms + dispatch.timeout_ms
        self.due_ms = self.deadline_ms
        """When something must happen: the deadline; once cancelled, the end of its grace."""
        self.cancel_cause: Cause | None = None
        self.cancelled_ms = 0
        self.overdue = False
        """It ignored its cancel past the grace."""
        self.evidence = False
        """It alone is to blame for that: its executor's loop was alive."""
        self.dropped = False
        """The broker no longer knows it: it is being stopped, and nothing of it is sent."""
        self.reported = False
        """It was in `held` of the present session."""
        self.started: w.Started | None = None
        self.seq = 0
        """The seq that the next chunk has."""
        self.gap = False
        """Chunks were lost on the way: only a reset chunk goes on."""
        self.end: Header | None = None
        """The result or released that is held."""
        self.end_body = b""
        self.fence = 0
        """The ping after which the broker is known to have heard `released`; 0 while it was not sent."""

    @property
    def id(self) -> str:
        """The lease's text."""
        return self.dispatch.lease

    def shown(self) -> str:
        """What names it, for the log."""
        return f"job={self.dispatch.job!r} lease={self.id} attempt={self.dispatch.attempt}"

    @property
    def lane(self) -> str:
        """The kind of slot it takes."""
        return self.dispatch.lane

    @property
    def never_began(self) -> bool:
        """Given back before it was started: that `held` is silent about it says the same (SPEC R-6.8, R-6.18)."""
        return isinstance(self.end, w.Released) and not self.end.started

    def for_executor(self, now_ms: int) -> w.Dispatch:
        """The dispatch with the time that is left, and with what is wanted by now."""
        return msgspec.structs.replace(
            self.dispatch,
            timeout_ms=max(0, self.deadline_ms - now_ms),
            want=sorted(self.want),
            window=self.window,
        )

    def held(self, now_ms: int) -> w.Held:
        """Its entry in a page of `ready`."""
        dispatch = self.dispatch
        return w.Held(
            lease=dispatch.lease,
            ns=dispatch.ns,
            job=dispatch.job,
            attempt=dispatch.attempt,
            digest=dispatch.digest,
            lane=dispatch.lane,
            state="done" if self.state is LeaseState.DONE else "running",
            seq=self.seq,
            left_ms=max(0, self.deadline_ms - now_ms),
        )

    def held_bytes(self) -> int:
        """At most this much of a header is taken by its entry."""
        dispatch = self.dispatch
        texts = len(dispatch.lease) + len(dispatch.ns.encode()) + len(dispatch.job) + len(dispatch.digest.encode())
        return texts + 96


def blame_of(lease: Lease, *, alone: bool, convicted: bool) -> Blame:
    """Who ended the process: what the supervisor saw goes before what it can only guess."""
    if convicted:
        return "self" if lease.evidence else "none"
    return "self" if alone else "shared"


def too_large(result: w.Result, message: str) -> w.Result:
    """The same result, as one that could not be sent."""
    return msgspec.structs.replace(
        result,
        code=Code.RESOURCE_EXHAUSTED,
        reason="result_too_large",
        message=message,
        retryable=False,
        retry_after_ms=None,
        details=None,
    )
