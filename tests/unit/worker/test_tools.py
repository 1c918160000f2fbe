"""Programs that call the tools of their client: on the loop and in threads, answers, errors, deadlines, stops."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import dspy
import msgpack
import pytest

from dspymq.protocol import worker_messages as w
from dspymq.worker.executor.context import CancelToken
from dspymq.worker.executor.inputs import MARKER
from dspymq.worker.executor.jobs import Job, JobRunner, Outcome, Watcher
from dspymq.worker.executor.specs import INLINE, SpecCache
from dspymq.worker.executor.tool_calls import OpenCall
from dspymq.worker.executor.tool_channel import MAX_OPEN_CALLS, ToolChannel, ToolError
from dspymq.worker.executor.tool_specs import ToolsetCache
from dspymq.worker.executor.tools import ClientTool, client_tools
from tests.unit.worker.kit import FakeEngine, chat, job, outputs, run, runner

ADD = {
    "name": "add",
    "description": "The sum of two numbers.",
    "parameters": {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
        "required": ["a", "b"],
    },
}
INSTANCE = {"name": "restart", "parameters": {"properties": {"instance": {}, "self": {}, "args": {}, "kwargs": {}}}}


class Played:
    """The client's side of a channel: `calls` are those that were sent, `answer` decides about each."""

    def __init__(self, answer: Callable[[Played, OpenCall], None] | None = None) -> None:
        self.calls: list[OpenCall] = []
        self.timeouts: list[int] = []
        self.came = asyncio.Event()
        self._answer = answer
        self.channel = ToolChannel(self._sent, loop=asyncio.get_running_loop(), max_body_bytes=10_000)

    def _sent(self, call: OpenCall, timeout_ms: int) -> None:
        self.calls.append(call)
        self.timeouts.append(timeout_ms)
        self.came.set()
        if self._answer is not None:
            self._answer(self, call)

    def args(self, number: int = -1) -> Any:
        return msgpack.unpackb(self.calls[number].body)["args"]

    def give(self, value: Any, call: int = 0, **fields: Any) -> None:
        result = w.ToolResult(**{"lease": "l", "attempt": 1, "call": call, "code": "OK", **fields})
        self.channel.answer(result, msgpack.packb({"value": value}))

    async def run(self, made: JobRunner, one: Job, token: CancelToken | None = None) -> Outcome:
        return await made.run(one, token or CancelToken(), None, Watcher(), self.channel)


def giving(value: Any, **fields: Any) -> Callable[[Played, OpenCall], None]:
    return lambda played, call: played.give(value, call.number, **fields)


def adding(played: Played, call: OpenCall) -> None:
    args = msgpack.unpackb(call.body)["args"]
    played.give(args["a"] + args["b"], call.number)


class Calls(dspy.Module):  # type: ignore[misc]
    """Calls the client's first tool with `args` and gives back what it got, or the error's text."""

    async def aforward(self, args: dict) -> Any:  # type: ignore[type-arg]
        (tool, *_) = client_tools()
        try:
            return dspy.Prediction(got=await tool.acall(**args))
        except ToolError as error:
            return dspy.Prediction(got=f"error: {error}")


class CallsInThread(dspy.Module):  # type: ignore[misc]
    def forward(self, args: dict) -> Any:  # type: ignore[type-arg]
        (tool, *_) = client_tools()
        try:
            return dspy.Prediction(got=tool(**args))
        except ToolError as error:
            return dspy.Prediction(got=f"error: {error}")


class CallsMany(dspy.Module):  # type: ignore[misc]
    async def aforward(self, count: int) -> Any:
        (tool,) = client_tools()
        return dspy.Prediction(got=await asyncio.gather(*(tool.acall(a=n, b=0) for n in range(count))))


class Agent(dspy.Module):  # type: ignore[misc]
    """A ReAct of its own making, as programs on workers have it."""

    def __init__(self, *, sync: bool) -> None:
        super().__init__()
        if sync:
            self.forward = lambda question: self._made()(question=question)
        else:
            self.aforward = lambda question: self._made().acall(question=question)

    def _made(self) -> Any:
        return dspy.ReAct("question -> answer", tools=client_tools(), max_iters=3)


