"""Bodies (SPEC section 2.6): one msgpack map each, written and read with the `msgpack` package.

A broker never reads the body of a job; clients and workers do, and a broker reads those of request and ready.
"""

from typing import Any

import msgpack

from dspymq.protocol.errors import ProtocolError


def encode(**parts: Any) -> bytes:
    """The body with these top-level keys; parts that are None are left out.

    Raises ProtocolError `invalid_body`, naming the part, when a value has no msgpack form.
    """
    kept = {key: value for key, value in parts.items() if value is not None}
    try:
        packed: bytes = msgpack.packb(kept, use_bin_type=True, datetime=False)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        for key, value in kept.items():
            try:
                msgpack.packb(value, use_bin_type=True)
            except (TypeError, ValueError, OverflowError, RecursionError) as inner:
                raise ProtocolError("invalid_body", f"`{key}` cannot be written as msgpack: {inner}") from None
        raise ProtocolError("invalid_body", f"the body cannot be written as msgpack: {error}") from None
    return packed


def decode(data: bytes) -> dict[str, Any]:
    """The map of a body; an absent body is the empty map, and so is an empty array (PHP and Lua write that).

    Raises ProtocolError `invalid_body` for anything else.
    """
    if not data:
        return {}
    try:
        value = msgpack.unpackb(data, raw=False, strict_map_key=False, timestamp=3)
    except (ValueError, msgpack.UnpackException, OverflowError, RecursionError, TypeError) as error:
        raise ProtocolError("invalid_body", f"the body is not valid msgpack: {error or type(error).__name__}") from None
    if value == []:
        return {}
    if not isinstance(value, dict):
        raise ProtocolError("invalid_body", f"the body must be a map, not {type(value).__name__}")
    return value


def part(data: bytes, key: str) -> dict[str, Any]:
    """One part of a body that must be a map, such as `inputs` or `params`; absent is the empty map.

    Raises ProtocolError `invalid_body`.
    """
    value = decode(data).get(key)
    if value is None or value == []:
        return {}
    if not isinstance(value, dict):
        raise ProtocolError("invalid_body", f"`{key}` must be a map, not {type(value).__name__}")
    return value
