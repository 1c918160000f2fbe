"""The strict msgpack profile of headers (SPEC section 2.2), for what msgspec alone lets pass.

Under keys it does not know msgspec accepts ext, NaN and any nesting, and of duplicate keys the last wins. This
check reads the header once more with the `msgpack` package, an independent decoder, and refuses all of those.
"""

import math
from typing import Any

import msgpack

from dspymq.protocol.errors import ProtocolError
from dspymq.protocol.limits import MAX_HEADER_DEPTH


def check(header: bytes) -> None:
    """Raise ProtocolError `bad_header` unless the bytes keep the profile.

    The profile: one map and nothing after it; string keys, none twice; no bin, ext, NaN or infinity; depth of at
    most MAX_HEADER_DEPTH.
    """
    try:
        value = msgpack.unpackb(header, raw=False, strict_map_key=True, object_pairs_hook=_distinct)
    except ProtocolError:
        raise
    except (ValueError, msgpack.UnpackException, OverflowError, RecursionError, TypeError) as error:
        raise ProtocolError("bad_header", f"the header is not valid msgpack: {error or type(error).__name__}") from None
    if not isinstance(value, dict):
        raise ProtocolError("bad_header", f"the header must be a map, not {_kind(value)}")
    _walk(value, 1)


def _distinct(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ProtocolError("bad_header", "a key stands twice in one map of the header")
    return found


def _walk(value: Any, depth: int) -> None:
    kind = type(value)
    if kind in (str, int, bool, type(None)):
        return
    if kind is dict or kind is list:
        if depth > MAX_HEADER_DEPTH:
            raise ProtocolError("bad_header", f"the header nests deeper than {MAX_HEADER_DEPTH}")
        if kind is dict:
            for key in value:
                if type(key) is not str:
                    raise ProtocolError("bad_header", f"header keys must be strings, not {_kind(key)}")
        for inner in value.values() if kind is dict else value:
            _walk(inner, depth + 1)
    elif kind is float:
        if not math.isfinite(value):
            raise ProtocolError("bad_header", "the header holds NaN or infinity")
    else:
        raise ProtocolError("bad_header", f"the header holds {_kind(value)}; bytes belong into the body")


def _kind(value: Any) -> str:
    if isinstance(value, bytes):
        return "bin"
    if isinstance(value, msgpack.ExtType | msgpack.Timestamp):
        return "ext"
    return type(value).__name__
