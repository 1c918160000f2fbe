"""Watching the programs' files: their times and sizes are looked at again and again, and a change is reported once.

Polling, because it needs nothing, and works on every file system. What is watched is every Python file in the
directories of the programs' own modules: so a module that is imported for the first time is seen, too.
"""

import os
from collections.abc import Iterable
from pathlib import Path

Snapshot = dict[str, tuple[int, int, int]]
"""By file: when it was changed, in ns, its size, and its inode."""


class SourceWatch:
    """Compares snapshots. A change is reported when the next one is the same: an editor or a checkout was done."""

    def __init__(self) -> None:
        self._known: Snapshot | None = None
        self._last: Snapshot | None = None

    def changed(self, snapshot: Snapshot) -> list[str]:
        """The files that changed since the last report, once they have come to rest; else none."""
        before, self._last = self._last, snapshot
        if self._known is None:
            self._known = snapshot
            return []
        if snapshot == self._known or snapshot != before:
            return []
        known, self._known = self._known, snapshot
        return sorted(path for path in known.keys() | snapshot.keys() if known.get(path) != snapshot.get(path))

    def widen(self, snapshot: Snapshot) -> None:
        """These files are watched from now on, too: that they are there is no change."""
        if self._known is not None:
            self._known = snapshot | self._known


def snapshot(directories: Iterable[str]) -> Snapshot:
    """All Python files in these directories, not below them. It reads directories: not for the loop."""
    found: Snapshot = {}
    for directory in directories:
        try:
            with os.scandir(directory) as entries:
                for entry in entries:
                    if entry.name.endswith(".py"):
                        stat = entry.stat()
                        found[entry.path] = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
        except OSError:
            continue
    return found


def target_directories(targets: Iterable[str], roots: Iterable[str]) -> set[str]:
    """Where the modules of these targets would be, before any of them could be imported."""
    found = set()
    for root in roots:
        for target in targets:
            parts = target.partition(":")[0].split(".")
            for depth in range(len(parts) + 1):
                directory = Path(root).joinpath(*parts[:depth])
                if directory.is_dir():
                    found.add(str(directory))
    return found
