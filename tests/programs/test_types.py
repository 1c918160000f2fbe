"""Types of fields: each as text and as JSON Schema, in and out, with its schema in draft 2020-12."""

from __future__ import annotations

import json
from typing import Any

import dspy
import jsonschema
import msgpack
import pytest

from dspymq.worker.executor.programs import make_program
from dspymq.worker.executor.specs import SpecCache
from tests.programs.rig import Pool, outputs
from tests.unit.worker.kit import FakeEngine, chat

PERSON = {
    "title": "Person",
    "type": "object",
    "properties": {
        "first-name": {"type": "string", "minLength": 1, "description": "as in a passport"},
        "born": {"type": "string", "format": "date"},
        "emails": {"type": "array", "items": {"type": "string", "pattern": "^[^@]+@[^@]+$"}, "maxItems": 2},
        "kind": {"enum": ["friend", "foe"]},
    },
    "required": ["first-name", "born"],
}
ADA = {"first-name": "Ada", "born": "1815-12-10", "emails": ["ada@example.org"], "kind": "friend"}

TEXTS: dict[str, Any] = {
    "str": "a",
    "int": 3,
    "float": 2.5,
    "bool": True,
    "bytes": b"ab",
    "None": None,
    "Any": {"a": [1]},
    "object": "x",
    "list": [1, "a"],
    "dict": {"a": 1},
    "tuple": [1, 2],
    "set": [1],
    "date": "2026-02-03",
    "datetime": "2026-02-03T04:05:06Z",
    "time": "04:05:06",
    "timedelta": "PT90S",
    "datetime.date": "2026-02-03",
    "datetime.datetime": "2026-02-03T04:05:06",
    "datetime.time": "04:05:06",
    "datetime.timedelta": "PT90S",
    "list[int]": [1, 2],
    "set[str]": ["a"],
    "dict[str, list[int]]": {"a": [1]},
    "tuple[int, str]": [1, "a"],
    "Optional[int]": None,
    "Union[int, str]": "a",
    "int | None": 3,
    "Literal['x', 'y']": "x",
}
SCHEMAS: list[tuple[Any, Any]] = [
    ({"type": "string", "minLength": 1, "maxLength": 5}, "abc"),
    ({"type": "string", "format": "date-time"}, "2026-02-03T04:05:06Z"),
    ({"type": "string", "format": "uuid"}, "00000000-0000-4000-8000-000000000001"),
    ({"type": "string", "format": "email"}, "not checked"),
    ({"type": "integer", "minimum": 1, "exclusiveMaximum": 9, "multipleOf": 2}, 4),
    ({"type": "number", "exclusiveMinimum": 0, "maximum": 1}, 0.5),
    ({"type": ["integer", "null"], "minimum": 1}, None),
    ({"type": "boolean"}, False),
    ({"type": "null"}, None),
    ({"const": "x"}, "x"),
    ({"enum": ["x", 2, True, None]}, 2),
    ({"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1}, [1, 2]),
    ({"type": "array", "prefixItems": [{"type": "integer"}, {"type": "string"}]}, [1, "a"]),
    ({"type": "object", "additionalProperties": {"type": "integer"}, "maxProperties": 2}, {"a": 1}),
    ({"anyOf": [{"type": "integer"}, {"type": "array", "items": {"type": "string"}}]}, ["a"]),
    ({"oneOf": [{"type": "integer"}, {"type": "null"}]}, 3),
    ({"allOf": [{"$ref": "#/$defs/Person"}], "$defs": {"Person": PERSON}}, ADA),
    ({"$ref": "#/$defs/people", "$defs": {"Person": PERSON, "people": {"items": {"$ref": "#/$defs/Person"}}}}, [ADA]),
    (PERSON, ADA),
    ({"properties": {"a": {"type": "integer"}}, "additionalProperties": True}, {"a": 1, "b": 2}),
    ({}, [1]),
    ({"properties": {"a": True}, "required": ["a"]}, {"a": "x"}),
]


def signature(kind: Any) -> dict[str, Any]:
    return {"inputs": [{"name": "given", "type": kind}], "outputs": [{"name": "made", "type": kind}]}


def check(pool: Pool, kind: Any, value: Any) -> None:
    """The value goes in and, said by the LM, comes out; schemas are valid, and hold for what went over the wire."""
    plain = value.decode() if isinstance(value, bytes) else value
    said = plain if isinstance(plain, str) else json.dumps(plain)
    prompts: list[str] = []
    pool.engine = FakeEngine(lambda prompt: prompts.append(prompt) or chat(made=said))
    spec = {"signature": signature(kind)}
    found = outputs(pool.spec(spec, {"given": value}))
    described = SpecCache().program(spec).description()
    for side, sent in (("inputs", {"given": plain}), ("outputs", found)):
        schema = described[side]
        assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
        jsonschema.Draft202012Validator.check_schema(schema)
        assert not list(jsonschema.Draft202012Validator(schema).iter_errors(sent)), (schema, sent)
    if plain is not None:
        assert "[[ ## given ## ]]" in prompts[0]


@pytest.mark.parametrize("kind", TEXTS)
def test_types_as_text(pool: Pool, kind: str) -> None:
    check(pool, kind, TEXTS[kind])


@pytest.mark.parametrize(("schema", "value"), SCHEMAS, ids=lambda value: str(value)[:40])
def test_types_as_json_schema(pool: Pool, schema: Any, value: Any) -> None:
    check(pool, schema, value)


def test_an_object_has_what_its_schema_names(pool: Pool) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    spec = {"signature": {"inputs": [{"name": "given", "type": schema}], "outputs": ["answer"]}}
    refused = pool.spec(spec, {"given": {"a": 1, "b": 2}})
    assert refused.details is not None
    assert [(one["field"], one["problem"]) for one in refused.details["fields"]] == [("given", "type")]
    schema["additionalProperties"] = True
    assert outputs(pool.spec(spec, {"given": {"a": 1, "b": 2}}))["answer"] == 'answer: {"a": 1, "b": 2}'
    said = {"outputs": [{"name": "made", "type": {**schema, "additionalProperties": False}}]}
    pool.lm.script(answer={"made": {"a": 1, "b": 2}})
    assert pool.spec({"signature": said}, {}).reason == "lm_output_unparsable"


def parts_of(pool: Pool, kind: Any, value: Any) -> list[Any]:
    """What an LM is sent for an input of this type."""
    sent: list[Any] = []

    class Engine(FakeEngine):
        async def complete(self, request: Any) -> Any:
            sent.extend(request.messages[-1].parts)
            return await super().complete(request)

    pool.engine = Engine(lambda prompt: chat(answer="ok"))
    fields = {"inputs": [{"name": "given", "type": kind}], "outputs": ["answer"]}
    assert outputs(pool.spec({"signature": fields}, {"given": value})) == {"answer": "ok"}
    return sent


MEDIA: list[tuple[str, Any, str]] = [
    ("Image", {"url": "https://example.org/a.png"}, "ImagePart"),
    ("Image", {"url": "data:image/png;base64,aGk="}, "ImagePart"),
    ("Audio", {"data": "aGk=", "audio_format": "wav"}, "AudioPart"),
    ("File", {"file_data": "data:application/pdf;base64,aGk="}, "DocumentPart"),
]


@pytest.mark.parametrize(("kind", "value", "part"), MEDIA, ids=[f"{one[0]}-{n}" for n, one in enumerate(MEDIA)])
def test_image_audio_and_file_reach_the_lm_as_such(pool: Pool, kind: str, value: Any, part: str) -> None:
    assert part in [type(one).__name__ for one in parts_of(pool, kind, value)]
    nested = {"type": "array", "items": {"$ref": f"dspy:{kind}"}}
    assert part in [type(one).__name__ for one in parts_of(pool, nested, [value])]


@pytest.mark.parametrize("kind", ["Image", "Audio", "File"])
@pytest.mark.parametrize("value", ["/etc/passwd", {"url": "/etc/passwd"}, {"url": "file:///etc/passwd"}, 5, {}])
def test_media_never_come_from_a_path(pool: Pool, kind: str, value: Any) -> None:
    refused = pool.spec({"signature": f"given: {kind} -> answer"}, {"given": value})
    assert refused.reason == "invalid_inputs"
    assert pool.lm.requests == 0


def test_history(pool: Pool) -> None:
    spec = {"signature": "question, history: History -> answer"}
    history = {"messages": [{"question": "first?", "answer": "[[ ## answer ## ]] indeed"}]}
    found = pool.spec(spec, {"question": "second", "history": history})
    assert outputs(found) == {"answer": "answer: second"}
    wrong = pool.spec({"signature": {"inputs": ["q"], "outputs": [{"name": "h", "type": "History"}]}}, {"q": "x"})
    assert (wrong.reason, wrong.details) == ("invalid_spec", {"path": "/signature/outputs/0/type"})


@pytest.mark.parametrize("kind", ["Code", "Code['elixir']", "dspy.Code"])
def test_code(pool: Pool, kind: str) -> None:
    pool.engine = FakeEngine(lambda prompt: chat(made=f"```\n{prompt.split('given ## ]]')[1].split()[0]}\n```"))
    spec = {"signature": f"given: {kind} -> made: {kind}"}
    found = outputs(pool.spec(spec, {"given": {"code": "x=1"}}))
    assert found == {"made": {"code": "x=1"}}
    described = SpecCache().program(spec).description()["outputs"]["$defs"]
    assert [list(one["properties"]) for one in described.values()] == [["code"]], "as results have it"


@pytest.mark.parametrize(("kind", "names"), [("Image", ["url"]), ("list[Audio]", ["data", "audio_format"])])
def test_schemas_of_outputs_have_the_fields_that_results_have(kind: str, names: list[str]) -> None:
    described = SpecCache().program({"signature": f"question -> made: {kind}"}).description()["outputs"]["$defs"]
    assert [list(one["properties"]) for one in described.values()] == [names]
    assert "description" not in str(described), "DSPy's docstrings explain Python"


def test_reasoning(pool: Pool) -> None:
    found = outputs(pool.spec({"signature": "question -> why: Reasoning, answer"}, {"question": "hello"}))
    assert found == {"why": {"content": "why: hello"}, "answer": "answer: hello"}


class Point(dspy.Type):  # type: ignore[misc]
    """A type of a pool's own."""

    x: int
    y: int

    def format(self) -> str:
        return f"({self.x}|{self.y})"


class Where(dspy.Signature):  # type: ignore[misc]
    """Say where it is."""

    point: Point = dspy.InputField()
    name: str = dspy.OutputField()


def test_a_type_of_a_pools_own(pool: Pool) -> None:
    pool.modules["where"] = dspy.Predict(Where)
    assert outputs(pool.call("where", {"point": {"x": 1, "y": 2}})) == {"name": "name: (1|2)"}
    assert pool.call("where", {"point": {"x": 1}}).reason == "invalid_inputs"
    described = make_program("where", dspy.Predict(Where)).description()
    assert described["inputs"]["$defs"]["Point"]["required"] == ["x", "y"]
    assert (described["kind"], described["streams"]) == ("Predict", ["name"])
    msgpack.packb(described)
