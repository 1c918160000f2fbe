"""Generations: each import of the programs, with what it offers, and the executors that have it."""

from __future__ import annotations

from typing import Any, Final

from dspymq.protocol import worker_messages as w

MAX_PAST: Final = 1_000
"""Offers of earlier generations that are remembered."""


class Generation:
    """One import of the programs. `ready` and `descriptions` are what its executors said last, None before."""

    __slots__ = ("descriptions", "number", "offers", "problems", "ready", "source_dirs", "spawn")

    def __init__(self, number: int, *, spawn: bool) -> None:
        self.number = number
        self.spawn = spawn
        """Its programs start threads when they are imported: it has no fork server."""
        self.ready: w.Ready | None = None
        self.descriptions: dict[str, Any] = {}
        self.offers: frozenset[tuple[str, str]] = frozenset()
        self.problems: dict[str, str] = {}
        """By target or program: why it is not offered."""
        self.source_dirs: tuple[str, ...] = ()

    def learn(self, ready: w.Ready, described: dict[str, Any]) -> None:
        """An executor says what it has; what is for the supervisor alone is taken out of the description."""
        problems = described.pop("problems", None)
        source_dirs = described.pop("source_dirs", None)
        self.ready = ready
        self.descriptions = described
        self.offers = frozenset((offer.name, offer.revision) for offer in ready.programs)
        self.problems = {str(k): str(v) for k, v in problems.items()} if isinstance(problems, dict) else {}
        if isinstance(source_dirs, list):
            self.source_dirs = tuple(map(str, source_dirs))

    def has(self, program: str, revision: str) -> bool:
        """Whether its executors run this."""
        return (program, revision) in self.offers


class Generations:
    """The generation that serves, one that is to follow it, and those that drain."""

    def __init__(self, *, spawn: bool) -> None:
        self._spawn = spawn
        self.serving = Generation(1, spawn=spawn)
        self.coming: Generation | None = None
        self._all = {1: self.serving}
        self._last = 1
        self._past: dict[tuple[str, str], None] = {}

    def __getitem__(self, number: int) -> Generation:
        return self._all[number]

    def begin(self) -> Generation:
        """Another one is to follow."""
        self._last += 1
        self.coming = self._all[self._last] = Generation(self._last, spawn=self._spawn)
        return self.coming

    def abandon(self) -> None:
        """The one that was to follow does not."""
        self.coming = None

    def change_over(self) -> None:
        """The coming one serves."""
        assert self.coming is not None, "there is one that follows"
        self.remember(self.serving)
        self.serving, self.coming = self.coming, None

    def is_stale(self, program: str, revision: str) -> bool:
        """Whether this was offered by an earlier generation, and is not by the present one."""
        return (program, revision) in self._past and not self.serving.has(program, revision)

    def unused(self, used: set[int]) -> list[int]:
        """Forget and name the generations that neither serve nor come, and of which no executor is left."""
        kept = {self.serving.number, *([self.coming.number] if self.coming else [])} | used
        gone = [number for number in self._all if number not in kept]
        for number in gone:
            del self._all[number]
        return gone

    def remember(self, generation: Generation) -> None:
        """What it offers is going to be replaced."""
        self._past |= dict.fromkeys(generation.offers)
        while len(self._past) > MAX_PAST:
            del self._past[next(iter(self._past))]
