"""What was done when, and what of it may have cost an attempt. Times are time.monotonic() seconds."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
import math
import threading
import time
from collections.abc import Collection, Iterator
from typing import Any, Final

POOL_SLOTS: Final = 10
"""Of both lanes, at both executors."""
EXECUTOR_SLOTS: Final = POOL_SLOTS // 2

LOSES: Final = {
    "kill_executor": 0,  # told as executor.died
    "stall_executor": EXECUTOR_SLOTS,
    "kill_fork_server": 0,  # told as executor.died
    "kill_pool": POOL_SLOTS,
    "stop_pool": POOL_SLOTS,
    "lose_pool": POOL_SLOTS,
    "drain": POOL_SLOTS,
    "cut_off_pool": POOL_SLOTS,
    "kill_broker": 2,
    "stop_broker": 2,
    "kill_broker_and_pool": POOL_SLOTS + 2,
}
"""Faults that may end attempts, and how many; no other may. A broker costs those whose results it had just taken: what
runs is adopted by the next one."""

TOLD: Final = {
    "executor.died": EXECUTOR_SLOTS,
    "executor.stalled": EXECUTOR_SLOTS,
    "pool.own_stall": POOL_SLOTS,
    "broker.down": 0,
    "broker_stalled": 0,
}
"""What logs say of losses besides: poison ends processes, and a loaded machine makes late."""

ENDS_BROKER: Final = frozenset({"kill_broker", "stop_broker", "kill_broker_and_pool"})
BEFORE_S: Final = 8.0
"""So long after a fault its consequences are still felt: silence is noticed, what is gone is waited for."""


@dataclasses.dataclass
class Entry:
    """Something that happened to `target`, from `began_s` to `ended_s` (infinite while it lasts)."""

    what: str
    target: str
    began_s: float
    ended_s: float = math.inf
    detail: str = ""

    def touches(self, began_s: float, ended_s: float, felt_s: float) -> bool:
        """Whether it lasted, or was felt for `felt_s` longer, within this time."""
        return self.began_s <= ended_s and self.ended_s + felt_s >= began_s


class Timeline:
    """Entries in the order in which they began. Thread-safe."""

    def __init__(self) -> None:
        self.began_s = time.monotonic()
        self.entries: list[Entry] = []
        self._lock = threading.Lock()
        self._unix_s = time.time() - time.monotonic()

    @contextlib.contextmanager
    def entry(self, what: str, target: str) -> Iterator[Entry]:
        """Something that lasts while the block runs."""
        entry = Entry(what, target, time.monotonic())
        with self._lock:
            self.entries.append(entry)
        try:
            yield entry
        finally:
            entry.ended_s = time.monotonic()

    def read_log(self, who: str, log: str) -> None:
        """Add what this log of a service tells of losses."""
        for line in log.splitlines():
            with contextlib.suppress(ValueError, KeyError, TypeError):
                said = json.loads(line)
                what = said.get("event") or said["message"].partition(" ")[0]
                if what in TOLD:
                    at_s = datetime.datetime.fromisoformat(said["time"]).timestamp() - self._unix_s
                    with self._lock:
                        self.entries.append(Entry(what, who, at_s, at_s, said["message"]))

    def touching(self, what: Collection[str], began_s: float, ended_s: float, felt_s: float = BEFORE_S) -> list[Entry]:
        """Entries of these kinds that were felt in this time."""
        return [entry for entry in self.entries if entry.what in what and entry.touches(began_s, ended_s, felt_s)]

    def losses(self, began_s: float, ended_s: float) -> int:
        """How many attempts of one job may have been lost in this time, at most."""
        return len(self.touching(LOSES.keys() | TOLD.keys(), began_s, ended_s))

    def lost_attempts(self) -> int:
        """How many attempts of all jobs may have been lost, at most."""
        costs = {**LOSES, **TOLD}
        return sum(costs.get(entry.what, 0) for entry in self.entries)

    def broker_ends(self, began_s: float, ended_s: float) -> int:
        """How many brokers ended in this time."""
        return len(self.touching(ENDS_BROKER, began_s, ended_s))

    def rows(self) -> list[dict[str, Any]]:
        """All of it, for people: seconds since the beginning."""
        rows = []
        for entry in sorted(self.entries, key=lambda entry: entry.began_s):
            lasted_s = entry.ended_s - entry.began_s
            rows.append(
                {
                    "at_s": round(entry.began_s - self.began_s, 3),
                    "what": entry.what,
                    "target": entry.target,
                    "lasted_s": round(lasted_s, 3) if math.isfinite(lasted_s) else None,
                    "detail": entry.detail,
                }
            )
        return rows
