"""The axes of the matrix of faults (what is hit, by what, how far the job is), and what can be said of a cell."""

from __future__ import annotations

import dataclasses
import enum
from typing import Final

GATE_VARIABLE: Final = "MATRIX_GATE"
"""Names the file at which the programs' import waits."""


class Victim(enum.StrEnum):
    """The process that is hit; or the job itself."""

    EXECUTOR = "executor"
    SUPERVISOR = "supervisor"
    BROKER = "broker"
    CLIENT = "client"
    JOB = "job"


class Fault(enum.StrEnum):
    """What hits it. A service manager starts a supervisor or a broker that was killed again."""

    KILL = "is killed"
    PAUSE = "stands still"
    """SIGSTOP, and SIGCONT before anybody has missed it."""
    FREEZE = "is missed"
    """SIGSTOP, and SIGCONT after those that speak with it took it for stalled or dead."""
    CANCEL = "is cancelled"
    DEADLINE = "is past its deadline"


FAULTS: Final = {
    Victim.EXECUTOR: (Fault.KILL, Fault.PAUSE, Fault.FREEZE),
    Victim.SUPERVISOR: (Fault.KILL, Fault.PAUSE, Fault.FREEZE),
    Victim.BROKER: (Fault.KILL, Fault.PAUSE, Fault.FREEZE),
    Victim.CLIENT: (Fault.KILL, Fault.PAUSE, Fault.FREEZE),
    Victim.JOB: (Fault.CANCEL, Fault.DEADLINE),
}
"""What can hit each."""


class Point(enum.StrEnum):
    """How far the job is."""

    BEFORE_READY = "before ready"
    """Queued: the pool's only process that could become an executor is still importing the programs."""
    IDLE = "idle"
    """There is no job; the next one comes when the system is whole again."""
    DISPATCHED = "just dispatched"
    """On its way to the program, which has not begun: in its executor's pipe, or in its supervisor's socket."""
    RUNNING = "running"
    """Its model has the request, and has not answered."""
    STREAMING = "streaming"
    """Its model has sent a part of its answer, and its client has seen text of it."""
    ANSWERING = "answering"
    """Its result of several MiB is half-way: one side has written what the other has not read."""
    UNACKED = "result unacked"
    """Its whole result is with the next process, which has not acknowledged it."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The job's one end as its client (or whoever asks for it again) is told, and what its model saw of it."""

    why: str
    attempt: int = 1
    requests: int = 1
    code: str = "OK"
    reason: str = ""

    def text(self) -> str:
        """For a cell of a table."""
        if self == once(self.why):
            return "once"
        said = f"`{self.code}` / `{self.reason}`, " if self.reason else ""
        times = {0: "never", 1: "once", 2: "twice"}[self.requests]
        return f"{said}attempt {self.attempt}, {times} at the LM"


@dataclasses.dataclass(frozen=True)
class Same:
    """This cell is another one, which is tried: of another fault, or of another point of the same row.

    In the second table one that names no point is that of the first table.
    """

    fault: Fault
    why: str
    point: Point | None = None


@dataclasses.dataclass(frozen=True)
class Nothing:
    """This cell makes no sense."""

    why: str

    def text(self) -> str:
        """For a cell of a table."""
        return "–"


def once(why: str) -> Outcome:
    """One attempt, one request, one answer: the job does not notice."""
    return Outcome(why)


def again(why: str, *, requests: int) -> Outcome:
    """Attempt 2 answers."""
    return Outcome(why, attempt=2, requests=requests)


def lost(why: str, *, requests: int, attempt: int = 1) -> Outcome:
    """Not run again, whatever may have become of it."""
    return Outcome(why, attempt=attempt, requests=requests, code="UNAVAILABLE", reason="worker_lost")


def gone(why: str, *, attempt: int, requests: int) -> Outcome:
    """Stopped on behalf of a client that is not there any more."""
    return Outcome(why, attempt=attempt, requests=requests, code="CANCELLED", reason="client_gone")


def stopped(why: str, *, attempt: int, requests: int) -> Outcome:
    """By a cancel."""
    return Outcome(why, attempt=attempt, requests=requests, code="CANCELLED", reason="cancelled")


def expired(why: str, *, attempt: int, requests: int) -> Outcome:
    """By its deadline."""
    return Outcome(why, attempt=attempt, requests=requests, code="DEADLINE_EXCEEDED", reason="deadline")


@dataclasses.dataclass(frozen=True)
class Cell:
    """One place of the table."""

    victim: Victim
    fault: Fault
    point: Point
    outcome: Outcome | Same | Nothing
    redeliver: bool = True

    @property
    def place(self) -> tuple[Victim, Fault, Point, bool]:
        """Where it is."""
        return self.victim, self.fault, self.point, self.redeliver

    @property
    def name(self) -> str:
        """For a test's id."""
        return f"{self.victim}-{self.fault}-{self.point}{'' if self.redeliver else '-not_twice'}".replace(" ", "_")
