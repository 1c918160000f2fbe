"""key=value arguments become inputs by the types that the program names."""

import json
from typing import Any

import click
import pytest

from dspymq.cli.inputs import read_json_inputs, read_pairs
from dspymq.cli.kinds import Kinds, kinds_of_schema, kinds_of_signature, type_text
from dspymq.exceptions import InvalidArgument

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "text": {"type": "string"},
        "age": {"type": "integer"},
        "score": {"type": "number"},
        "sure": {"type": "boolean"},
        "cities": {"type": "array", "items": {"type": "string"}},
        "options": {"type": "object", "additionalProperties": {"type": "integer"}},
        "mood": {"enum": ["happy", "sad"], "type": "string"},
        "level": {"enum": [1, 2, 3]},
        "note": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        "limit": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
        "data": {"type": "string", "format": "binary"},
        "person": {"$ref": "#/$defs/Person"},
        "any": {},
    },
    "$defs": {"Person": {"type": "object", "title": "Person", "properties": {"name": {"type": "string"}}}},
}
KINDS = kinds_of_schema(SCHEMA)


def no_file(name: str) -> bytes:
    raise AssertionError(f"{name} was read")


@pytest.mark.parametrize(
    ("pair", "expected"),
    [
        ("text=42", "42"),
        ("text={}", "{}"),
        ("text=true", "true"),
        ("text=", ""),
        ("text=a=b", "a=b"),
        ("age=42", 42),
        ("age=-1", -1),
        ("age=forty", "forty"),
        ("score=1.5", 1.5),
        ("score=NaN", "NaN"),
        ("sure=true", True),
        ("sure=False", False),
        ('cities=["Lisbon", "Porto"]', ["Lisbon", "Porto"]),
        ("cities=Lisbon", "Lisbon"),
        ('options={"a": 1}', {"a": 1}),
        ("mood=happy", "happy"),
        ("mood=7", "7"),
        ("level=2", 2),
        ("note=null", "null"),
        ("limit=null", None),
        ("limit=None", None),
        ("limit=3", 3),
        ("data=abc", b"abc"),
        ('person={"name": "Ada"}', {"name": "Ada"}),
        ("any=text", "text"),
        ("unknown=7", 7),
        ("unknown=seven", "seven"),
        ("text=@@home", "@home"),
        ("text=@", "@"),
    ],
)
def test_a_value_is_read_as_its_field_wants_it(pair: str, expected: Any) -> None:
    (value,) = read_pairs([pair], KINDS, no_file).values()
    assert value == expected
    assert type(value) is type(expected)


def test_without_types_values_are_json_where_they_look_like_it() -> None:
    found = read_pairs(["a=1", 'b={"c": [true]}', "d=text", "e={broken"], None, no_file)
    assert found == {"a": 1, "b": {"c": [True]}, "d": "text", "e": "{broken"}


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (["novalue"], "inputs are written key=value"),
        (["=x"], "inputs are written key=value"),
        (["text=a", "text=b"], "given twice"),
        (['cities=["Lisbon"'], "the value of cities is not JSON"),
    ],
)
def test_what_cannot_be_read_names_the_input(pairs: list[str], message: str) -> None:
    with pytest.raises(click.UsageError, match=message):
        read_pairs(pairs, KINDS, no_file)


def test_files_are_text_json_or_bytes_as_their_field_wants_them() -> None:
    files = {"a.txt": b"12\n", "b.json": b'["x"]', "c.bin": b"\xff\x00", "-": b"from stdin"}
    pairs = ["text=@a.txt", "age=@a.txt", "cities=@b.json", "data=@c.bin", "unknown=@b.json", "note=@-"]
    found = read_pairs(pairs, KINDS, files.__getitem__)
    assert found == {
        "text": "12\n",
        "age": 12,
        "cities": ["x"],
        "data": b"\xff\x00",
        "unknown": '["x"]',
        "note": "from stdin",
    }
    with pytest.raises(click.UsageError, match="not UTF-8 text"):
        read_pairs(["text=@c.bin"], KINDS, files.__getitem__)


def test_a_file_that_is_not_there_is_one_clear_line(tmp_path: Any) -> None:
    with pytest.raises(click.UsageError, match=r"cannot read .*nothing.txt: No such file"):
        read_pairs([f"text=@{tmp_path}/nothing.txt"], KINDS)


def test_inputs_from_a_file_are_an_object() -> None:
    assert read_json_inputs("x", lambda _: b'{"a": 1}') == {"a": 1}
    with pytest.raises(click.UsageError, match="must hold a JSON object"):
        read_json_inputs("x", lambda _: b"[1]")
    with pytest.raises(click.UsageError, match="standard input is not JSON"):
        read_json_inputs("-", lambda _: b"{")


def test_the_types_of_a_signature_are_those_of_its_text() -> None:
    kinds = kinds_of_signature("text, n: int, tags: list[str], m: Literal['a', 'b'] | None, when: date -> answer: int")
    assert kinds["text"] == Kinds(frozenset({"string"}))
    assert kinds["n"] == Kinds(frozenset({"integer"}))
    assert kinds["tags"] == Kinds(frozenset({"array"}))
    assert kinds["m"].literals == ("a", "b")
    assert kinds["when"] == Kinds(frozenset({"string"}))
    with pytest.raises(InvalidArgument, match=r"cannot be read: .*at character"):
        kinds_of_signature("text -> age: intt")


def test_types_are_shown_as_people_write_them() -> None:
    shown = {name: type_text(one, SCHEMA) for name, one in SCHEMA["properties"].items()}
    assert shown == {
        "text": "str",
        "age": "int",
        "score": "float",
        "sure": "bool",
        "cities": "list[str]",
        "options": "dict[str, int]",
        "mood": "'happy' | 'sad'",
        "level": "1 | 2 | 3",
        "note": "str | None",
        "limit": "int | None",
        "data": "bytes",
        "person": "Person",
        "any": "any",
    }
    assert kinds_of_schema(None) is None
    assert type_text(json.loads('{"$ref": "#/$defs/x", "$defs": {"x": {"$ref": "#/$defs/x"}}}')) == "any"
