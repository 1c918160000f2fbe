"""The schema that holds the embedded model to its output fields: of the right types, and every part of it bounded."""

from __future__ import annotations

import datetime
import enum
import json
import re
from collections.abc import Callable, Iterator
from typing import Any, Literal

import jsonschema
import pydantic
import pytest

dspy = pytest.importorskip("dspy")

from dspymq.worker.executor.local_schema import SENTENCES, output_schema  # noqa: E402


class Mood(enum.Enum):
    GOOD = "good"
    BAD = "bad"


class Person(pydantic.BaseModel):
    name: str
    born: datetime.date | None
    friends: list[Person] = []


class Everything(dspy.Signature):  # type: ignore[misc]
    """Find it all."""

    text: str = dspy.InputField()
    name: str = dspy.OutputField()
    title: str = dspy.OutputField(max_length=20)
    age: int = dspy.OutputField(ge=0, le=150)
    share: float = dspy.OutputField()
    known: bool = dspy.OutputField()
    mood: Literal["happy", "sad"] = dspy.OutputField()
    code: Literal[1, 2] = dspy.OutputField()
    one: Literal["only"] = dspy.OutputField()
    level: Mood = dspy.OutputField()
    cities: list[str] = dspy.OutputField()
    few: list[int] = dspy.OutputField(max_length=2)
    day: datetime.date = dspy.OutputField()
    maybe: str | None = dspy.OutputField()
    pair: tuple[int, str] = dspy.OutputField()
    counts: dict[str, int] = dspy.OutputField()
    anything: Any = dspy.OutputField()
    person: Person = dspy.OutputField()


def parts(schema: Any) -> Iterator[dict[str, Any]]:
    if isinstance(schema, dict):
        yield schema
        for value in schema.values():
            yield from parts(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from parts(value)


def test_fields_keep_their_order_and_nothing_else_is_allowed() -> None:
    schema = output_schema(Everything)
    assert list(schema["properties"]) == list(Everything.output_fields) == schema["required"]
    assert schema["additionalProperties"] is False


def test_every_string_and_list_has_an_end_and_no_reference_is_left() -> None:
    for part in parts(output_schema(Everything)):
        assert "$ref" not in part
        if part.get("type") == "string":
            assert part.keys() & {"maxLength", "format", "pattern"}
        if part.get("type") == "array" or "items" in part or "prefixItems" in part:
            assert "maxItems" in part


def test_declared_bounds_and_choices_are_kept() -> None:
    schema = output_schema(Everything)["properties"]
    assert schema["title"]["maxLength"] == 20
    assert (schema["age"]["minimum"], schema["age"]["maximum"]) == (0, 150)
    assert schema["mood"] == {"enum": ["happy", "sad"]}
    assert schema["code"] == {"enum": [1, 2]}
    assert schema["one"] == {"const": "only"}
    assert schema["level"] == {"enum": ["good", "bad"]}
    assert schema["few"]["maxItems"] == 2
    assert schema["day"] == {"type": "string", "format": "date"}


def test_a_recursive_type_ends() -> None:
    schema = output_schema(Everything)["properties"]["person"]
    depth = json.dumps(schema).count('"friends": {')
    assert 2 <= depth <= 6
    alone = {"name": "Ann", "born": None, "friends": []}
    jsonschema.validate(alone, schema)
    jsonschema.validate({**alone, "born": "2001-02-03", "friends": [{**alone, "born": "2001-02-03"}]}, schema)


def test_a_good_answer_fits_and_a_bad_one_does_not() -> None:
    schema = output_schema(dspy.Signature("text -> name, age: int, mood: Literal['happy', 'sad'], cities: list[str]"))
    good = {"name": "Ann", "age": 3, "mood": "sad", "cities": ["Rome"]}
    jsonschema.validate(good, schema)
    bads = [{"age": "3"}, {"mood": "angry"}, {"cities": ["x"] * 50}, {"name": "x" * 999}, {"more": 1}]
    for bad in bads:
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**good, **bad}, schema)


def test_a_lone_text_has_more_room_than_one_of_several() -> None:
    lone = output_schema(dspy.Signature("topic -> story"))["properties"]["story"]
    several = output_schema(dspy.Signature("topic -> story, title"))["properties"]["story"]
    assert lone["maxLength"] > several["maxLength"]


def test_reasoning_is_one_or_two_sentences() -> None:
    program = dspy.ChainOfThought("question -> answer")
    schema = output_schema(program.predict.signature)["properties"]
    assert schema["reasoning"] == {"type": "string", "pattern": SENTENCES}
    assert list(schema) == ["reasoning", "answer"]
    sentences = re.compile(SENTENCES)
    assert sentences.match("France is a country. Its capital is Paris.")
    for text in ("no capital letter.", "No end", "One is. Two are. Three are.", "🎉🎉🎉🎉🎉🎉🎉🎉🎉.", "A" * 200 + "."):
        assert not sentences.match(text)


def test_a_type_without_a_schema_is_text() -> None:
    fields = {"q": (str, dspy.InputField()), "a": (Callable[[int], str], dspy.OutputField())}
    assert output_schema(dspy.Signature(fields, "Odd."))["properties"]["a"]["type"] == "string"
