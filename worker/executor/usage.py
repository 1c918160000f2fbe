"""What one job used at its LMs: calls, tokens, cost, and the time during which at least one call was open."""

import math
import threading
import time
from collections.abc import Mapping
from typing import Any

from dspy.utils.usage_tracker import UsageTracker

from dspymq.protocol.messages import ModelUsage, Usage


class ProfileModel(str):
    """A model name that marks the LMs of our profiles, whose usage our engine records itself, attempt by attempt."""

    __slots__ = ()


class JobUsage(UsageTracker):  # type: ignore[misc]
    """The usage tracker of one job; DSPy reports to it, and our engine does.

    LMs of the program's own are counted by what DSPy reports at the end of each call.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0
        self._models: dict[str, list[int]] = {}
        self._ours: set[str] = set()
        self._costs: dict[str, float] = {}
        self._lock = threading.Lock()
        self._open = 0
        self._opened_s = 0.0
        self._lm_s = 0.0

    def __deepcopy__(self, memo: dict[int, Any]) -> "JobUsage":
        # DSPy gives each thread of Parallel and Evaluate a copy of the tracker; their usage is this job's too.
        return self

    def begin(self) -> None:
        """A request of our engine begins."""
        with self._lock:
            self.calls += 1
            if self._open == 0:
                self._opened_s = time.monotonic()
            self._open += 1

    def end(self) -> None:
        """It ended, however."""
        with self._lock:
            self._open -= 1
            if self._open == 0:
                self._lm_s += time.monotonic() - self._opened_s

    def record(self, model: str, input_tokens: int | None, output_tokens: int | None, cost: float | None) -> None:
        """Tokens, and the cost in US dollars where it is known, of an answered request of our engine."""
        with self._lock:
            self._ours.add(str(model))
            self._add(str(model), input_tokens or 0, output_tokens or 0)
            if cost is not None and math.isfinite(cost) and cost >= 0:
                self._costs[str(model)] = self._costs.get(str(model), 0.0) + cost

    def add_usage(self, lm: str, usage_entry: Mapping[str, Any]) -> None:
        """DSPy's report of a finished call; of a program's own LM it is all we know."""
        if isinstance(lm, ProfileModel):
            return
        with self._lock:
            self.calls += 1
            self._add(lm, _tokens(usage_entry, "prompt_tokens"), _tokens(usage_entry, "completion_tokens"))

    def lm_ms(self) -> int:
        """Milliseconds during which at least one request of our engine was open."""
        with self._lock:
            running_s = time.monotonic() - self._opened_s if self._open else 0.0
            return round((self._lm_s + running_s) * 1000)

    def total(self) -> Usage:
        """What was used so far."""
        with self._lock:
            calls, costs = self.calls, dict(self._costs)
            models = {name: list(counts) for name, counts in self._models.items()}
        # A `dspy.track_usage()` inside the program hands its entries over here when it closes, ours among them.
        for lm, entries in list(self.usage_data.items()):
            if lm in self._ours:
                continue
            calls += len(entries)
            counts = models.setdefault(str(lm), [0, 0])
            counts[0] += sum(_tokens(entry, "prompt_tokens") for entry in entries)
            counts[1] += sum(_tokens(entry, "completion_tokens") for entry in entries)
        return Usage(
            calls=calls,
            models={
                name: ModelUsage(input_tokens=counts[0], output_tokens=counts[1], cost=costs.get(name))
                for name, counts in models.items()
            },
        )

    def _add(self, model: str, input_tokens: int, output_tokens: int) -> None:
        counts = self._models.setdefault(model, [0, 0])
        counts[0] += input_tokens
        counts[1] += output_tokens


def _tokens(entry: Mapping[str, Any], key: str) -> int:
    value = entry.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) else 0
