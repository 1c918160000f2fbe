"""The vectors as parameters of tests."""

from __future__ import annotations

import json
from typing import Any, Final

import pytest

from tests.conformance.vector_match import VECTORS

KNOWN_FAULTS: Final[dict[str, str]] = {}
"""Vectors that this repository's own code does not meet yet, and why."""


def load(name: str) -> dict[str, Any]:
    """A file of vectors."""
    found: dict[str, Any] = json.loads((VECTORS / name).read_text("utf-8"))
    assert found["format"] == 1
    return found


def transcripts(role: str) -> list[Any]:
    """All transcripts of a role, as parameters that are named after them."""
    files = sorted((VECTORS / "transcripts").glob(f"{role}*.json"))
    loaded = [load(f"transcripts/{path.name}") for path in files]
    assert loaded, f"no transcripts of {role}"
    assert {each["role"] for each in loaded} == {role}
    return [_param(role, each) for file in loaded for each in file["transcripts"]]


def _param(kind: str, vector: dict[str, Any]) -> Any:
    name = f"{kind}/{vector['name']}"
    fault = KNOWN_FAULTS.get(name)
    return pytest.param(vector, id=name, marks=[pytest.mark.xfail(strict=True, reason=fault)] if fault else [])


_CASES: Final = load("invalid.json")["cases"]
UNREADABLE: Final = [pytest.param(case, id=case["name"]) for case in _CASES if case["answer"] is not None]
INVALID: Final = [_param("invalid", case) for case in _CASES]
BROKER_TRANSCRIPTS: Final = transcripts("broker")
CLIENT_TRANSCRIPTS: Final = transcripts("client")
WORKER_TRANSCRIPTS: Final = transcripts("worker")