BOTH = {"on the loop": Calls(), "in a thread": CallsInThread()}


def steps(*turns: tuple[str, dict[str, Any]], seen: list[str]) -> FakeEngine:
    """An LM that takes these turns and then answers `done`."""

    def answer(prompt: str) -> str:
        seen.append(prompt)
        turn = prompt.count("[[ ## observation_")
        if "next_tool_name" not in prompt:
            return chat(reasoning="r", answer="done")
        name, args = turns[turn] if turn < len(turns) else ("finish", {})
        return chat(next_thought="t", next_tool_name=name, next_tool_args=json.dumps(args))

    return FakeEngine(answer)


@pytest.mark.parametrize("program", BOTH)
def test_a_program_gets_what_the_client_gives(program: str) -> None:
    async def test() -> None:
        played = Played(adding)
        made = runner({}, BOTH)
        found = await played.run(made, job(program, {"args": {"a": 2, "b": 3}}, tools=[ADD]))
        assert outputs(found) == {"got": 5}
        assert [(call.number, call.name) for call in played.calls] == [(0, "add")]
        assert played.args() == {"a": 2, "b": 3}
        assert 9_000 < played.timeouts[0] <= 10_000

    run(test)


@pytest.mark.parametrize("program", BOTH)
@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (giving(None, code="UNKNOWN", message="KeyError: 'x'"), "the tool `add` failed: KeyError: 'x'"),
        (giving(None, code="NOT_FOUND"), "the tool `add` failed: NOT_FOUND"),
        (giving(None, code="UNKNOWN", message=f"{MARKER}[]"), "the tool `add` failed: <<CUSTOM\u2011TYPE"),
        (
            lambda played, call: played.channel.answer(
                w.ToolResult(lease="l", attempt=1, call=call.number, code="OK"), b"\xc1"
            ),
            "unreadable",
        ),
        (lambda played, call: None, "the tool `add` gave no answer within 50 ms"),
        (giving(None, code="DEADLINE_EXCEEDED", message="no answer"), "the tool `add` gave no answer within 50 ms"),
    ],
    ids=["raised", "unknown", "marker in the error", "garbage", "late", "the client says that it is late"],
)
def test_what_goes_wrong_at_the_client_is_a_short_error(program: str, answer: Any, error: str) -> None:
    async def test() -> None:
        played = Played(answer)
        tools = [{**ADD, "timeout_ms": 50}]
        found = await played.run(runner({}, BOTH), job(program, {"args": {"a": 2, "b": 3}}, tools=tools))
        assert error in outputs(found)["got"]
        assert played.timeouts == [50]

    run(test)


@pytest.mark.parametrize("program", BOTH)
def test_what_a_tool_gives_is_nothing_but_text(program: str) -> None:
    async def test() -> None:
        played = Played(giving({"x": [f"a {MARKER}[]", "[[ ## answer ## ]]", "b"]}))
        found = await played.run(runner({}, BOTH), job(program, {"args": {"a": 2, "b": 3}}, tools=[ADD]))
        assert outputs(found)["got"] == {
            "x": ["a <<CUSTOM\u2011TYPE-START-IDENTIFIER>>[]", "[[\u00a0## answer ## ]]", "b"]
        }

    run(test)


@pytest.mark.parametrize("program", BOTH)
@pytest.mark.parametrize(
    ("args", "error"),
    [
        ({"a": 1}, "`b` is required"),
        ({"a": 1, "b": 2, "c": 3}, "there is no argument `c`"),
        ({"a": 1, "b": "2"}, "`b`: '2' is not of type 'integer'"),
    ],
)
def test_wrong_arguments_never_reach_the_client(program: str, args: Any, error: str) -> None:
    async def test() -> None:
        played = Played(adding)
        found = await played.run(runner({}, BOTH), job(program, {"args": args}, tools=[ADD]))
        assert error in outputs(found)["got"]
        assert played.calls == []

    run(test)


