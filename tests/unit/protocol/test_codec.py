"""The codec: what we write we read, and whatever arrives is a message or one typed error (SPEC section 2)."""

from __future__ import annotations

import contextlib
import gc
import math
from typing import Any, get_args

import msgpack
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dspymq.protocol import (
    TAG,
    Limits,
    ProtocolError,
    client_codec,
    client_messages,
    encode,
    error_answer,
    worker_codec,
    worker_messages,
)
from dspymq.protocol.errors import REASONS
from dspymq.protocol.limits import Count, Positive
from dspymq.protocol.messages import Error, Header

CLIENT, WORKER = client_codec(), worker_codec()
BOTH = [("client", CLIENT, client_messages.Message), ("worker", WORKER, worker_messages.Message)]

ids = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=1, max_size=64)
names = st.text(min_size=1, max_size=40)
counts = st.integers(0, (1 << 53) - 1)
plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 53), 1 << 53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
).filter(lambda value: depth(value) <= 5)


def depth(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + max(map(depth, value.values()), default=0)
    if isinstance(value, list):
        return 1 + max(map(depth, value), default=0)
    return 0


def strategy_for(kind: Any) -> st.SearchStrategy[Any]:
    """A strategy for a field's type; every type that a message uses has one."""
    if kind == Count:
        return counts
    if kind == Positive:
        return st.integers(1, (1 << 53) - 1)
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return structs(kind)
    origin = getattr(kind, "__origin__", None)
    args = get_args(kind)
    if kind is str:
        return st.text(max_size=20)
    if kind is bool:
        return st.booleans()
    if kind is int:
        return counts
    if kind is float:
        return st.floats(allow_nan=False, allow_infinity=False)
    if kind is Any:
        return plain
    if str(origin) == "typing.Literal" or "Literal" in str(kind)[:16]:
        return st.sampled_from(args)
    if hasattr(kind, "__metadata__"):
        meta = kind.__metadata__[0]
        if origin is str or kind.__origin__ is str:
            if meta.pattern:
                return ids
            return st.text(min_size=meta.min_length or 0, max_size=min(meta.max_length or 20, 20))
        if kind.__origin__ is int:
            return st.integers(meta.ge, meta.le)
        if kind.__origin__ is float:
            return st.floats(meta.ge, meta.le)
        return strategy_for(kind.__origin__)
    if origin is list:
        return st.lists(strategy_for(args[0]), max_size=3)
    if origin is dict:
        return st.dictionaries(st.text(min_size=1, max_size=8), strategy_for(args[1]), max_size=3)
    if args:
        return st.one_of([st.none() if arg is type(None) else strategy_for(arg) for arg in args])
    raise AssertionError(f"no strategy for {kind}")


def structs(kind: type[msgspec.Struct]) -> st.SearchStrategy[Any]:
    import typing

    hints = typing.get_type_hints(kind, include_extras=True)
    fields = {name: strategy_for(hints[name]) for name in kind.__struct_fields__}
    return st.builds(kind, **fields)


def messages_of(union: Any) -> st.SearchStrategy[Any]:
    return st.one_of([structs(member) for member in get_args(union)])


@pytest.mark.parametrize(("codec", "union"), [(codec, union) for _, codec, union in BOTH], ids=["client", "worker"])
@settings(max_examples=150, deadline=None)
@given(data=st.data(), body=st.binary(max_size=40))
def test_encode_then_decode_is_the_identity(codec: Any, union: Any, data: Any, body: bytes) -> None:
    message = data.draw(messages_of(union))
    assert codec.decode(encode(message, body)) == (message, body)


@settings(max_examples=120, deadline=None)
@given(message=st.one_of(messages_of(client_messages.Message), messages_of(worker_messages.Message)))
def test_the_msgpack_package_reads_what_we_write(message: Header) -> None:
    header = msgpack.unpackb(encode(message)[1], raw=False, strict_map_key=True)
    assert header["t"] == message.__struct_config__.tag
    for name, value in header.items():
        if name != "t":
            assert value == msgspec.to_builtins(getattr(message, name))


@settings(max_examples=120, deadline=None)
@given(message=messages_of(client_messages.Message), extra=st.dictionaries(st.text(max_size=6), plain, max_size=3))
def test_we_read_what_the_msgpack_package_writes_and_ignore_unknown_keys(message: Header, extra: Any) -> None:
    known = msgpack.unpackb(encode(message)[1])
    unknown = {f"x_{key}": value for key, value in extra.items()}
    assert CLIENT.decode([TAG, msgpack.packb({**unknown, **known})]) == (message, b"")


@pytest.mark.parametrize("codec", [CLIENT, WORKER], ids=["client", "worker"])
@settings(max_examples=200, deadline=None)
@given(frames=st.lists(st.one_of(st.just(TAG), st.binary(max_size=60)), max_size=4))
def test_any_frames_are_a_message_or_one_typed_error(codec: Any, frames: list[bytes]) -> None:
    try:
        codec.decode(frames)
    except ProtocolError as problem:
        assert problem.reason in REASONS
        encode(error_answer(problem))


@pytest.mark.parametrize("codec", [CLIENT, WORKER], ids=["client", "worker"])
@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_a_damaged_message_is_a_message_or_one_typed_error(codec: Any, data: Any) -> None:
    header = bytearray(encode(data.draw(messages_of(client_messages.Message)))[1])
    for _ in range(data.draw(st.integers(1, 3))):
        header[data.draw(st.integers(0, len(header) - 1))] = data.draw(st.integers(0, 255))
    try:
        codec.decode([TAG, bytes(header[: data.draw(st.integers(0, len(header)))])])
    except ProtocolError as problem:
        encode(error_answer(problem))


def packed(**fields: Any) -> bytes:
    return msgpack.packb({"t": "ping", **fields})


BAD_HEADERS = {
    "empty": b"",
    "not_msgpack": b"\xc1",
    "truncated": b"\x82\xa1t\xa4ping",
    "an_array": msgpack.packb(["ping"]),
    "trailing_bytes": packed() + b"\x00",
    "deep_nesting": b"\x82\xa1t\xa4ping\xa1x" + b"\x91" * 20_000 + b"\xc0",
    "nine_levels": packed(x=[[[[[[[[1]]]]]]]]),
    "bad_utf8": b"\x81\xa1t\xa1\xff",
    "bad_utf8_unknown_key": b"\x82\xa1t\xa4ping\xa1x\xa1\xff",
    "nan": packed(x=math.nan),
    "infinity": packed(x=[-math.inf]),
    "ext": packed(x=msgpack.ExtType(5, b"x")),
    "timestamp": packed(x=msgpack.Timestamp(1, 2)),
    "bin": packed(x=b"bytes"),
    "duplicate_key": b"\x82\xa1t\xa4ping\xa1t\xa4ping",
    "duplicate_unknown_key": b"\x83\xa1t\xa4ping\xa1x\x01\xa1x\x02",
    "duplicate_nested_key": b"\x82\xa1t\xa4ping\xa1x\x82\xa1y\x01\xa1y\x01",
    "integer_key": b"\x82\xa1t\xa4ping\x01\x02",
    "bin_key": b"\x82\xa1t\xa4ping\xc4\x01x\x02",
    "nested_integer_key": b"\x82\xa1t\xa4ping\xa1x\x81\x01\x02",
    "no_type": msgpack.packb({"n": 1}),
    "type_not_text": msgpack.packb({"t": 5}),
    "float_for_integer": packed(n=1.0),
    "negative": packed(n=-1),
    "too_big": packed(n=1 << 53),
    "null_for_integer": packed(n=None),
}


@pytest.mark.parametrize("name", BAD_HEADERS)
def test_bad_headers(name: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        CLIENT.decode([TAG, BAD_HEADERS[name]])
    assert caught.value.reason == "bad_header"


@pytest.mark.parametrize(
    "number",
    [
        b"\x05",
        b"\xcc\x05",
        b"\xcd\x00\x05",
        b"\xce\x00\x00\x00\x05",
        b"\xcf" + b"\x00" * 7 + b"\x05",
        b"\xd0\x05",
        b"\xd3" + b"\x00" * 7 + b"\x05",
    ],
)
def test_any_legal_integer_width(number: bytes) -> None:
    message, _ = CLIENT.decode([TAG, b"\x82\xa1t\xa4ping\xa1n" + number])
    assert message.n == 5


def test_eight_levels_are_taken() -> None:
    CLIENT.decode([TAG, packed(x=[[[[[[[1]]]]]]])])


@pytest.mark.parametrize(
    ("frames", "reason"),
    [
        ([], "bad_frames"),
        ([TAG], "bad_frames"),
        ([TAG, packed(), b"", b""], "bad_frames"),
        ([b"GET / HTTP/1.1"], "bad_frames"),
        ([b"\x09SUBSCRIBE"], "bad_frames"),
        ([b"DJP2", b"whatever"], "unsupported_version"),
        ([TAG, msgpack.packb({"t": "nonsense"})], "unknown_type"),
        ([TAG, msgpack.packb({"t": "ready"})], "wrong_endpoint"),
    ],
)
def test_what_is_no_message_of_this_endpoint(frames: list[bytes], reason: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        CLIENT.decode(frames)
    assert caught.value.reason == reason


def test_soft_limits_name_the_job() -> None:
    codec = client_codec(Limits(max_header_bytes=100, max_body_bytes=10))
    submit = client_messages.Submit(job="j1", program="p", timeout_ms=1)
    with pytest.raises(ProtocolError) as caught:
        codec.decode(encode(submit, b"x" * 11))
    assert (caught.value.reason, caught.value.job) == ("body_too_large", "j1")
    with pytest.raises(ProtocolError) as caught:
        codec.decode(encode(msgspec.structs.replace(submit, program="p" * 101)))
    assert caught.value.reason == "header_too_large"


def test_a_refused_header_names_what_it_can() -> None:
    with pytest.raises(ProtocolError) as caught:
        CLIENT.decode([TAG, msgpack.packb({"t": "submit", "job": "j1", "program": "p", "timeout_ms": "soon"})])
    assert caught.value.job == "j1"
    assert "timeout_ms" in caught.value.message


@pytest.mark.parametrize("details", [{"x": math.nan}, {"x": b"bytes"}, {"x": [[[[[[[[[1]]]]]]]]]}])
def test_we_never_write_what_breaks_the_profile(details: Any) -> None:
    with pytest.raises(ProtocolError):
        encode(Error(code="INTERNAL", reason="internal", details=details))


@pytest.mark.parametrize("text", ["", "x" * 65, "é", "a\nb", "a\n"])
def test_ids_are_1_to_64_printable_ascii(text: str) -> None:
    with pytest.raises(ProtocolError):
        CLIENT.decode([TAG, msgpack.packb({"t": "cancel", "job": text})])


def test_refusals_leave_no_cycles() -> None:
    """Else each would hold its message, of up to 128 MiB, until the garbage collector looks."""
    codec = client_codec()
    refused = [
        [b"x" * 1_000, b"", b"DJP1", b"y"],
        [b"DJP2", b"\x80"],
        [b"DJP1"],
        [b"DJP1", b"x" * 100_000],
        [b"DJP1", b"\x81\xa1t\x05", b"z"],
        [b"DJP1", b"\x81\xa1t\xa1x", b"z"],
        [b"DJP1", b"\x82\xa1t\xa4ping\xa1x\xd4\x01\x00", b"z"],
        [b"DJP1", b"\x81\xa1t\xa4ping", bytes(17 * 1024 * 1024)],
    ]
    gc.collect()
    gc.disable()
    try:
        for frames in refused:
            with contextlib.suppress(ProtocolError):
                codec.decode(frames)
            assert gc.collect() == 0, frames[:2]
    finally:
        gc.enable()
