"""A msgpack writer whose forms can be chosen: widths of heads and numbers, order of keys, and things that no
header may hold. Independent of the packages that read it."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Any, Final, NamedTuple

Pairs = list[tuple[Any, Any]]


class Form(NamedTuple):
    """How to write: the width of integers and of heads in bits (0: the shortest), and of floats."""

    integer: int = 0
    signed: bool = False
    head: int = 0
    float_bits: int = 64


SHORTEST: Final = Form()


class Octets(bytes):
    """Written as they are."""


class PairMap:
    """A map as a list of pairs: keys may stand twice and need not be strings."""

    def __init__(self, pairs: Pairs) -> None:
        self.pairs = pairs


def write(value: Any, form: Form = SHORTEST) -> bytes:
    """The octets of a value: nil, bool, int, float, str, bytes (as bin), list, dict, PairMap, Octets (raw)."""
    match value:
        case Octets():
            return bytes(value)
        case None:
            return b"\xc0"
        case bool():
            return b"\xc3" if value else b"\xc2"
        case int():
            return _integer(value, form)
        case float():
            return b"\xca" + struct.pack(">f", value) if form.float_bits == 32 else b"\xcb" + struct.pack(">d", value)
        case str():
            data = value.encode()
            return _head(len(data), form, fix=(0xA0, 31), typed={8: 0xD9, 16: 0xDA, 32: 0xDB}) + data
        case bytes():
            return _head(len(value), form, fix=None, typed={8: 0xC4, 16: 0xC5, 32: 0xC6}) + value
        case list():
            head = _head(len(value), form, fix=(0x90, 15), typed={16: 0xDC, 32: 0xDD})
            return head + b"".join(write(each, form) for each in value)
        case dict():
            return write(PairMap(list(value.items())), form)
        case PairMap():
            head = _head(len(value.pairs), form, fix=(0x80, 15), typed={16: 0xDE, 32: 0xDF})
            return head + b"".join(write(key, form) + write(each, form) for key, each in value.pairs)
    raise TypeError(f"no msgpack for {type(value).__name__}")


def reversed_keys(value: Any) -> Any:
    """The same value with the keys of every map the other way round."""
    if isinstance(value, dict):
        return {key: reversed_keys(value[key]) for key in reversed(list(value))}
    return [reversed_keys(each) for each in value] if isinstance(value, list) else value


def nested(depth: int, inner: Any = 1) -> Any:
    """`inner` in so many arrays."""
    for _ in range(depth):
        inner = [inner]
    return inner


def _integer(value: int, form: Form) -> bytes:
    if not form.integer:
        if 0 <= value < 128:
            return bytes([value])
        if -32 <= value < 0:
            return struct.pack("b", value)
    signed = form.signed or value < 0
    for bits, unsigned_head, signed_head, code in _WIDTHS:
        fits = -(1 << bits - 1) <= value < 1 << bits - 1 if signed else value < 1 << bits
        if bits >= form.integer and fits:
            return bytes([signed_head if signed else unsigned_head]) + struct.pack(
                code if signed else code.upper(), value
            )
    raise ValueError(f"{value} has no 64-bit form")


_WIDTHS: Final = ((8, 0xCC, 0xD0, ">b"), (16, 0xCD, 0xD1, ">h"), (32, 0xCE, 0xD2, ">i"), (64, 0xCF, 0xD3, ">q"))


def _head(size: int, form: Form, *, fix: tuple[int, int] | None, typed: dict[int, int]) -> bytes:
    if not form.head and fix is not None and size <= fix[1]:
        return bytes([fix[0] | size])
    for bits, first in typed.items():
        if bits >= form.head and size < 1 << bits:
            return bytes([first]) + size.to_bytes(bits // 8, "big")
    raise ValueError(f"{size} has no head")


def pieces(frames: Iterable[bytes], least: int = 256) -> list[Any]:
    """Frames as vectors write them: hexadecimal text, or for long runs of one octet a list with {octets, times}."""
    return [_pieces(frame, least) for frame in frames]


def _pieces(frame: bytes, least: int) -> Any:
    found: list[Any] = []
    plain = b""
    at = 0
    while at < len(frame):
        size = len(frame) - at - len(frame[at:].lstrip(frame[at : at + 1]))
        if size >= least:
            if plain:
                found.append(plain.hex())
            found.append({"octets": frame[at : at + 1].hex(), "times": size})
            plain = b""
        else:
            plain += frame[at : at + size]
        at += size
    if not found:
        return plain.hex()
    return [*found, plain.hex()] if plain else found
