"""Functions as tools: what the model is told of them, and what they are called with."""

import dataclasses
import datetime
import enum
import functools
import json
from typing import Annotated, Any, Literal, TypedDict

import msgspec
import pydantic
import pytest

from dspymq import Tool, exceptions
from dspymq.options import Options, attach_event, submit_event
from dspymq.protocol import body as bodies
from dspymq.tools import MAX_TOOLS, as_tools


class Unit(enum.Enum):
    C = "c"
    F = "f"


@dataclasses.dataclass
class Place:
    city: str
    country: str = "IT"


class Node(pydantic.BaseModel):
    name: str
    inner: "list[Node]" = []


class Extra(TypedDict, total=False):
    note: str


def weather(
    city: Annotated[str, "Where."],
    days: Annotated[int, msgspec.Meta(ge=1)] = 3,
    unit: Unit = Unit.C,
    mode: Literal["short", "long"] | None = None,
) -> str:
    """The weather in a city.

    For some days.
    """
    return f"{city} {days} {unit} {mode}"


async def later(x: int) -> int:
    return x


def test_name_docstring_and_annotations_are_what_the_model_reads():
    (tool,) = as_tools([weather])
    assert (tool.name, tool.description, tool.is_async) == (
        "weather",
        "The weather in a city.\n\nFor some days.",
        False,
    )
    schema = tool.parameters
    assert schema["required"] == ["city"]
    assert schema["properties"]["city"] == {"type": "string", "description": "Where."}
    assert schema["properties"]["days"] == {"type": "integer", "minimum": 1, "default": 3}
    assert schema["properties"]["unit"]["default"] == "c"
    assert schema["$defs"]["Unit"]["enum"] == ["c", "f"]
    assert "additionalProperties" not in schema
    assert json.loads(json.dumps(tool.spec)) == tool.spec
    assert as_tools([later])[0].is_async


def test_arguments_come_in_the_types_of_the_annotations():
    (tool,) = as_tools([weather])
    assert tool.arguments({"city": "Rome", "unit": "f"}) == {"city": "Rome", "unit": Unit.F}
    assert tool.arguments({"city": "Rome", "days": 2.0, "mode": None}) == {"city": "Rome", "days": 2, "mode": None}

    def all_kinds(
        place: Place, day: datetime.date, node: Node, extra: Extra, either: int | str, any_one, *, tags: set[str]
    ):
        pass

    (tool,) = as_tools([all_kinds])
    found = tool.arguments(
        {
            "place": {"city": "Rome"},
            "day": "2026-01-02",
            "node": {"name": "a", "inner": [{"name": "b"}]},
            "extra": {"note": "n"},
            "either": "5",
            "any_one": [1, {"x": None}],
            "tags": ["a", "a"],
        }
    )
    assert found == {
        "place": Place("Rome"),
        "day": datetime.date(2026, 1, 2),
        "node": Node(name="a", inner=[Node(name="b")]),
        "extra": {"note": "n"},
        "either": "5",
        "any_one": [1, {"x": None}],
        "tags": {"a"},
    }
    assert tool.parameters["required"] == list(found)
    assert tool.parameters["$defs"]["Node"]["properties"]["inner"]["items"] == {"$ref": "#/$defs/Node"}


@pytest.mark.parametrize(
    ("args", "words"),
    [({}, "city"), ({"city": 5}, "$.city"), ({"city": "R", "days": 0}, "$.days"), ({"city": "R", "x": 1}, "`x`")],
)
def test_arguments_that_do_not_fit_are_named(args, words):
    with pytest.raises(ValueError, match=r"\W") as caught:
        as_tools([weather])[0].arguments(args)
    assert words in str(caught.value)


