"""What a system takes: processes, file descriptors, sockets, memory, temporary files; before the storm and after it."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tests.chaos.services import System, executors
from tests.faults.system import resident_mib
from tests.processes import session_members

MORE_MIB: Final = {"broker": 64.0, "supervisor": 32.0, "executor": 96.0}
"""How much memory each may have kept, in MiB: what an allocator and the caches of libraries hold on to."""
MORE_FILES: Final = {"broker": 0, "supervisor": 0, "executor": 16}
"""How many more descriptors: an executor keeps some connections to its LM."""
SHARED_MEMORY: Final = Path("/dev/shm")


@dataclasses.dataclass(frozen=True)
class Taken:
    """By service: processes; and by process (`broker`, `one`, `one/executor`, the largest of them): the rest.

    `links` is what the descriptors are.
    """

    processes: dict[str, int]
    files: dict[str, int]
    sockets: dict[str, int]
    mib: dict[str, float]
    links: dict[str, Counter[str]]
    temporary: int
    shared: frozenset[str]


def take_stock(system: System) -> Taken:
    """What the system takes now. Raises OSError if a process ends meanwhile."""
    taken = Taken({}, {}, {}, {}, {}, len(temporary(system)), _shared())
    for service in system.services:
        taken.processes[service.name] = len(session_members(service.pid))
        _count(taken, service.name, [service.pid])
        if service.name in system.pools:
            _count(taken, f"{service.name}/executor", executors(service.pid))
    return taken


def temporary(system: System) -> list[str]:
    """Temporary files and sockets of broker and pools.

    Empty folders do not count: a supervisor that is killed in the moment in which it starts its fork server leaves one.
    """
    return [f"{Path(folder).name}/{name}" for folder, _, names in os.walk(system.temporary) for name in names]


def more(before: Taken, after: Taken) -> Iterator[str]:
    """What there is more of than before, past the bounds."""
    for name, count in after.processes.items():
        if count != before.processes[name]:
            yield f"{name} has {count} processes, had {before.processes[name]}"
    for name, role in _roles(after):
        for what, now, was, bound in (
            ("descriptors", after.files[name], before.files[name], MORE_FILES[role]),
            ("sockets", after.sockets[name], before.sockets[name], MORE_FILES[role]),
            ("MiB", after.mib[name], before.mib[name], MORE_MIB[role]),
        ):
            if now > was + bound:
                extra = dict(after.links[name] - before.links[name]) if what == "descriptors" else ""
                yield f"{name} has {now:.0f} {what}, had {was:.0f} {extra}"
    if after.temporary > before.temporary:
        yield f"{after.temporary} temporary files, had {before.temporary}"
    if left := after.shared - before.shared:
        yield f"in {SHARED_MEMORY}: {sorted(left)}"


def _roles(taken: Taken) -> Iterator[tuple[str, str]]:
    for name in taken.files:
        yield name, "executor" if name.endswith("/executor") else "broker" if name == "broker" else "supervisor"


def _count(taken: Taken, name: str, pids: list[int]) -> None:
    links = [_descriptors(pid) for pid in pids] or [[]]
    taken.files[name] = max(map(len, links), default=0)
    taken.sockets[name] = max((sum(link.startswith("socket:") for link in each) for each in links), default=0)
    taken.links[name] = Counter(link.partition(":")[0] if "[" in link else link for link in max(links, key=len))
    taken.mib[name] = max(map(resident_mib, pids), default=0.0)


def _descriptors(pid: int) -> list[str]:
    found = []
    for entry in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            found.append(os.readlink(f"/proc/{pid}/fd/{entry}"))
    return found


def _shared() -> frozenset[str]:
    """Names in shared memory that look like those of Python, but for those that a process has: others use it, too."""
    if not SHARED_MEMORY.is_dir():
        return frozenset()
    names = {name for name in os.listdir(SHARED_MEMORY) if name.startswith(("psm_", "sem.mp", "dspymq"))}
    return frozenset(name for name in names if not _is_mapped(name))


def _is_mapped(name: str) -> bool:
    for maps in Path("/proc").glob("[0-9]*/maps"):
        with contextlib.suppress(OSError):
            if name in maps.read_text():
                return True
    return False
