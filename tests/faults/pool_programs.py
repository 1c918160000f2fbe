"""Programs that fork, print, hold the interpreter and close what is not theirs; for tests/faults/test_pool_rude.py."""

import asyncio
import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import dspy

__all__ = ["forks", "holds_gil", "loses", "prints", "qa", "two_calls"]


def note(mark: str) -> None:
    with Path(mark).open("a") as file:
        file.write(f"{os.getpid()}\n")


class Forks(dspy.Module):
    """Forks in one of several ways; `mark` gets a line of every process that comes back out of it."""

    async def aforward(self, how: str, mark: str) -> dspy.Prediction:
        if how == "child_returns":
            os.fork()
        elif how == "child_waits_on_the_loop":
            if os.fork() == 0:
                await asyncio.sleep(0.01)
        elif how == "child_lives_on":
            if os.fork() == 0:
                time.sleep(60)  # noqa: ASYNC251
                os._exit(0)
        elif how == "subprocess":
            await asyncio.to_thread(subprocess.run, [sys.executable, "-c", "pass"], check=True)
        elif how == "thread":
            await asyncio.to_thread(os.fork)
        elif how == "many":
            for _ in range(20):
                if os.fork() == 0:
                    os._exit(0)
        note(mark)
        return dspy.Prediction(pid=os.getpid())


class ForksInThread(dspy.Module):
    def forward(self, mark: str) -> dspy.Prediction:
        os.fork()
        note(mark)
        return dspy.Prediction(pid=os.getpid())


class Prints(dspy.Module):
    """So many MiB to stdout and to stderr, through Python and past it."""

    def forward(self, mib: int) -> dspy.Prediction:
        line = "x" * 1023 + "\n"
        for _ in range(mib * 1024):
            sys.stdout.write(line)
        for _ in range(mib):
            os.write(2, (line * 1024).encode())
        return dspy.Prediction(pid=os.getpid())


class HoldsGil(dspy.Module):
    """Sleeps in C without giving the interpreter to anybody else."""

    def forward(self, ms: int) -> dspy.Prediction:
        ctypes.PyDLL(None).usleep(ms * 1000)
        return dspy.Prediction(pid=os.getpid())


class Loses(dspy.Module):
    """Loses what it stands on; with `once`, only the first time."""

    async def aforward(self, what: str, once: str) -> dspy.Prediction:
        try:
            os.close(os.open(once, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return dspy.Prediction(pid=os.getpid())
        if what == "pipe":
            # Every socket of this process is its pipe or one of its loop's.
            for fd in range(3, 1_000):
                try:
                    if os.readlink(f"/proc/self/fd/{fd}").startswith("socket:"):
                        os.close(fd)
                except OSError:
                    continue
        elif what == "signals":
            for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD, signal.SIGUSR1, signal.SIGPIPE):
                signal.signal(number, signal.SIG_DFL)
            signal.set_wakeup_fd(-1)
            return dspy.Prediction(pid=os.getpid())
        elif what == "segfault":
            ctypes.string_at(0)
        await asyncio.sleep(600)
        return dspy.Prediction(pid=0)


class TwoCalls(dspy.Module):
    """Asks its LM, and asks again."""

    def __init__(self) -> None:
        super().__init__()
        self.answer = dspy.Predict("question -> answer")

    async def aforward(self, question: str) -> dspy.Prediction:
        await self.answer.acall(question=question)
        return await self.answer.acall(question=f"{question} again")


forks, forks_in_thread, prints, holds_gil, loses = Forks(), ForksInThread(), Prints(), HoldsGil(), Loses()
two_calls = TwoCalls()
qa = dspy.Predict("question -> answer")
__all__ += ["forks_in_thread"]
