"""The tools of a body: what is taken, what is refused, and how arguments are checked."""

import time
from typing import Any

import pytest

from dspymq.worker.executor.failures import JobError
from dspymq.worker.executor.inputs import MARKER
from dspymq.worker.executor.tool_schema import MAX_SCHEMA_DEPTH, Parameters, SchemaProblem
from dspymq.worker.executor.tool_specs import MAX_TOOLS, NO_TOOLS, ToolsetCache, parse_tools

CITY = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "minLength": 2, "description": "Where."},
        "days": {"type": "integer", "minimum": 1, "default": 3},
        "unit": {"enum": ["c", "f"]},
        "tags": {"type": "array", "items": {"type": "string"}},
    },
    "required": ["city"],
}
NODE = {"type": "object", "properties": {"name": {"type": "string"}, "next": {"$ref": "#/$defs/Node"}}}


def tool(**changes: Any) -> dict[str, Any]:
    return {"name": "weather", "description": "The weather.", "parameters": CITY, **changes}


def test_what_a_tool_may_say() -> None:
    (spec,) = parse_tools([tool(timeout_ms=1_500.0)])
    assert (spec.name, spec.description, spec.timeout_ms) == ("weather", "The weather.", 1_500)
    assert list(spec.parameters.properties) == ["city", "days", "unit", "tags"]
    (plain,) = parse_tools([{"name": "now-2_x", "parameters": []}])
    assert (plain.description, plain.parameters.properties, plain.timeout_ms) == ("", {}, None)


@pytest.mark.parametrize(
    ("tools", "message"),
    [
        ({"weather": {}}, "must be an array"),
        ("weather", "must be an array"),
        ([tool(name=f"t{n}") for n in range(MAX_TOOLS + 1)], f"the limit is {MAX_TOOLS}"),
        (["weather"], "tools[0]: must be a map"),
        ([tool(), {"parameters": {}}], "tools[1]: `name` must be"),
        ([tool(name="two words")], "`name` must be"),
        ([tool(name="näme")], "`name` must be"),
        ([tool(name="x" * 65)], "`name` must be"),
        ([tool(name="weather\n")], "`name` must be"),
        ([tool(name="finish")], "belongs to DSPy"),
        ([tool(), tool()], "another tool of this name"),
        ([tool(inputSchema={})], "no key 'inputSchema'"),
        ([{"name": "t"}], "`parameters` is missing"),
        ([tool(description=5)], "`description`"),
        ([tool(description="x" * 4_097)], "`description`"),
        ([tool(timeout_ms=0)], "`timeout_ms`"),
        ([tool(timeout_ms=True)], "`timeout_ms`"),
        ([tool(timeout_ms=float("nan"))], "`timeout_ms`"),
        ([tool(description=f"x {MARKER}")], "not allowed"),
        ([tool(parameters={"type": "object", "properties": {"a": {"description": MARKER}}})], "not allowed"),
        ([tool(parameters={"type": "array"})], "`parameters.type`"),
        ([tool(parameters=5)], "must be a JSON Schema"),
        ([tool(parameters={"properties": {"a": {"type": "strin"}}})], "['a']"),
        ([tool(parameters={"required": ["a"]})], "`required`"),
    ],
)
def test_refusals_name_the_tool_and_the_problem(tools: Any, message: str) -> None:
    with pytest.raises(JobError) as caught:
        ToolsetCache().toolset(tools)
    assert caught.value.reason == "invalid_tools"
    assert message in caught.value.message.replace("parameters.required", "required")


def test_equal_tools_are_checked_once_and_none_are_none() -> None:
    cache = ToolsetCache(size=2)
    first = cache.toolset([tool()])
    assert cache.toolset([tool()]) is first
    assert cache.toolset([tool(description="Another.")]).digest != first.digest
    cache.toolset([tool(name="third")])
    assert cache.toolset([tool()]) is not first
    assert cache.toolset([]) is cache.toolset(None) is cache.toolset({}) is NO_TOOLS