def test_arguments_that_are_too_large_or_no_data() -> None:
    class Odd(dspy.Module):  # type: ignore[misc]
        async def aforward(self) -> Any:
            (tool,) = client_tools()
            errors = []
            for value in ("x" * 20_000, object()):
                with pytest.raises(ToolError) as caught:
                    await tool.acall(value=value)
                errors.append(str(caught.value))
            return dspy.Prediction(errors=errors)

    async def test() -> None:
        tools = [{"name": "t", "parameters": {"properties": {"value": {}}}}]
        found = outputs(await Played().run(runner({}, {"odd": Odd()}), job("odd", {}, tools=tools)))
        assert "have 20016 bytes, the limit is 10000" in found["errors"][0]
        assert "have no plain form" in found["errors"][1]

    run(test)


@pytest.mark.parametrize("program", BOTH)
def test_arguments_may_have_any_name(program: str) -> None:
    async def test() -> None:
        played = Played(giving("ok"))
        args = {"instance": "i-1", "self": 1, "args": 2, "kwargs": 3}
        found = await played.run(runner({}, BOTH), job(program, {"args": args}, tools=[INSTANCE]))
        assert outputs(found) == {"got": "ok"}
        assert played.args() == args

    run(test)


def test_an_error_that_no_program_catches_ends_the_job() -> None:
    class Careless(dspy.Module):  # type: ignore[misc]
        async def aforward(self) -> Any:
            (tool,) = client_tools()
            return await tool.acall(a=1, b=2)

    async def test() -> None:
        played = Played(giving(None, code="UNKNOWN", message="boom"))
        found = await played.run(runner({}, {"careless": Careless()}), job("careless", {}, tools=[ADD]))
        assert (found.code, found.reason) == ("UNKNOWN", "program_error")
        assert found.message == "ToolError: the tool `add` failed: boom"

    run(test)


def test_a_second_answer_is_ignored() -> None:
    def twice(played: Played, call: OpenCall) -> None:
        played.give("first", call.number)
        played.give("second", call.number)
        played.give("of no call", 17)

    async def test() -> None:
        found = await Played(twice).run(runner({}, BOTH), job("on the loop", {"args": {"a": 1, "b": 2}}, tools=[ADD]))
        assert outputs(found) == {"got": "first"}

    run(test)


def test_open_calls_are_sent_again_on_attach_and_the_number_stays() -> None:
    async def test() -> None:
        played = Played()
        one = job("on the loop", {"args": {"a": 1, "b": 2}}, tools=[ADD])
        running = asyncio.create_task(played.run(runner({}, BOTH), one))
        await played.came.wait()
        played.channel.attach(wanted=False)
        assert len(played.calls) == 1
        played.channel.attach(wanted=True)
        assert [call.number for call in played.calls] == [0, 0]
        assert played.calls[0] is played.calls[1]
        assert played.timeouts[1] <= played.timeouts[0]
        played.give(3)
        assert outputs(await running) == {"got": 3}
        played.channel.attach(wanted=True)
        assert len(played.calls) == 2

    run(test)


def test_a_call_while_nobody_takes_calls_is_sent_when_somebody_does() -> None:
    async def test() -> None:
        played = Played(adding)
        played.channel.attach(wanted=False)
        one = job("on the loop", {"args": {"a": 1, "b": 2}}, tools=[ADD])
        running = asyncio.create_task(played.run(runner({}, BOTH), one))
        for _ in range(50):
            await asyncio.sleep(0)
        assert len(played.channel._open) == 1
        assert played.calls == []
        played.channel.attach(wanted=True)
        assert outputs(await running) == {"got": 3}

    run(test)


@pytest.mark.parametrize("program", BOTH)
def test_cancel_ends_the_wait_at_once(program: str) -> None:
    async def test() -> None:
        played = Played()
        token = CancelToken()
        running = asyncio.create_task(
            played.run(runner({}, BOTH), job(program, {"args": {"a": 1, "b": 2}}, tools=[ADD]), token)
        )
        await played.came.wait()
        began = asyncio.get_running_loop().time()
        token.cancel("cancel")
        found = await running
        assert (found.code, found.reason) == ("CANCELLED", "cancelled")
        assert asyncio.get_running_loop().time() - began < 1
        assert not played.channel._open
        played.give(3)

    run(test)


