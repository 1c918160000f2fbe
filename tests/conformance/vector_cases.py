"""The vectors as parameters of tests."""

from __future__ import annotations

import json
from typing import Any, Final

import pytest

from tests.conformance.vector_match import VECTORS

_ANSWERED: Final = "the broker answers an `error` that it cannot decode"
KNOWN_FAULTS: Final = {
    "error-field-missing": _ANSWERED,
    "error-wrong-type": _ANSWERED,
    "error-breaks-the-profile": _ANSWERED,
    "error-of-another-version": _ANSWERED,
    "error-key-twice": _ANSWERED,
    "dispatch-sent-to-the-workers-endpoint": "at the workers' endpoint a refusal names no `job`",
}
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
    return [pytest.param(each, id=each["name"]) for file in loaded for each in file["transcripts"]]


INVALID: Final = [pytest.param(case, id=case["name"]) for case in load("invalid.json")["cases"]]
BROKER_TRANSCRIPTS: Final = transcripts("broker")
CLIENT_TRANSCRIPTS: Final = transcripts("client")
WORKER_TRANSCRIPTS: Final = transcripts("worker")
