"""Bodies: one map, read and written with the msgpack package (SPEC section 2.6)."""

from __future__ import annotations

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspymq.protocol import ProtocolError, body


def test_a_body_comes_back() -> None:
    assert body.decode(body.encode(inputs={"a": [1, 2.5, None, "x"]}, spec=None)) == {
        "inputs": {"a": [1, 2.5, None, "x"]}
    }


@pytest.mark.parametrize("empty", [b"", msgpack.packb({}), msgpack.packb([])])
def test_nothing_is_the_empty_map(empty: bytes) -> None:
    assert body.decode(empty) == {}


def test_an_empty_array_stands_for_an_empty_map() -> None:
    assert body.part(msgpack.packb({"inputs": []}), "inputs") == {}


@given(st.binary(max_size=80))
def test_any_bytes_are_a_map_or_invalid_body(data: bytes) -> None:
    try:
        assert isinstance(body.decode(data), dict)
    except ProtocolError as problem:
        assert problem.reason == "invalid_body"


def test_depth_is_an_error_and_not_a_crash() -> None:
    with pytest.raises(ProtocolError):
        body.decode(b"\x91" * 100_000)


def test_what_cannot_be_written_is_named() -> None:
    with pytest.raises(ProtocolError, match="inputs"):
        body.encode(inputs={"x": object()})


def test_a_part_must_be_a_map() -> None:
    with pytest.raises(ProtocolError, match="inputs"):
        body.part(msgpack.packb({"inputs": 5}), "inputs")