@pytest.mark.parametrize("program", BOTH)
def test_the_jobs_deadline_ends_the_wait(program: str) -> None:
    async def test() -> None:
        played = Played()
        tools = [{**ADD, "timeout_ms": 60_000}]
        one = job(program, {"args": {"a": 1, "b": 2}}, tools=tools, timeout_ms=200)
        found = await played.run(runner({}, BOTH), one)
        assert (found.code, found.reason) == ("DEADLINE_EXCEEDED", "deadline")
        assert 100 < played.timeouts[0] <= 200

    run(test)


def test_what_a_job_left_running_calls_nobody() -> None:
    left: list[asyncio.Task[Any]] = []
    go = asyncio.Event()

    class Leaves(dspy.Module):  # type: ignore[misc]
        async def aforward(self) -> Any:
            (tool,) = client_tools()

            async def later() -> Any:
                await go.wait()
                return await tool.acall(a=1, b=2)

            left.append(asyncio.create_task(later()))
            return dspy.Prediction(x=1)

    async def test() -> None:
        played = Played(adding)
        assert (await played.run(runner({}, {"leaves": Leaves()}), job("leaves", {}, tools=[ADD]))).code == "OK"
        go.set()
        with pytest.raises(asyncio.CancelledError):
            await left[0]
        assert played.calls == []

    run(test)


def test_open_calls_of_one_attempt_are_bounded() -> None:
    async def test() -> None:
        played = Played()
        one = job("many", {"count": MAX_OPEN_CALLS + 8}, tools=[ADD])
        running = asyncio.create_task(played.run(runner({}, {"many": CallsMany()}), one))
        await played.came.wait()
        for _ in range(20):
            await asyncio.sleep(0)
        assert len(played.calls) == MAX_OPEN_CALLS
        answered = 0
        while answered < MAX_OPEN_CALLS + 8:
            if answered < len(played.calls):
                call = played.calls[answered]
                played.give(msgpack.unpackb(call.body)["args"]["a"], call.number)
                answered += 1
            else:
                await asyncio.sleep(0)
        assert sorted(outputs(await running)["got"]) == list(range(MAX_OPEN_CALLS + 8))

    run(test)


def test_a_synchronous_call_on_the_loop_says_what_to_write_instead() -> None:
    class Wrong(dspy.Module):  # type: ignore[misc]
        async def aforward(self) -> Any:
            (tool,) = client_tools()
            return tool(a=1, b=2)

    async def test() -> None:
        played = Played(adding)
        found = await played.run(runner({}, {"wrong": Wrong()}), job("wrong", {}, tools=[ADD]))
        assert found.reason == "program_error"
        assert "await tool.acall" in str(found.message)

    run(test)


def test_outside_of_a_job_there_are_no_tools() -> None:
    async def test() -> None:
        assert client_tools() == []
        found = await runner({}, {"none": _None()}).run(job("none", {}), CancelToken())
        assert outputs(found) == {"tools": 0}
        (spec,) = ToolsetCache().toolset([ADD]).specs
        with pytest.raises(ToolError, match="outside of its job"):
            await ClientTool(spec, None).acall(a=1, b=2)

    run(test)


class _None(dspy.Module):  # type: ignore[misc]
    async def aforward(self) -> Any:
        return dspy.Prediction(tools=len(client_tools()))


def test_inline_react() -> None:
    async def test() -> None:
        seen: list[str] = []
        engine = steps(("add", {"a": 2, "b": 3}), ("add", {"a": 5, "b": 5}), seen=seen)
        played = Played(adding)
        spec = {"signature": "question -> answer", "kind": "react", "instructions": "Use the tools.", "max_iters": 5.0}
        one = job(INLINE, {"question": "q"}, tools=[ADD], spec=spec)
        found = await played.run(runner(engine, {}), one)
        assert outputs(found) == {"answer": "done"}
        assert [played.args(n) for n in range(2)] == [{"a": 2, "b": 3}, {"a": 5, "b": 5}]
        assert "[[ ## observation_1 ## ]]\n10" in seen[2]
        assert found.usage.calls == 4
        assert found.revision

    run(test)


