"""Virtual time, one seeded source of chance, and a trace: what everything else of the simulation stands on.

All that happens is a call at a time in one heap; equal times keep the order in which they were asked for. So a run
is a function of its seed and of what the test does, and can be looked at again.
"""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Callable
from random import Random
from typing import Any, Final

import msgspec

TRACE: Final = 160
"""Messages and happenings that a failure shows."""


class Violation(AssertionError):
    """Something that must always hold does not; the text ends with the trace."""


class World:
    """One run. Times are milliseconds."""

    def __init__(self, seed: int) -> None:
        self.rng = Random(seed)
        self.now_ms = 1_000_000
        self._heap: list[tuple[int, int, Callable[..., None], tuple[Any, ...]]] = []
        self._count = itertools.count()
        self._trace: deque[tuple[int, str, Any]] = deque(maxlen=TRACE)
        self.explained = False
        """Something has failed, and was shown."""

    # -- time -------------------------------------------------------------------------------------------------------

    def at(self, at_ms: int, call: Callable[..., None], *args: Any) -> None:
        """Call this then; a time that is over counts as now."""
        heapq.heappush(self._heap, (max(at_ms, self.now_ms), next(self._count), call, args))

    def after(self, ms: int, call: Callable[..., None], *args: Any) -> None:
        """Call this so much later."""
        self.at(self.now_ms + ms, call, *args)

    def run_for(self, ms: int) -> None:
        """Let time pass."""
        end_ms = self.now_ms + ms
        heap = self._heap
        try:
            while heap and heap[0][0] <= end_ms:
                at_ms, _, call, args = heapq.heappop(heap)
                self.now_ms = at_ms
                call(*args)
        except Exception as problem:
            self.explain(problem)
            raise
        self.now_ms = end_ms

    # -- chance -----------------------------------------------------------------------------------------------------

    def chance(self, part: float) -> bool:
        """True in this part of all cases."""
        return self.rng.random() < part

    def some(self, most: int) -> int:
        """0 to `most`, with both ends likelier than the rest: nothing and everything are what breaks things."""
        turn = self.rng.random()
        if turn < 0.25:
            return 0
        return most if turn < 0.5 else self.rng.randint(0, most)

    # -- what happened ----------------------------------------------------------------------------------------------

    def saw(self, where: str, what: Any) -> None:
        """Remember a message, or a happening as text, for the trace."""
        self._trace.append((self.now_ms, where, what))

    def check(self, holds: bool, text: str, *more: Any) -> None:
        """Fail unless it holds; `more` is shown."""
        if not holds:
            shown = "".join(f"\n    {thing!r}" for thing in more)
            raise Violation(f"at {self.now_ms} ms: {text}{shown}")

    def explain(self, problem: BaseException) -> None:
        """Add the trace to an exception, once."""
        if not self.explained:
            self.explained = True
            problem.add_note(f"the last {len(self._trace)} messages until {self.now_ms} ms:\n{self.trace()}")

    def trace(self) -> str:
        """The last messages and happenings, one a line."""
        return "\n".join(f"{at_ms:>9} {where:<14} {_shown(what)}" for at_ms, where, what in self._trace)


def _shown(what: Any) -> str:
    if isinstance(what, str):
        return what
    if isinstance(what, msgspec.Struct):
        fields = {name: getattr(what, name) for name in what.__struct_fields__}
        defaults = dict(zip(reversed(what.__struct_fields__), reversed(what.__struct_defaults__), strict=False))
        parts = [f"{name}={_short(value)}" for name, value in fields.items() if defaults.get(name, ...) != value]
        return f"{type(what).__name__.lower()} {' '.join(parts)}"
    return repr(what)


def _short(value: Any) -> str:
    """Leases and epochs differ at their end only."""
    if isinstance(value, str):
        return value[-16:]
    if isinstance(value, list):
        return "[" + " ".join(map(_short, value)) + "]"
    if isinstance(value, msgspec.Struct):
        return "(" + _shown(value) + ")"
    return repr(value)
