"""Programs that use up the file descriptors of their process. Imported by executors only."""

import os
import resource
from typing import Any

import dspy

__all__ = ["leak", "qa"]

_kept: list[int] = []


class Leak(dspy.Module):  # type: ignore[misc]
    """Opens files until there are no more, in a process that may have `limit`; with `keep` it never closes them."""

    async def aforward(self, limit: int, keep: bool) -> Any:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
        mine: list[int] = []
        try:
            while True:
                mine.append(os.open(os.devnull, os.O_RDONLY))
        finally:
            if keep:
                _kept.extend(mine)
            else:
                for fd in mine:
                    os.close(fd)


leak = Leak()
qa = dspy.Predict("question -> answer")
