"""One executor as the supervisor sees it: its process, its slots, its jobs, what it takes."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Any, NamedTuple

from dspymq.protocol.messages import ReleaseCause

if TYPE_CHECKING:
    from dspymq.worker.supervisor.leases import Lease


class Memory(NamedTuple):
    """What a process takes in RAM, in bytes: pages that others have too, and pages of its own.

    `files_left` are those that it can still open; None where that is not known.
    """

    shared: int
    private: int
    files_left: int | None = None

    @property
    def rss(self) -> int:
        """All of it."""
        return self.shared + self.private


class ExecutorState(enum.Enum):
    """The life of an executor."""

    STARTING = "starting"
    READY = "ready"
    STANDBY = "standby"
    """Ready, but its generation does not serve yet: it gets no jobs."""
    RETIRING = "retiring"
    """Replaced: it gets no more jobs, and leaves when those that it has are over."""
    CONDEMNED = "condemned"
    """A job of it ignored its cancel: it gets no more, and is killed."""
    LEAVING = "leaving"
    """It was told to exit."""


class Executor:
    """One process that runs programs. `isolated` ones run one job and are ended after it."""

    __slots__ = (
        "beat_ms",
        "excused",
        "failed",
        "fence",
        "generation",
        "had_jobs",
        "id",
        "isolated",
        "jobs",
        "kill_ms",
        "killed",
        "killed_for",
        "leases",
        "max_age_ms",
        "max_jobs",
        "memory",
        "pid",
        "ready_ms",
        "slots",
        "stalled",
        "started_ms",
        "state",
        "told",
        "used",
        "worn",
    )

    def __init__(self, executor: str, now_ms: int, *, isolated: bool, generation: int = 1) -> None:
        self.id = executor
        self.isolated = isolated
        self.generation = generation
        """Which import of the programs it has."""
        self.state = ExecutorState.STARTING
        self.pid: int | None = None
        self.started_ms = now_ms
        self.ready_ms: int | None = None
        self.beat_ms = now_ms
        """When it was last heard."""
        self.stalled = False
        self.slots: dict[str, int] = {}
        self.used: dict[str, int] = {}
        self.leases: dict[str, Lease] = {}
        self.had_jobs = False
        self.kill_ms: int | None = None
        self.killed = False
        self.killed_for: ReleaseCause | None = None
        """Why it was killed, where that is not a crash of its own."""
        self.excused = False
        """Its exit is no failure: it asked to be spawned instead of forked."""
        self.failed = False
        """It said itself why it cannot serve."""
        self.jobs = 0
        """Jobs that it has ended."""
        self.max_jobs: int | None = None
        self.max_age_ms: int | None = None
        """When it is to be replaced: drawn for each, so that not all are at once."""
        self.memory: Memory | None = None
        self.told: tuple[int, Memory | None] = (0, None)
        """Jobs and memory as the broker was told last."""
        self.worn = ""
        """Why it is to be replaced, as soon as its replacement is ready."""
        self.fence = 0
        """Retiring: the ping after which the broker is known to send it no more jobs; 0 while that was not sent."""

    @property
    def takes_jobs(self) -> bool:
        """Whether its slots count as the pool's."""
        return self.state is ExecutorState.READY and not self.stalled and not self.isolated and not self.killed

    def free(self, lane: str) -> int:
        """Slots of the lane that are not taken."""
        return self.slots.get(lane, 0) - self.used.get(lane, 0)

    def add(self, lease: Lease) -> None:
        """A lease takes a slot."""
        self.leases[lease.id] = lease
        self.used[lease.lane] = self.used.get(lease.lane, 0) + 1
        self.had_jobs = True
        lease.executor = self

    def remove(self, lease: Lease) -> None:
        """A lease gives its slot back."""
        del self.leases[lease.id]
        self.used[lease.lane] -= 1
        lease.executor = None
        lease.body = b""

    def shown_state(self) -> str:
        """The one word for `dspymq status`."""
        if self.state is ExecutorState.READY:
            if self.stalled:
                return "stalled"
            return "isolated" if self.isolated else "ready"
        return str(self.state.value)

    def describe(self, wall_offset_ms: int) -> dict[str, Any]:
        """Its entry in the body of `ready`; times are Unix time."""
        row: dict[str, Any] = {
            "id": self.id,
            "pid": self.pid,
            "state": self.shown_state(),
            "slots": dict(self.slots),
            "in_flight": len(self.leases),
            "started_at_ms": self.started_ms + wall_offset_ms,
            "jobs": self.jobs,
        }
        if self.memory is not None:
            row |= {"shared_bytes": self.memory.shared, "private_bytes": self.memory.private}
        self.told = (self.jobs, self.memory)
        return row
