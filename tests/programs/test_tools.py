"""Functions that a pool lends as tools, and DSPy's own tools in a pool's code."""

from __future__ import annotations

import asyncio
from typing import Any

import dspy
import pydantic
import pytest

from dspymq.worker.executor import registry
from dspymq.worker.executor.registry import Registry
from dspymq.worker.executor.tool_channel import ToolError
from tests.programs.rig import Pool, outputs


class Point(pydantic.BaseModel):
    x: int
    y: int = 0


def search(query: str, limit: int = 5) -> list[str]:
    """Titles of pages."""
    return [query] * limit


async def find(where: Point) -> int:
    """What is there."""
    await asyncio.sleep(0)
    return where.x + where.y


def lent(*functions: Any) -> Registry:
    made = Registry()
    for function in functions:
        made.add_tool(function)
    return made


def test_a_function_of_the_pool_as_a_tool() -> None:
    tools = lent(search, find).tools
    assert tools["search"](query="a", limit=2) == ["a", "a"]
    assert asyncio.run(tools["search"].acall(query="a", limit=1)) == ["a"]
    assert asyncio.run(tools["find"].acall(where={"x": 1})) == 1
    described = tools["search"].format_as_litellm_function_call()["function"]
    assert described["description"] == "Titles of pages."
    assert described["parameters"]["required"] == ["query"]


@pytest.mark.parametrize(
    ("name", "args", "problem"),
    [
        ("search", {}, "`query` is required"),
        ("search", {"query": "a", "limit": "many"}, "`limit`: 'many' is not of type 'integer'"),
        ("search", {"query": "a", "other": 1}, "there is no argument `other`"),
        ("find", {"where": {"y": 1}}, "'x' is a required property"),
        ("broken", {}, "the tool `broken` failed: KeyError: 'no such thing'"),
    ],
)
def test_what_goes_wrong_is_a_short_error(name: str, args: dict[str, Any], problem: str) -> None:
    def broken() -> None:
        raise KeyError("no such thing")

    tool = lent(search, find, broken).tools[name]
    with pytest.raises(ToolError) as caught:
        asyncio.run(tool.acall(**args))
    assert problem in str(caught.value)
    assert caught.value.__traceback__ is None, "ReAct would show it to the model"


def test_a_synchronous_tool_does_not_hold_the_loop() -> None:
    async def test() -> None:
        loop, entered = asyncio.get_running_loop(), asyncio.Event()

        def wait() -> str:
            # Ends only if the loop goes on meanwhile.
            asyncio.run_coroutine_threadsafe(entered.wait(), loop).result(20)
            return "done"

        call = asyncio.create_task(lent(wait).tools["wait"].acall())
        await asyncio.sleep(0)
        entered.set()
        assert await call == "done"

    asyncio.run(test())


@pytest.mark.parametrize("name", ["finish", "submit", "with space", "search", "x" * 65])
def test_names_that_cannot_be_lent(name: str) -> None:
    made = lent(search)
    with pytest.raises(ValueError, match=r"no name|another"):
        made.add_tool(find, name)


def test_decorators_lend_what_stands_in_a_pools_module(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "REGISTRY", Registry())
    assert registry.tool(search) is search
    assert registry.reward(len) is len
    registry.allow_code(dspy.LocalInterpreter)
    made = registry.REGISTRY
    assert (list(made.tools), list(made.rewards), made.interpreter) == (["search"], ["len"], dspy.LocalInterpreter)


def test_tools_that_nobody_offers_or_both(pool: Pool) -> None:
    pool.registry.add_tool(search)
    spec = {"kind": "react", "signature": "question -> answer", "tools": ["search", "nope"]}
    for functions, path in (({}, "/tools/1"), ({"search": search}, "/tools/0")):
        refused = pool.spec(spec, {"question": "x"}, functions=functions)
        assert (refused.reason, refused.details) == ("invalid_spec", {"path": path})


def test_dspy_tool_in_a_pools_code(pool: Pool) -> None:
    calls: list[str] = []
    made = dspy.Tool(
        lambda text: calls.append(text) or "ok",
        name="note",
        desc="Notes it.",
        args={"text": {"type": "string"}},
        arg_types={"text": str},
        arg_desc={"text": "what to note"},
    )
    pool.modules["it"] = dspy.ReAct("question -> answer", tools=[made])
    outputs(pool.call("it", {"question": 'hello #tools=note #args.note={"text": "x"}'}))
    assert calls == ["x"]


class Calls(dspy.Module):  # type: ignore[misc]
    """Has the model say calls, and makes them."""

    def __init__(self) -> None:
        super().__init__()
        fields = {
            "question": (str, dspy.InputField()),
            "tools": (list[dspy.Tool], dspy.InputField()),
            "calls": (dspy.ToolCalls, dspy.OutputField()),
        }
        self.inner = dspy.Predict(dspy.Signature(fields))

    async def aforward(self, question: str) -> Any:
        said = (await self.inner.acall(question=question, tools=[dspy.Tool(search)])).calls
        values = [call.execute([dspy.Tool(search)]) for call in said.tool_calls]
        results = dspy.ToolCallResults.from_tool_calls_and_values(said, values, [False] * len(values))
        return dspy.Prediction(found=[one.value for one in results.tool_call_results])


def test_tool_calls_and_their_results(pool: Pool) -> None:
    said = {"tool_calls": [{"name": "search", "args": {"query": "a", "limit": 2}}]}
    pool.lm.script(answer={"calls": said})
    pool.modules["it"] = Calls()
    assert outputs(pool.call("it", {"question": "hello"})) == {"found": [["a", "a"]]}
