"""Splitters give exactly what DSPy's adapters parse, whatever the sizes of the pieces."""

import json
from typing import Any

import dspy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dspymq.worker.executor.splitters import AutoSplitter, ChatSplitter, JSONSplitter, Splitter

SIGNATURE = dspy.Signature("question -> a, b, c")
FIELDS = {"a", "b", "c"}

fragments = st.sampled_from(
    [f"[[ ## {name} ## ]]" for name in ("a", "b", "c", "completed", "other")]
    + [
        "\n",
        "\r\n",
        "\r",
        " ",
        "  ",
        "\t",
        "\n\n",
        "\u2028",
        "\x85",
        "\x0b",
        "[",
        "[[",
        "[[ ## ",
        "]]",
        "x",
        "two words",
    ]
)
sizes = st.lists(st.integers(1, 9), min_size=1, max_size=6)
plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


def split(splitter: Splitter, text: str, pieces: list[int]) -> dict[str, str]:
    found: dict[str, str] = {}

    def add(more: Any) -> None:
        for piece in more:
            found[piece.field] = ("" if piece.restart else found.get(piece.field, "")) + piece.text

    at = number = 0
    while at < len(text):
        size = pieces[number % len(pieces)]
        number += 1
        add(splitter.feed(text[at : at + size]))
        at += size
    add(splitter.feed("", True))
    return {name: value for name, value in found.items() if value}


@settings(max_examples=400, deadline=None)
@given(st.lists(fragments | st.text(max_size=3), max_size=25).map("".join), sizes)
def test_chat_is_what_the_adapter_parses(middle: str, pieces: list[int]) -> None:
    text = f"[[ ## a ## ]]\n{middle}\n[[ ## b ## ]]\nB\n[[ ## c ## ]] C"
    parsed = dspy.ChatAdapter().parse(SIGNATURE, text)
    expected = {name: value for name, value in parsed.items() if value}
    assert split(ChatSplitter(FIELDS), text, pieces) == expected
    assert split(AutoSplitter(FIELDS), text, pieces) == expected


@settings(max_examples=300, deadline=None)
@given(
    st.fixed_dictionaries({"a": st.text(), "x": plain, "b": st.text(), "y": plain, "c": st.text()}),
    st.booleans(),
    st.sampled_from([None, 2]),
    st.sampled_from(["", "```json\n"]),
    sizes,
)
def test_json_is_what_was_written(
    value: Any, ascii_only: bool, indent: int | None, fence: str, pieces: list[int]
) -> None:
    text = fence + json.dumps(value, ensure_ascii=ascii_only, indent=indent) + ("\n```" if fence else "")
    expected = {name: value[name] for name in FIELDS if value[name]}
    assert split(JSONSplitter(FIELDS), text, pieces) == expected
    assert split(AutoSplitter(FIELDS), text, pieces) == expected


@pytest.mark.parametrize("size", [1, 2, 3, 7, 500])
def test_brackets_in_an_answer_are_kept(size: int) -> None:
    text = "[[ ## a ## ]]\nbig [[world]] it's\n[[ not ## a ## header\n\n[[ ## completed ## ]]"
    assert split(ChatSplitter(FIELDS), text, [size]) == {"a": "big [[world]] it's\n[[ not ## a ## header"}


def test_text_goes_out_as_soon_as_it_is_certain() -> None:
    splitter = ChatSplitter({"a"})
    assert splitter.feed("[[ ## a ## ]]\nHel") == [("a", "Hel", False)]
    assert splitter.feed("lo ") == [("a", "lo", False)]
    assert splitter.feed("you\n[[") == [("a", " you", False)]
    assert splitter.feed("x") == [("a", "\n[[x", False)]


def test_only_the_named_fields_are_given() -> None:
    assert split(ChatSplitter({"b"}), "[[ ## a ## ]]\n1\n[[ ## b ## ]]\n2", [4]) == {"b": "2"}
    assert split(JSONSplitter({"b"}), '{"a": "1", "b": "2"}', [4]) == {"b": "2"}


def test_of_a_json_key_that_stands_twice_the_last_counts() -> None:
    assert split(JSONSplitter({"a"}), '{"a": "first", "a": "second"}', [3]) == {"a": "second"}


def test_broken_json_ends_quietly() -> None:
    assert split(JSONSplitter(FIELDS), '{"a": "fine", b: "bare"}', [2]) == {"a": "fine"}
    assert split(JSONSplitter(FIELDS), r'{"a": "x\q", "b": "y"}', [2]) == {"a": "x"}


def test_half_a_surrogate_pair_becomes_the_replacement_character() -> None:
    assert split(JSONSplitter(FIELDS), r'{"a": "\ud83d\ude00 \ud83d!"}', [1]) == {"a": "\U0001f600 \ufffd!"}
