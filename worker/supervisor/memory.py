"""How much memory processes take, as the kernel counts it."""

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
            found[name] = memory
    return found


def of_process(pid: int) -> Memory | None:
    """Shared and private bytes in RAM, None where there is no /proc, no such process, or no right to look."""
    try:
        with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
            return parse(file.read())
    except (OSError, ValueError):
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