def test_the_model_reads_short_errors_and_no_path() -> None:
    async def test(program: str) -> None:
        seen: list[str] = []
        engine = steps(("add", {"a": 2, "b": 3}), ("add", {"a": 2}), seen=seen)
        played = Played(giving(None, code="UNKNOWN", message="boom"))
        made = runner(engine, {"loop": Agent(sync=False), "thread": Agent(sync=True)})
        extra = {"spec": {"signature": "question -> answer", "kind": "react"}} if program == INLINE else {}
        found = await played.run(made, job(program, {"question": "q"}, tools=[ADD], **extra))
        assert outputs(found)["answer"] == "done"
        assert "the tool `add` failed: boom" in seen[1]
        assert "`b` is required" in seen[2]
        assert not any("Traceback" in prompt or 'File "' in prompt for prompt in seen)

    for program in (INLINE, "loop", "thread"):
        run(lambda program=program: test(program))


def test_jobs_with_equal_tools_share_a_program_and_not_their_calls() -> None:
    async def test() -> None:
        seen: list[str] = []
        made = runner(steps(("add", {"a": 2, "b": 3}), seen=seen), {})
        spec = {"signature": "question -> answer", "kind": "react"}
        clients = [Played(adding) for _ in range(5)]
        one = job(INLINE, {"question": "q"}, tools=[ADD], spec=spec)
        found = await asyncio.gather(*(client.run(made, one) for client in clients))
        assert [outputs(outcome)["answer"] for outcome in found] == ["done"] * 5
        assert [len(client.calls) for client in clients] == [1] * 5
        assert len(made._specs) == 1

    run(test)


def test_agents_are_kept_by_spec_and_tools() -> None:
    tools = ToolsetCache()
    cache = SpecCache(agents=2)
    spec = {"signature": "q -> a", "kind": "react"}
    first = cache.program(spec, tools.toolset([ADD]))
    assert cache.program({**spec, "max_iters": 20}, tools.toolset([ADD])) is first
    assert first.interface.outputs == ("a",)
    other = cache.program(spec, tools.toolset([{**ADD, "timeout_ms": 5}]))
    assert other is not first
    assert other.revision == first.revision
    assert cache.program({**spec, "max_iters": 3}, tools.toolset([ADD])).revision != first.revision
    assert len(cache) == 2


@pytest.mark.parametrize(
    ("parts", "reason", "message"),
    [
        ({"spec": {"signature": "q -> a", "kind": "react"}}, "invalid_tools", "at least one tool"),
        ({"spec": {"signature": "q -> a"}, "tools": [ADD]}, "invalid_tools", "use the kind react"),
        ({"spec": {"signature": "q -> trajectory", "kind": "react"}, "tools": [ADD]}, "invalid_spec", "`trajectory`"),
        ({"spec": {"signature": "max_iters -> a", "kind": "react"}, "tools": [ADD]}, "invalid_spec", "`max_iters`"),
        ({"spec": {"signature": "q -> a", "kind": "react"}, "tools": [5]}, "invalid_tools", "tools[0]"),
    ],
)
def test_refusals_before_any_lm_call(parts: dict[str, Any], reason: str, message: str) -> None:
    async def test() -> None:
        engine = FakeEngine(lambda prompt: "")
        found = await Played().run(runner(engine, {}), job(INLINE, {"q": "x"}, **parts))
        assert (found.code, found.reason) == ("INVALID_ARGUMENT", reason)
        assert message in str(found.message)
        assert engine.calls == 0

    run(test)


def test_native_function_calls_know_what_is_required() -> None:
    (spec,) = ToolsetCache().toolset([{**ADD, "parameters": {**ADD["parameters"], "required": ["a"]}}]).specs
    tool = ClientTool(spec, None)
    shown = tool.format_as_litellm_function_call()["function"]
    assert shown["parameters"]["required"] == ["a"]
    assert list(shown["parameters"]["properties"]) == ["a", "b"]
    assert "Required: a." in str(tool)
