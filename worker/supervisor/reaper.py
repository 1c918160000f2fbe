"""What a pool does as process 1: it inherits every process whose parent has ended, and has to take leave of it.

In a container without an init that is the supervisor. What programs leave behind would else stay as zombies, and so
would the executors of a fork server that has ended.
"""

import contextlib
import os
from collections.abc import Collection
from pathlib import Path
from typing import Final

INIT: Final = 1

REAP_S: Final = 1.0
"""How often the pool looks."""


class Reaper:
    """Call `look` now and then. `parent` is this process."""

    def __init__(self, parent: int = INIT) -> None:
        self._parent = parent
        self._ended: set[int] = set()

    def look(self, own: Collection[int]) -> int:
        """Reap who has ended and was not reaped since the last look, but for `own`: somebody waits for those.

        Returns how many they were.
        """
        ended = {pid for pid in _zombies(self._parent) if pid not in own}
        due = ended & self._ended
        for pid in due:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
        self._ended = ended - due
        return len(due)


def _zombies(parent: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                state, its_parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
                if state == "Z" and int(its_parent) == parent:
                    found.append(int(entry.name))
    return found