def test_further_keywords_methods_partials_and_objects():
    def open_ended(a: int, **rest: Any):
        pass

    (tool,) = as_tools([open_ended])
    assert tool.parameters["additionalProperties"] is True
    assert tool.arguments({"a": 1, "b": "x"}) == {"a": 1, "b": "x"}

    class Shop:
        """Sells."""

        def price(self, item: str) -> float:
            """The price of an item."""
            return len(item)

        async def __call__(self, item: str) -> float:
            return len(item)

    shop = Shop()
    (tool,) = as_tools([shop.price])
    assert (tool.name, tool.description, list(tool.parameters["properties"])) == (
        "price",
        "The price of an item.",
        ["item"],
    )
    called = Tool("shop", shop)
    assert (called.description, called.is_async, called.parameters["required"]) == ("Sells.", True, ["item"])
    bound = Tool("rome", functools.partial(weather, "Rome"))
    assert (bound.description, list(bound.parameters["properties"])) == (
        "The weather in a city.\n\nFor some days.",
        ["days", "unit", "mode"],
    )


def test_a_tool_may_say_everything_itself():
    schema = {"type": "object", "properties": {"x": {"type": "integer"}}}
    tool = Tool("t", lambda **args: args, "What it does.", schema, timeout_s=1.5)
    assert tool.spec == {"name": "t", "description": "What it does.", "parameters": schema, "timeout_ms": 1_500}
    assert tool.arguments({"x": 1.0, "y": 2}) == {"x": 1.0, "y": 2}
    assert as_tools([tool]) == (tool,)


def positional(a, /):
    pass


def starred(*args):
    pass


def untyped(a: object):
    pass


def unresolved(a: "Nowhere"):  # noqa: F821
    pass


@pytest.mark.parametrize(
    ("tools", "words"),
    [
        ([lambda: 1], "use Tool(name, fn)"),
        ([functools.partial(weather)], "use Tool(name, fn)"),
        (["weather"], "neither a function nor a Tool"),
        (weather, "is a list"),
        ("weather", "is a list"),
        ([weather, weather], "another tool of this name"),
        ([Tool(f"t{n}", later) for n in range(MAX_TOOLS + 1)], f"the limit is {MAX_TOOLS}"),
        ([positional], "`a` cannot be given by name"),
        ([starred], "`args` cannot be given by name"),
        ([untyped], "no JSON Schema"),
        ([unresolved], "annotations cannot be read"),
    ],
)
def test_what_cannot_be_a_tool_says_why(tools, words):
    with pytest.raises(exceptions.InvalidArgument) as caught:
        Options().changed({"tools": tools})
    assert caught.value.reason == "invalid_tools"
    assert words in caught.value.message


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("two words", weather), "its name must be"),
        (("finish", weather), "belongs to DSPy"),
        (("t", 5), "cannot be called"),
        (("t", weather, "x" * 5_000), "description is longer"),
        (("t", weather, "", {"a": object()}), "no JSON Schema"),
    ],
)
def test_what_is_wrong_with_a_tool(arguments, words):
    with pytest.raises(exceptions.InvalidArgument, match=words):
        Tool(*arguments)
    with pytest.raises(exceptions.InvalidArgument, match="timeout_s"):
        Tool("t", weather, timeout_s=0)


def test_a_submit_offers_them_and_an_attach_takes_their_calls():
    options = Options().changed({"tools": [weather], "kind": "react", "max_iters": 5})
    given = {"job_id": "j", "stream": False, "watch": (), "resume": False}
    event = submit_event("question -> answer", {"question": "q"}, options, **given)
    assert event.message.want == ["tools"]
    body = bodies.decode(event.body)
    assert [tool["name"] for tool in body["tools"]] == ["weather"]
    assert body["spec"] == {"signature": "question -> answer", "kind": "react", "max_iters": 5}
    assert attach_event("j", options, stream=True, watch=()).message.want == ["chunks", "tools"]
    plain = submit_event("qa", {}, Options(), **given)
    assert (plain.message.want, bodies.decode(plain.body)) == ([], {"inputs": {}})
    assert options.changed({"tools": ()}).tools == ()