@pytest.mark.parametrize(
    ("args", "problems"),
    [
        ({"city": "Rome"}, []),
        ({"city": "Rome", "days": 2.0, "unit": "c", "tags": []}, []),
        ({}, ["`city` is required"]),
        ({"town": "Rome"}, ["`city` is required", "there is no argument `town` (known: city, days, unit, tags)"]),
        ({"city": 5}, ["`city`: 5 is not of type 'string'"]),
        ({"city": "R"}, ["`city`: 'R' is too short"]),
        ({"city": "Rome", "days": 0}, ["`days`: 0 is less than the minimum of 1"]),
        ({"city": "Rome", "days": "2"}, ["`days`: '2' is not of type 'integer'"]),
        ({"city": "Rome", "unit": "k"}, ["`unit`: 'k' is not one of ['c', 'f']"]),
        ({"city": "Rome", "tags": ["a", 1]}, ["`tags[1]`: 1 is not of type 'string'"]),
    ],
)
def test_arguments_are_checked_in_full(args: dict[str, Any], problems: list[str]) -> None:
    assert Parameters(CITY).problems(args) == problems


def test_problems_are_few_and_short() -> None:
    schema = {"properties": {f"a{n}": {"type": "integer"} for n in range(9)}}
    problems = Parameters(schema).problems({f"a{n}": "x" * 5_000 for n in range(9)})
    assert len(problems) == 3
    assert max(map(len, problems)) <= 200


def test_further_arguments_only_where_the_schema_allows_them() -> None:
    schema = {"properties": {"a": {}}}
    assert Parameters(schema).problems({"b": 1}) == ["there is no argument `b` (known: a)"]
    assert Parameters({**schema, "additionalProperties": True}).problems({"b": 1}) == []
    typed = Parameters({**schema, "additionalProperties": {"type": "string"}})
    assert typed.problems({"b": "x"}) == []
    assert typed.problems({"b": 1}) == ["`b`: 1 is not of type 'string'"]


def test_references_are_replaced_and_a_type_that_holds_itself_ends() -> None:
    schema = {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "properties": {"node": {"$ref": "#/$defs/Node", "description": "The first."}},
        "$defs": {"Node": NODE},
    }
    parameters = Parameters(schema)
    assert "$" not in str(parameters.schema)
    assert parameters.properties["node"]["description"] == "The first."
    assert parameters.problems({"node": {"name": "a", "next": {"name": 5}}}) == []
    assert parameters.problems({"node": {"name": 5}}) == ["`node['name']`: 5 is not of type 'string'"]


@pytest.mark.parametrize(
    "reference", ["http://127.0.0.1:9/x.json", "#", "#/properties/a", "x.json", 5, "#/$defs/Other"]
)
def test_no_reference_leads_anywhere_else(reference: Any) -> None:
    with pytest.raises(SchemaProblem, match="must name an entry"):
        Parameters({"properties": {"a": {"$ref": reference}}, "$defs": {"Node": NODE}})


@pytest.mark.parametrize(
    "keyword", ["$dynamicRef", "$recursiveRef", "$id", "$schema", "$anchor", "if", "contentSchema"]
)
def test_other_keywords_are_left_out(keyword: str) -> None:
    parameters = Parameters({"properties": {"a": {"type": "string", keyword: "http://127.0.0.1:9/x"}}})
    assert parameters.properties["a"] == {"type": "string"}


def test_a_schema_is_finite() -> None:
    doubling = {f"A{n}": {"allOf": [{"$ref": f"#/$defs/A{n + 1}"}] * 2} for n in range(20)}
    with pytest.raises(SchemaProblem, match="more than"):
        Parameters({"properties": {"a": {"$ref": "#/$defs/A0"}}, "$defs": {**doubling, "A20": {}}})
    deep: dict[str, Any] = {}
    for _ in range(MAX_SCHEMA_DEPTH + 1):
        deep = {"items": deep}
    with pytest.raises(SchemaProblem, match="deeper"):
        Parameters({"properties": {"a": deep}})
    with pytest.raises(SchemaProblem, match="more than"):
        Parameters({"properties": {"a": {"enum": list(range(5_000))}}})


def test_no_regular_expression_of_a_client_is_run() -> None:
    parameters = Parameters({"properties": {"a": {"type": "string", "pattern": "^(a+)+$"}}})
    began = time.perf_counter()
    assert parameters.problems({"a": "a" * 40 + "!"}) == []
    assert time.perf_counter() - began < 1
    assert parameters.properties["a"]["pattern"] == "^(a+)+$"


def test_array_items_of_earlier_drafts_are_positions() -> None:
    parameters = Parameters(
        {"properties": {"p": {"type": "array", "items": [{"type": "string"}, {"type": "integer"}]}}}
    )
    assert parameters.problems({"p": ["a", 1]}) == []
    assert parameters.problems({"p": ["a", "b"]}) == ["`p[1]`: 'b' is not of type 'integer'"]
