"""The programs that the fault tests run: well-behaved ones, and ones that do what no program should.

Imported by executors only. Marks are files: a program appends a line each time that it is started.
"""

import asyncio
import contextlib
import os
import re
import signal
import time
from pathlib import Path

import dspy

__all__ = [
    "abort",
    "burst",
    "deaf",
    "echo",
    "fat",
    "glutton",
    "grip",
    "moody",
    "nap",
    "qa",
    "shielded",
    "spin",
    "sync_qa",
]


def leave_mark(mark: str) -> None:
    if mark:
        with Path(mark).open("a") as file:
            file.write(f"{os.getpid()}\n")


def is_first(path: str) -> bool:
    """Whether nobody has called this with the same path before."""
    try:
        Path(path).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def is_there(path: str) -> bool:
    return Path(path).exists()


class Echo(dspy.Module):
    """Gives back its text, and who ran it."""

    async def aforward(self, text: str) -> dspy.Prediction:
        return dspy.Prediction(text=text, pid=os.getpid())


class Nap(dspy.Module):
    """Sleeps on the loop, and can be stopped."""

    async def aforward(self, ms: int, mark: str = "") -> dspy.Prediction:
        leave_mark(mark)
        await asyncio.sleep(ms / 1000)
        return dspy.Prediction(pid=os.getpid())


class SyncQA(dspy.Module):
    """A synchronous program: it runs in a thread, and its LM calls wait there."""

    def __init__(self) -> None:
        super().__init__()
        self.answer = dspy.Predict("question -> answer")

    def forward(self, question: str) -> dspy.Prediction:
        return self.answer(question=question)


class Abort(dspy.Module):
    """Ends its process without a word, or by signal -`code`; with `once`, only if that file is not there yet."""

    async def aforward(self, mark: str = "", once: str = "", code: int = 7) -> dspy.Prediction:
        leave_mark(mark)
        if once and not is_first(once):
            return dspy.Prediction(pid=os.getpid())
        if code < 0:
            signal.signal(signal.SIGSEGV, signal.SIG_DFL)
            os.kill(os.getpid(), -code)
        os._exit(code)


class Spin(dspy.Module):
    """A thread in a Python loop: nothing but the end of its process stops it. Other threads get their turns."""

    def forward(self, mark: str = "") -> dspy.Prediction:
        leave_mark(mark)
        while True:
            pass


class Grip(dspy.Module):
    """A C call that holds the GIL: its whole process stands still, the loop with it."""

    def forward(self, mark: str = "") -> dspy.Prediction:
        leave_mark(mark)
        return dspy.Prediction(found=bool(re.match(r"(a+)+$", "a" * 64 + "b")))


class Deaf(dspy.Module):
    """A C call that sleeps for so long, and hears nothing."""

    def forward(self, ms: int, mark: str = "") -> dspy.Prediction:
        leave_mark(mark)
        time.sleep(ms / 1000)
        return dspy.Prediction(pid=os.getpid())


class Shielded(dspy.Module):
    """An asynchronous program that swallows its own cancellation, again and again."""

    async def aforward(self, mark: str = "") -> dspy.Prediction:
        leave_mark(mark)
        while True:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(3600)


class Glutton(dspy.Module):
    """Takes memory until the system refuses it more than `mib`."""

    def forward(self, mib: int) -> dspy.Prediction:
        import resource

        now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        old = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (now + mib * 1024 * 1024, old[1]))
        try:
            hoard = []
            while True:
                hoard.append(bytearray(16 * 1024 * 1024))
        finally:
            hoard.clear()
            resource.setrlimit(resource.RLIMIT_AS, old)


class Fat(dspy.Module):
    """An output of this many bytes."""

    async def aforward(self, size: int) -> dspy.Prediction:
        return dspy.Prediction(text="x" * size)


class Burst(dspy.Module):
    """Calls its LM so many times at once, and gives back how many answers came."""

    def __init__(self) -> None:
        super().__init__()
        self.answer = dspy.Predict("question -> answer")

    async def aforward(self, question: str, times: int) -> dspy.Prediction:
        answers = await asyncio.gather(*(self.answer.acall(question=f"{question} {n}") for n in range(times)))
        return dspy.Prediction(answers=len(answers))


class Moody(dspy.Module):
    """Asks its LM, and then fails as long as the file `broken` is there."""

    def __init__(self) -> None:
        super().__init__()
        self.answer = dspy.Predict("question -> answer")

    async def aforward(self, question: str, broken: str) -> dspy.Prediction:
        answer = await self.answer.acall(question=question)
        if is_there(broken):
            raise RuntimeError("out of order")
        return answer


qa = dspy.Predict("question -> answer")
sync_qa = SyncQA()
echo, nap, abort, spin, grip, deaf, shielded = Echo(), Nap(), Abort(), Spin(), Grip(), Deaf(), Shielded()
glutton, fat, burst, moody = Glutton(), Fat(), Burst(), Moody()
