"""Programs that block the loop, hold the interpreter, or close what their process stands on; for executors only.

Those that could not answer afterwards do it only the first time, if they are given a file that is not there yet.
"""

import asyncio
import contextlib
import ctypes
import os
import time
from pathlib import Path

import dspy

from tests.faults.matrix_programs import note
from tests.faults.programs import is_first

__all__ = ["blocks", "closes", "grips", "qa"]


def open_files() -> list[tuple[int, str]]:
    """The file descriptors of this process from 3 on, and what they are."""
    found = []
    for name in sorted(os.listdir("/proc/self/fd"), key=int):
        with contextlib.suppress(OSError):
            if int(name) > 2:
                found.append((int(name), os.readlink(f"/proc/self/fd/{name}")))
    return found


class Blocks(dspy.Module):
    """Sleeps where nothing else of its process runs meanwhile: on the loop."""

    async def aforward(self, ms: int, mark: str) -> dspy.Prediction:
        note(mark)
        time.sleep(ms / 1000)  # noqa: ASYNC251
        return dspy.Prediction(pid=os.getpid())


class Grips(dspy.Module):
    """The same in a thread of its own, in C, with the GIL."""

    def forward(self, ms: int, mark: str) -> dspy.Prediction:
        note(mark)
        ctypes.PyDLL(None).usleep(ms * 1000)
        return dspy.Prediction(pid=os.getpid())


class Closes(dspy.Module):
    """Closes the `which`th file of its process, or without `once` all; then goes on for a moment."""

    async def aforward(self, which: int, mark: str, once: str = "") -> dspy.Prediction:
        files = open_files()
        if not once or is_first(once):
            note(mark)
            if once:
                Path(once).write_text(files[which][1])  # noqa: ASYNC240
                os.close(files[which][0])
            else:
                os.closerange(3, 256)
            await asyncio.sleep(0.05)
        return dspy.Prediction(which=which, count=len(files))


blocks, grips, closes = Blocks(), Grips(), Closes()
qa = dspy.Predict("question -> answer")
