"""Pytest fixtures of the scripted LM."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .scripted import ScriptedLM


@pytest.fixture
def scripted_lm() -> Iterator[ScriptedLM]:
    """A fresh scripted LM, closed after the test."""
    with ScriptedLM() as lm:
        yield lm
