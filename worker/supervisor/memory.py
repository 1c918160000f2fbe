"""How much memory, and how many files, processes take, as the kernel counts it."""

import os
import resource
from collections.abc import Mapping
from typing import Final

from dspymq.worker.supervisor.executor import Memory

_KIB: Final = 1024


def measure(pids: Mapping[str, int]) -> dict[str, Memory]:
    """By name: what each of these processes has in RAM. Those that cannot be measured are left out.

    It may take milliseconds a process: not for the loop.
    """
    found = {}
    for name, pid in pids.items():
        memory = of_process(pid)
        if memory is not None:
            found[name] = memory._replace(files_left=files_left(pid))
    return found


def of_process(pid: int) -> Memory | None:
    """Shared and private bytes in RAM, None where there is no /proc, no such process, or no right to look."""
    try:
        with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
            return parse(file.read())
    except (OSError, ValueError):
        return None


def files_left(pid: int) -> int | None:
    """How many files it can still open, None where that cannot be found out."""
    try:
        return resource.prlimit(pid, resource.RLIMIT_NOFILE)[0] - len(os.listdir(f"/proc/{pid}/fd"))
    except (OSError, AttributeError):
        return None


def parse(rollup: str) -> Memory | None:
    """The text of smaps_rollup. Pages that are mapped by others, too, are shared: those that the fork server forked."""
    sizes = {}
    for line in rollup.splitlines()[1:]:
        name, _, rest = line.partition(":")
        sizes[name] = int(rest.split()[0]) * _KIB
    if "Rss" not in sizes:
        # A zombie has none.
        return None
    return Memory(
        shared=sizes.get("Shared_Clean", 0) + sizes.get("Shared_Dirty", 0),
        private=sizes.get("Private_Clean", 0) + sizes.get("Private_Dirty", 0),
    )
