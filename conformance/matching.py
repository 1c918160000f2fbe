"""Patterns of transcripts: what a message must look like, and what of it is remembered (protocol/vectors/README.md)."""

from __future__ import annotations

import re
from typing import Any, Final

import msgpack

_UUID7: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


class Mismatch(AssertionError):
    """Something is not as it must be.

    `field` names the field of the header, or `body`, where that is known. `rule` is the rule that is broken whatever
    the step is about, such as R-3.4 for an identity.
    """

    def __init__(self, text: str, field: str = "", rule: str | None = None) -> None:
        super().__init__(text)
        self.field = field
        self.rule = rule


_FIELD: Final = re.compile(r"the (?:header\.(?P<field>\w+)|(?P<body>body))")


def _mismatch(where: str, what: str) -> Mismatch:
    found = _FIELD.match(where)
    return Mismatch(f"{where} is {what}", (found["field"] or found["body"]) if found else "")


class Memory(dict[str, Any]):
    """What `$set` has remembered in the course of one transcript."""

    def fill(self, value: Any) -> Any:
        """The value with every `$get` replaced."""
        if isinstance(value, dict):
            if set(value) == {"$get"}:
                return self[value["$get"]]
            return {name: self.fill(each) for name, each in value.items()}
        return [self.fill(each) for each in value] if isinstance(value, list) else value

    def match(self, pattern: Any, value: Any, where: str) -> None:
        """Raises Mismatch."""
        if isinstance(pattern, dict):
            special = next((name for name in pattern if name.startswith("$")), None)
            if special is not None:
                self._special(special, pattern[special], value, where)
                return
            if not isinstance(value, dict):
                raise _mismatch(where, f"{value!r}, not a map")
            for name, each in pattern.items():
                self.match(each, value.get(name), f"{where}.{name}")
        elif isinstance(pattern, list):
            if not isinstance(value, list) or len(value) != len(pattern):
                raise _mismatch(where, f"{value!r}, not {len(pattern)} of {pattern!r}")
            for index, (each, found) in enumerate(zip(pattern, value, strict=True)):
                self.match(each, found, f"{where}[{index}]")
        elif type(pattern) is not type(value) or pattern != value:
            raise _mismatch(where, f"{value!r}, not {pattern!r}")

    def _special(self, name: str, argument: Any, value: Any, where: str) -> None:
        match name:
            case "$set":
                self[argument] = value
                holds = value is not None
            case "$get":
                holds = self[argument] == value
            case "$not":
                holds = self.fill(argument) != value
            case "$greater":
                holds = isinstance(value, str) and value > self.fill(argument)
            case "$from":
                low, high = argument
                holds = isinstance(value, int) and low <= value <= high
            case "$uuid7":
                holds = isinstance(value, str) and _UUID7.fullmatch(value) is not None
            case "$has":
                holds = isinstance(value, list) and all(each in value for each in self.fill(argument))
            case "$contains":
                holds = isinstance(value, list) and any(self._fits(argument, each) for each in value)
            case "$without":
                holds = not any(text in str(value) for text in argument)
            case "$begins":
                holds = isinstance(value, str) and value.startswith(self.fill(argument))
            case "$all":
                for each in argument:
                    self.match(each, value, where)
                holds = True
            case _:
                raise ValueError(f"no pattern is called {name}")
        if not holds:
            raise _mismatch(where, f"{value!r}, not {name} {self.fill(argument)!r}")

    def _fits(self, pattern: Any, value: Any) -> bool:
        try:
            self.match(pattern, value, "")
        except Mismatch:
            return False
        return True

    def match_body(self, pattern: Any, body: bytes) -> None:
        """A body: octets, its absence, or what it decodes to."""
        match pattern:
            case {"$absent": True}:
                holds = not body
            case {"$hex": text}:
                holds = body.hex() == text
            case {"$set": name}:
                self[name] = body
                holds = True
            case {"$get": name}:
                holds = body == self[name]
            case _:
                self.match(pattern, unpacked(body), "the body")
                return
        if not holds:
            raise _mismatch("the body", f"{body[:64].hex()} ({len(body)} octets), not {pattern}")


def unpacked(body: bytes) -> Any:
    """What a body says, None if it is empty. Raises Mismatch (R-2.22) if it is no msgpack."""
    try:
        return msgpack.unpackb(body, strict_map_key=False) if body else None
    except (ValueError, msgpack.UnpackException) as problem:
        raise Mismatch(f"the body is no msgpack: {problem}", "body", "R-2.22") from None


def frame(value: Any) -> bytes:
    """A frame as vectors write it: hexadecimal text, or a list of texts and {octets, times}."""
    if isinstance(value, str):
        return bytes.fromhex(value)
    return b"".join(bytes.fromhex(p) if isinstance(p, str) else bytes.fromhex(p["octets"]) * p["times"] for p in value)


def body_frame(value: Any, memory: Memory) -> bytes | None:
    """The third frame that a step sends, None for none."""
    match value:
        case None:
            return None
        case {"$hex": text}:
            return bytes.fromhex(text)
        case {"$zeros": count}:
            return bytes(count)
        case {"$get": name} if isinstance(memory[name], bytes):
            octets: bytes = memory[name]
            return octets
        case _:
            packed: bytes = msgpack.packb(memory.fill(value))
            return packed
