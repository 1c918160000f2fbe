"""Python values as msgpack can hold them, for the inputs of a job."""

import dataclasses
import datetime
import decimal
import enum
import os
import uuid
from collections.abc import Iterable, Mapping
from typing import Any

from dspymq.protocol import body as bodies
from dspymq.protocol.errors import ProtocolError

_MAX_DEPTH = 200


def encode_body(**parts: Any) -> bytes:
    """A body of these parts; values that msgpack does not know are made plain first (see `to_plain`).

    Raises ProtocolError `invalid_body`, naming the part.
    """
    try:
        return bodies.encode(**parts)
    except ProtocolError:
        return bodies.encode(**{name: to_plain(value) for name, value in parts.items()})


def to_plain(value: Any, depth: int = 0) -> Any:
    """The value as maps, arrays, text, numbers, booleans and bytes, as far as that is without doubt.

    Pydantic models and dataclasses become maps; dates and times ISO 8601 text; enums their values; UUIDs, paths and
    decimals text; sets and other iterables arrays; keys of maps text. Anything else is returned as it is.
    """
    if value is None or isinstance(value, str | bytes | bool | int | float):
        return value.value if isinstance(value, enum.Enum) else value
    if depth >= _MAX_DEPTH:
        return value
    if isinstance(value, Mapping):
        return {_key(name): to_plain(inner, depth + 1) for name, inner in value.items()}
    return _object(value, depth)


def _object(value: Any, depth: int) -> Any:
    if isinstance(value, enum.Enum):
        return to_plain(value.value, depth + 1)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = dataclasses.fields(value)
        return {field.name: to_plain(getattr(value, field.name), depth + 1) for field in fields}
    dump = getattr(value, "model_dump", None)
    if callable(dump) and not isinstance(value, type):
        return to_plain(dump(mode="json"), depth + 1)
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, uuid.UUID | decimal.Decimal):
        return str(value)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Iterable):
        return [to_plain(inner, depth + 1) for inner in value]
    return value


def _key(name: Any) -> Any:
    return name.value if isinstance(name, enum.Enum) else name
