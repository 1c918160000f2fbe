"""Identifiers as text: UUIDv7 for epochs and jobs, `epoch-counter` for leases (SPEC section 2.4 and 6)."""

import os
import time
from typing import Annotated, Final

import msgspec

MAX_ID_CHARS: Final = 64
_ID_PATTERN: Final = r"^[ -~]{1,64}\Z"

Id = Annotated[str, msgspec.Meta(pattern=_ID_PATTERN)]
"""1 to 64 printable ASCII characters (0x20 to 0x7E)."""


def uuid7(now_ms: int, random_bytes: bytes) -> str:
    """The UUID version 7 (RFC 9562, 5.7) of a Unix time in milliseconds and 10 random bytes, as lower-case text.

    Raises ValueError when fewer than 10 random bytes are given or the time does not fit into 48 bits.
    """
    if len(random_bytes) < 10:
        raise ValueError("uuid7 needs 10 random bytes")
    if not 0 <= now_ms < 1 << 48:
        raise ValueError(f"now_ms {now_ms} does not fit into 48 bits")
    rand = int.from_bytes(random_bytes[:10], "big")
    rand_a = rand >> 68
    rand_b = rand & ((1 << 62) - 1)
    value = now_ms << 80 | 0x7 << 76 | rand_a << 64 | 0b10 << 62 | rand_b
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def new_uuid7() -> str:
    """A fresh UUIDv7 from this machine's clock and entropy; for shells, never for a pure core."""
    return uuid7(time.time_ns() // 1_000_000, os.urandom(10))


def lease_id(epoch: str, counter: int) -> str:
    """The lease text of PROTOCOL section 6: a later lease of any later epoch compares greater as text."""
    return f"{epoch}-{counter:012d}"
