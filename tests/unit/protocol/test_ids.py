"""Ids are text that sorts (SPEC sections 2.4 and 6)."""

from __future__ import annotations

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspymq.protocol import lease_id, new_uuid7, uuid7


@given(st.integers(0, (1 << 48) - 1), st.binary(min_size=10, max_size=10))
def test_uuid7_is_one(now_ms: int, random_bytes: bytes) -> None:
    value = uuid.UUID(uuid7(now_ms, random_bytes))
    assert value.version == 7
    assert value.variant == uuid.RFC_4122
    assert value.int >> 80 == now_ms


def test_uuid7_refuses_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="10 random bytes"):
        uuid7(1, b"short")
    with pytest.raises(ValueError, match="48 bits"):
        uuid7(1 << 48, b"x" * 10)


def test_later_leases_are_greater_text_within_and_across_epochs() -> None:
    older, newer = uuid7(1_000, b"\xff" * 10), uuid7(1_001, b"\x00" * 10)
    leases = [lease_id(older, 9), lease_id(older, 10), lease_id(newer, 1)]
    assert leases == sorted(leases)
    assert all(len(lease) <= 64 for lease in leases)


def test_fresh_ids_differ() -> None:
    assert len({new_uuid7() for _ in range(1_000)}) == 1_000
