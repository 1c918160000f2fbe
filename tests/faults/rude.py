"""Programs with bad manners, for tests/faults/test_rude_programs.py. Imported by executors only."""

import asyncio
import os
import signal
import sys
import threading
import time
from typing import Any

import dspy

__all__ = ["leaves", "raises", "returns", "rude", "tidy"]


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


class Tag(str):
    __slots__ = ()


class Odd(Exception):
    """Everything that is read of an error is of a kind that nothing can be made of."""

    message: Any = property(lambda self: 1 / 0)
    args: Any = ()


ERRORS = {
    "mute": Mute,
    "odd": Odd,
    "long": lambda: ValueError("x" * 20_000_000),
    "surrogate": lambda: ValueError("half \ud800 of a pair"),
    "tag": lambda: ValueError(Tag("tagged")),
    "exit": lambda: SystemExit(3),
    "interrupt": lambda: KeyboardInterrupt(),
    "generator": lambda: GeneratorExit(),
    "cancelled": lambda: asyncio.CancelledError("mine"),
    "base": lambda: BaseException("base"),
    "stop": lambda: StopIteration(5),
    "async_stop": lambda: StopAsyncIteration(5),
    "group": lambda: BaseExceptionGroup("many", [ValueError("a"), KeyboardInterrupt()]),
    "timeout": lambda: TimeoutError(),
    "recursion": lambda: recurse(0),
    "memory": lambda: MemoryError(),
}


def recurse(depth: int) -> BaseException:
    return recurse(depth + 1)


class Raises(dspy.Module):
    async def aforward(self, kind: str) -> dspy.Prediction:
        raise ERRORS[kind]()


class RaisesInThread(dspy.Module):
    def forward(self, kind: str) -> dspy.Prediction:
        raise ERRORS[kind]()


class Evil(dict):  # type: ignore[type-arg]
    def items(self) -> Any:
        raise RuntimeError("no items")

    def __iter__(self) -> Any:
        raise RuntimeError("no keys")


def endless() -> list[Any]:
    found: list[Any] = []
    found.append(found)
    return found


def deep() -> list[Any]:
    found: list[Any] = []
    for _ in range(5_000):
        found = [found]
    return found


VALUES = {
    "none": lambda: None,
    "number": lambda: 7,
    "class": lambda: dspy.Prediction,
    "evil": lambda: Evil(a=1),
    "object": lambda: dspy.Prediction(value=object()),
    "function": lambda: dspy.Prediction(value=len),
    "endless": lambda: dspy.Prediction(value=endless()),
    "deep": lambda: dspy.Prediction(value=deep()),
    "huge": lambda: dspy.Prediction(value=1 << 200),
    "surrogate": lambda: dspy.Prediction(value="half \ud800 of a pair"),
    "keys": lambda: dspy.Prediction(value={(1, 2): 3}),
    "generator": lambda: dspy.Prediction(value=(n for n in range(3))),
    "coroutine": lambda: asyncio.sleep(0),
}


class Returns(dspy.Module):
    async def aforward(self, kind: str) -> Any:
        return VALUES[kind]()


class Leaves(dspy.Module):
    """Leaves something behind that was not there before."""

    async def aforward(self, what: str) -> dspy.Prediction:
        if what == "thread":
            threading.Thread(target=time.sleep, args=(600,)).start()
        elif what == "task":
            self.task = asyncio.create_task(asyncio.sleep(600))
        elif what == "failing_task":
            self.task = asyncio.create_task(fail())
        elif what == "cwd":
            os.chdir("/")
        elif what == "environ":
            os.environ.clear()
        elif what == "stdout":
            sys.stdout.close()
            sys.stderr.close()
        elif what == "output":
            print("x" * 3_000_000, file=sys.stderr)
        elif what == "handlers":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            asyncio.get_running_loop().set_exception_handler(lambda *_: 1 / 0)
        elif what == "settings":
            dspy.settings.configure(lm=None, trace=[1])
        elif what == "trace":
            sys.settrace(lambda *_: None)
        return dspy.Prediction(pid=os.getpid())


async def fail() -> None:
    raise RuntimeError("nobody waits for this")


class Rude(dspy.Module):
    """Harms its own process in a way that ends it, now or soon; with `once`, only the first time."""

    async def aforward(self, how: str, once: str) -> dspy.Prediction:
        try:
            os.close(os.open(once, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return dspy.Prediction(pid=os.getpid())
        if how == "close_all":
            os.closerange(3, 1_000)
        elif how == "fork_and_leave":
            if os.fork() == 0:
                os.execv("/bin/sleep", ["sleep", "2"])
            os._exit(0)
        elif how == "stop_loop":
            asyncio.get_running_loop().stop()
            await asyncio.sleep(600)
        elif how == "alarm":
            signal.alarm(1)
            await asyncio.sleep(600)
        elif how == "exec":
            os.execv("/bin/sleep", ["sleep", "2"])
        return dspy.Prediction(pid=0)


class Tidy(dspy.Module):
    async def aforward(self, text: str) -> dspy.Prediction:
        return dspy.Prediction(text=text, pid=os.getpid())


raises, raises_in_thread, returns, leaves, rude, tidy = Raises(), RaisesInThread(), Returns(), Leaves(), Rude(), Tidy()
__all__ += ["raises_in_thread"]
