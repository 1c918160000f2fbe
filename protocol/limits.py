"""The limits a broker announces in `welcome` (SPEC section 13). All are soft: crossing one is answered."""

from typing import Annotated, Final

import msgspec

MAX_COUNT: Final = (1 << 53) - 1
"""The greatest whole number that every language can hold (JavaScript stops there)."""

Count = Annotated[int, msgspec.Meta(ge=0, le=MAX_COUNT)]

Positive = Annotated[int, msgspec.Meta(ge=1, le=MAX_COUNT)]

MAX_HEADER_DEPTH: Final = 8
"""Nesting of maps and arrays in a header; the header map itself is depth 1."""

MAX_ACKS: Final = 1_000
"""Entries in one `ack`."""

MAX_HELD: Final = 200
"""Entries of `held` in one `ready`: the header must stay under `max_header_bytes`."""

HARD_FRAME_BYTES: Final = 128 * 1024 * 1024
"""ZMQ_MAXMSGSIZE of every socket: past it libzmq drops the connection without an answer."""


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What a broker accepts; `welcome.limits`."""

    max_header_bytes: Positive = 64 * 1024
    max_body_bytes: Positive = 16 * 1024 * 1024
    max_timeout_ms: Positive = 30 * 24 * 3_600_000
    max_jobs: Positive = 500_000
    max_jobs_per_flow: Positive = 250_000
    max_queued_bytes: Positive = 1024 * 1024 * 1024
