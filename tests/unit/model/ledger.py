"""What really happened: each call of the language model, and what excuses a second one for the same job.

A job may cost a second call only if each earlier attempt that made one is *excused*: its executor's process ended, its
pool's process ended, its pool had no synced session with the broker for long enough to be taken for lost, or its
result had reached a broker that died with it. Everything else (breaks, restarts, stalls, reconnections that end in
time) must be survived by holding, reporting and adopting. With `redeliver: false` nothing excuses a second call.
"""

from __future__ import annotations

from collections import defaultdict
from typing import NamedTuple

from tests.unit.model.world import World


class Call(NamedTuple):
    """One side effect."""

    lease: str
    executor: str
    at_ms: int


class Ledger:
    """Kept by the world, not by any of the parts under test."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.calls: dict[str, list[Call]] = defaultdict(list)
        self.excuses: dict[str, str] = {}
        """By lease: why another attempt may call again."""
        self._ended: set[str] = set()
        self._order: dict[str, int] = {}
        self.once: set[str] = set()
        """Jobs with `redeliver: false`."""
        self.stepped_back: set[str] = set()
        """Jobs that went on with an earlier attempt: its worker had come back before the job was run again."""
        self.texts: dict[str, str] = {}
        """By lease: the text of its OK result."""
        self.submitted_to: dict[str, set[str]] = defaultdict(set)
        """By job: the epochs of the brokers that a submit of it has reached."""

    def dispatched(self, lease: str) -> None:
        """A broker begins an attempt."""
        self._order[lease] = len(self._order)

    def call(self, job: str, lease: str, executor: str) -> None:
        """A program calls the model."""
        world = self._world
        earlier = self.calls[job]
        world.saw(executor, f"LM call of {job} under ...{lease[-8:]}")
        world.check(all(call.lease != lease for call in earlier), f"{job}: one attempt calls once", lease)
        if earlier:
            world.check(job not in self.once, f"{job}: a job with redeliver: false called twice", earlier, lease)
        for call in earlier:
            # A slow attempt may call after the one that was to replace it.
            before = min(call.lease, lease, key=self._order.__getitem__)
            world.check(
                before in self.excuses,
                f"{job}: called again, although the attempt under ...{before[-8:]} survived",
                call,
                lease,
            )
        earlier.append(Call(lease, executor, world.now_ms))

    def executor_ended(self, lease: str) -> None:
        """The process that ran this attempt has ended."""
        self._ended.add(lease)
        self.excuse(lease, "its executor ended")

    def excuse(self, lease: str, why: str) -> None:
        """The attempt under this lease may be repeated."""
        self.excuses.setdefault(lease, why)

    def executors_ended(self, job: str) -> int:
        """How many attempts of this job called, and lost their executor."""
        return sum(call.lease in self._ended for call in self.calls[job])
