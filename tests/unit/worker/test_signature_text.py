"""Inline signatures: what they mean, and that nothing in them is evaluated or imported."""

import datetime
import sys
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspymq.worker.executor.signature_text import MAX_CHARS, SignatureTextError, parse_signature


def types(text: str) -> dict[str, Any]:
    parsed = parse_signature(text)
    return {field.name: field.type for field in (*parsed.inputs, *parsed.outputs)}


def test_the_example_of_the_documentation() -> None:
    parsed = parse_signature("text -> name, age: int, mood: Literal['happy','sad'], cities: list[str]")
    assert [field.name for field in parsed.inputs] == ["text"]
    assert [(field.name, field.type, field.typed) for field in parsed.outputs] == [
        ("name", str, False),
        ("age", int, True),
        ("mood", Literal["happy", "sad"], True),
        ("cities", list[str], True),
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("str", str),
        ("float", float),
        ("bool", bool),
        ("Any", Any),
        ("list", list),
        ("date", datetime.date),
        ("datetime.datetime", datetime.datetime),
        ("int | None", int | None),
        ("Optional[int]", int | None),
        ("typing.Optional[typing.List[int]]", list[int] | None),
        ("Union[int, str]", int | str),
        ("dict[str, list[int]]", dict[str, list[int]]),
        ("tuple[int, ...]", tuple[int, ...]),
        ("tuple[int, str]", tuple[int, str]),
        ("set[str]", set[str]),
        ("Literal['a, b', \"c\", -3, True, None]", Literal["a, b", "c", -3, True, None]),
        (r"Literal['it\'s', 'a\\b']", Literal["it's", "a\\b"]),
    ],
)
def test_types(text: str, expected: Any) -> None:
    assert types(f"a: {text} -> b: {text}") == {"a": expected, "b": expected}


@pytest.mark.parametrize(
    ("text", "message", "position"),
    [
        ("a, b", "`->` is missing", 4),
        ("a ->", "no output field", 4),
        ("a -> b: os.system", "`os.system` is not known", 8),
        ("a -> b: this.s", "`this.s` is not known", 8),
        ("a -> b: MyModel", "`MyModel` is not known", 8),
        ("a -> b: list[int", "expected `]`", 16),
        ("a -> b: int[str]", "`int` takes no [...]", 8),
        ("a -> b: Literal", "`Literal` needs [...]", 8),
        ("a -> b: Literal[x]", "expected a quoted text", 16),
        ("a -> b: dict[str]", "takes 2 type(s)", 8),
        ("a -> b: dict[list[int], str]", "keys of a dict", 8),
        ("a -> b c", "expected `,` or the end", 7),
        ("a -> b -> c", "expected `,` or the end", 7),
        ("a, a -> b", "stands twice", 3),
        ("a -> a", "stands twice", 5),
        ("_a -> b", "underscore", 0),
        ("class -> b", "keyword", 0),
        ("demos -> b", "reserved", 0),
        ("a -> instructions", "reserved", 5),
        ("ä -> b", "plain identifier", 0),
        ("a.b -> c", "plain identifier", 0),
        ("a -> b = 3", "unexpected '='", 7),
        ("a -> b: __import__('os')", "unexpected '('", 18),
        ("a -> b: " + "list[" * 30 + "int" + "]" * 30, "nest deeper", 68),
        ("a" * (MAX_CHARS + 1), "longer than", MAX_CHARS),
    ],
)
def test_errors_say_what_and_where(text: str, message: str, position: int) -> None:
    with pytest.raises(SignatureTextError) as caught:
        parse_signature(text)
    assert message in str(caught.value)
    assert caught.value.position == position


def test_nothing_is_imported() -> None:
    sys.modules.pop("this", None)
    with pytest.raises(SignatureTextError):
        parse_signature("x: this.s -> y")
    assert "this" not in sys.modules


def test_outputs_may_have_the_names_of_predict_arguments() -> None:
    assert list(types("question -> config, items, keys")) == ["question", "config", "items", "keys"]


@given(st.text(alphabet="abint[]:,->|'\" .listLiteral\\\n()_=0", max_size=60))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    try:
        parsed = parse_signature(text)
    except SignatureTextError as error:
        assert 0 <= error.position <= len(text)
    else:
        assert parsed.outputs
