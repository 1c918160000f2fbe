"""A real broker for each test of its rules."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conformance.bare_peers import Broker


@pytest.fixture
def broker() -> Iterator[Broker]:
    """A broker with its defaults, on ports of its own."""
    with Broker() as broker:
        yield broker
