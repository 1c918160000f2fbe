"""Compares SPEC.md's tables of messages with the Structs: names, types, units, defaults, and who sends what."""

from __future__ import annotations

import re
from typing import Any, Final, get_args

import msgspec
from msgspec import inspect as mi

from dspymq.protocol import client_messages, messages, worker_messages
from dspymq.protocol.limits import Limits
from tests.conformance.spec_text import Row, Spec, word

STRUCTURES: Final[dict[str, type]] = {
    "limits": Limits,
    "usage": messages.Usage,
    "model": messages.ModelUsage,
    "timings": messages.Timings,
    "offer": worker_messages.Offer,
    "held": worker_messages.Held,
}
_NAMES: Final = {cls: name for name, cls in STRUCTURES.items()}
_MAX_COUNT: Final = (1 << 53) - 1


def check_fields(spec: Spec) -> list[str]:
    """What differs between the field tables and the Structs, one line each."""
    problems = []
    clients, workers = _by_tag(client_messages.Message), _by_tag(worker_messages.Message)
    for tag in sorted(clients.keys() | workers.keys()):
        rows = _rows(spec, tag)
        for structs, mark in ((clients, "C"), (workers, "W")):
            if tag in structs:
                here = [row for row in rows if row["mark"] in ("", mark)]
                problems += _compare(f"`{tag}` ({mark})", here, structs[tag])
        if tag not in clients or tag not in workers or clients[tag] is workers[tag]:
            problems += [f"`{tag}`: `{row['name']}` needs no ({row['mark']})" for row in rows if row["mark"]]
    for name, struct in STRUCTURES.items():
        problems += _compare(f"`{name}`", _rows(spec, name), struct)
    return problems


def check_directions(spec: Spec) -> list[str]:
    """What differs between the table of who may send what and the unions."""
    rows = {word(row["`t`"]): row for row in spec.table(r"^### 4\.2 ")}
    clients, workers = _by_tag(client_messages.Message), _by_tag(worker_messages.Message)
    problems = [f"no message is called `{tag}`" for tag in rows if tag not in clients and tag not in workers]
    for column, side, union, to_broker, from_broker in (
        ("clients' endpoint", "C", clients, client_messages.FromClient, client_messages.FromBroker),
        ("workers' endpoint", "W", workers, worker_messages.FromWorker, worker_messages.FromBroker),
    ):
        senders = {tag: (tag in _by_tag(to_broker), tag in _by_tag(from_broker)) for tag in union}
        for tag in sorted(union.keys() | rows.keys()):
            expected = {(True, True): "both", (True, False): f"{side} > B", (False, True): f"B > {side}"}.get(
                senders.get(tag, (False, False)), "—"
            )
            found = rows[tag][column] if tag in rows else "no row"
            if found != expected:
                problems.append(f"`{tag}` at the {column}: SPEC.md says {found!r}, the code {expected!r}")
    return problems


def _rows(spec: Spec, name: str) -> list[Row]:
    rows = []
    for row in spec.field_table(name):
        match = re.fullmatch(r"`(\w+)`(?: \(([CW])\))?", row["field"])
        if match is None:
            raise AssertionError(f"`{name}`: the field cell {row['field']!r} is not `name` or `name` (C) or `name` (W)")
        rows.append({**row, "name": match[1], "mark": match[2] or ""})
    return rows


def _compare(where: str, rows: list[Row], struct: Any) -> list[str]:
    said = {row["name"]: row for row in rows}
    fields = {field.encode_name: field for field in mi.type_info(struct).fields}  # type: ignore[attr-defined]
    problems = [f"{where}: SPEC.md has `{name}`, the code does not" for name in said if name not in fields]
    if len(said) != len(rows):
        problems.append(f"{where}: a field stands twice")
    for name, field in fields.items():
        row = said.get(name)
        if row is None:
            problems.append(f"{where}: the code has `{name}`, SPEC.md does not")
            continue
        for column, expected in (("type", _type(field.type)), ("default", _default(field))):
            found = _normal(row[column])
            if found != expected:
                problems.append(f"{where}: {column} of `{name}`: SPEC.md says {found!r}, the code {expected!r}")
        for suffix, unit in (("_ms", "ms"), ("_bytes", "bytes")):
            if name.endswith(suffix) != row["unit"].startswith(unit):
                problems.append(f"{where}: unit of `{name}` is {row['unit']!r}")
    return problems


def _by_tag(union: Any) -> dict[str, Any]:
    return {str(member.__struct_config__.tag): member for member in get_args(union)}


def _default(field: mi.Field) -> str:
    if field.required:
        return "required"
    value = field.default
    if value is msgspec.NODEFAULT:
        assert field.default_factory is not msgspec.NODEFAULT
        value = field.default_factory()
    if value is None:
        return "none"
    return f"`{msgspec.json.encode(value).decode()}`"


def _normal(cell: str) -> str:
    """The words of an enumeration in alphabetical order, as msgspec has them."""
    return re.sub(r"one of ([\w, ]+)", lambda m: f"one of {', '.join(sorted(m[1].split(', ')))}", cell)


def _type(kind: Any) -> str:
    match kind:
        case mi.UnionType(types=types):
            return _type(next(each for each in types if not isinstance(each, mi.NoneType)))
        case mi.StrType(pattern=str(pattern), max_length=None):
            assert pattern == r"^[ -~]{1,64}\Z", pattern
            return "id"
        case mi.StrType(pattern=str(), min_length=low, max_length=high):
            return f"str {low}–{high}, printable ASCII"
        case mi.StrType(min_length=1, max_length=128):
            return "name"
        case mi.StrType(max_length=4096):
            return "text"
        case mi.StrType(max_length=high):
            return "str" if high is None else f"str ≤ {high}"
        case mi.IntType(ge=0, le=high) if high == _MAX_COUNT:
            return "count"
        case mi.IntType(ge=1, le=high) if high == _MAX_COUNT:
            return "positive"
        case mi.IntType(ge=low, le=high):
            return f"int {low}–{high}"
        case mi.FloatType(ge=None, le=None):
            return "float"
        case mi.FloatType(ge=low, le=high):
            return f"float {low:.0f}–{high:.0f}"
        case mi.BoolType():
            return "bool"
        case mi.AnyType():
            return "any"
        case mi.LiteralType(values=values):
            return f"one of {', '.join(sorted(map(str, values)))}"
        case mi.ListType(item_type=item, max_length=high):
            return f"[{_type(item)}]" if high is None else f"[{_type(item)}] ≤ {high}"
        case mi.DictType(value_type=value):
            return f"{{str: {_type(value)}}}"
        case mi.StructType(cls=cls):
            return _NAMES[cls]
    raise AssertionError(f"no words for the type {kind!r}")
