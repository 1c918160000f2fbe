"""The tools of a job at work: on the loop, in threads, beside each other, and stopped."""

import asyncio
import contextvars
import threading
from typing import Any

import pytest

from dspymq import Tool
from dspymq.events import ToolCalled
from dspymq.protocol import body as bodies
from dspymq.tool_calls import Answer
from dspymq.tool_runner import AT_ONCE, MAX_MESSAGE_CHARS, ToolRunner
from dspymq.tools import as_tools

who = contextvars.ContextVar("who", default="nobody")


class Played:
    """A runner whose answers are collected."""

    def __init__(self, *tools: Any) -> None:
        self.answers: dict[int, Answer] = {}
        self.news = asyncio.Event()
        self.runner = ToolRunner(as_tools(tools), self._answered)
        self._next = 0

    def _answered(self, run: int, answer: Answer) -> None:
        assert run not in self.answers
        self.answers[run] = answer
        self.news.set()

    def call(self, name: str, timeout_ms: int = 10_000, **args: Any) -> int:
        self._next += 1
        self.runner.call(ToolCalled("j", self._next, name, bodies.encode(args=args), timeout_ms))
        return self._next

    async def answer(self, run: int) -> Answer:
        async with asyncio.timeout(10):
            while run not in self.answers:
                self.news.clear()
                await self.news.wait()
        return self.answers[run]

    async def value(self, run: int) -> Any:
        answer = await self.answer(run)
        assert answer.code == "OK", answer
        return bodies.decode(answer.body).get("value")


def run(test):
    async def bounded():
        async with asyncio.timeout(30):
            await test()

    asyncio.run(bounded())


def double(x: int) -> int:
    return 2 * x


async def adouble(x: int) -> int:
    await asyncio.sleep(0)
    return 2 * x


def where(x: int) -> list[Any]:
    return [threading.current_thread() is threading.main_thread(), who.get()]


async def awhere(x: int) -> list[Any]:
    return [threading.current_thread() is threading.main_thread(), who.get()]


def test_values_of_both_kinds():
    async def test():
        played = Played(double, adouble, Tool("lazy", lambda x: adouble(x), "", {}), Tool("none", lambda: None))
        runs = [played.call(name, x=4) for name in ("double", "adouble", "lazy")]
        assert [await played.value(one) for one in runs] == [8, 8, 8]
        assert await played.value(played.call("none")) is None

    run(test)


def test_plain_functions_run_in_threads_and_both_see_the_callers_context():
    async def test():
        who.set("me")
        played = Played(where, awhere)
        who.set("somebody else")
        assert await played.value(played.call("where", x=1)) == [False, "me"]
        assert await played.value(played.call("awhere", x=1)) == [True, "me"]

    run(test)


def fails(x: int) -> None:
    raise KeyError(f"no\n{x}")


async def afails(x: int) -> None:
    raise KeyError(f"no\n{x}")


def leaves(x: int) -> None:
    raise SystemExit(x)


async def gives_up(x: int) -> None:
    raise asyncio.CancelledError


async def is_late(x: int) -> None:
    raise TimeoutError("own")


def gives_object(x: int) -> Any:
    return object()


async def agives_object(x: int) -> Any:
    return [object()]


@pytest.mark.parametrize(
    ("tool", "code", "message"),
    [
        (fails, "UNKNOWN", r"KeyError: 'no\n1'"),
        (afails, "UNKNOWN", r"KeyError: 'no\n1'"),
        (leaves, "UNKNOWN", "SystemExit: 1"),
        (gives_up, "UNKNOWN", "CancelledError"),
        (is_late, "UNKNOWN", "TimeoutError: own"),
        (gives_object, "INTERNAL", "what gives_object returned cannot be sent"),
        (agives_object, "INTERNAL", "what agives_object returned cannot be sent"),
    ],
)
def test_what_goes_wrong_is_a_short_answer(tool, code, message, caplog):
    async def test():
        played = Played(tool)
        answer = await played.answer(played.call(tool.__name__, x=1))
        assert (answer.code, answer.body) == (code, b"")
        assert answer.message.startswith(message)
        assert "Traceback" not in answer.message

    run(test)
    if code == "UNKNOWN":
        assert f"name={tool.__name__}" in caplog.text
        assert "no\n1" not in caplog.text


def test_unknown_tools_and_arguments_that_do_not_fit():
    async def test():
        played = Played(double)
        unknown = await played.answer(played.call("duoble", x=1))
        assert (unknown.code, "there are double" in unknown.message) == ("NOT_FOUND", True)
        for args in ({}, {"x": "two"}, {"x": 1, "y": 2}):
            assert (await played.answer(played.call("double", **args))).code == "INVALID_ARGUMENT"
        played.runner.call(ToolCalled("j", 99, "double", b"\xc1", 1_000))
        assert (await played.answer(99)).code == "INVALID_ARGUMENT"

    run(test)


def test_long_messages_are_cut():
    def talks() -> None:
        raise ValueError("x" * 10_000)

    async def test():
        played = Played(talks)
        assert len((await played.answer(played.call("talks"))).message) == MAX_MESSAGE_CHARS

    run(test)


def test_a_coroutine_is_stopped_when_its_time_is_over():
    stopped = []

    async def hangs() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            stopped.append(True)

    async def test():
        played = Played(hangs)
        answer = await played.answer(played.call("hangs", timeout_ms=30))
        assert (answer.code, answer.message) == ("DEADLINE_EXCEEDED", "no answer within 30 ms")
        assert stopped == [True]

    run(test)


def test_a_thread_that_is_too_late_is_answered_for_and_then_dropped():
    go = threading.Event()

    def hangs() -> int:
        go.wait(20)
        return 1

    async def test():
        played = Played(hangs, double)
        assert (await played.answer(played.call("hangs", timeout_ms=30))).code == "DEADLINE_EXCEEDED"
        go.set()
        assert await played.value(played.call("double", x=1)) == 2

    run(test)


def test_only_so_many_run_at_once_also_those_that_nobody_waits_for():
    go = threading.Event()
    lock = threading.Lock()
    started = []

    def waits(x: int) -> int:
        with lock:
            started.append(x)
        go.wait(20)
        return x

    async def test():
        played = Played(waits)
        runs = [played.call("waits", x=n, timeout_ms=100) for n in range(AT_ONCE)]
        runs.append(played.call("waits", x=AT_ONCE))
        for one in runs[:-1]:
            assert (await played.answer(one)).code == "DEADLINE_EXCEEDED"
        assert sorted(started) == list(range(AT_ONCE))
        go.set()
        assert await played.value(runs[-1]) == AT_ONCE

    run(test)


def test_what_is_stopped_answers_nothing():
    go = threading.Event()
    stopped = []

    def thread() -> int:
        go.wait(20)
        return 1

    async def coroutine() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            stopped.append(True)

    async def test():
        played = Played(thread, coroutine, double)
        for name in ("thread", "coroutine"):
            played.call(name)
        await asyncio.sleep(0)
        played.runner.stop()
        go.set()
        again = played.call("double", x=2)
        assert await played.value(again) == 4
        assert set(played.answers) == {again}
        assert stopped == [True]

    run(test)
