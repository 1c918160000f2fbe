"""The vectors as parameters of tests."""

from __future__ import annotations

from typing import Any, Final

import pytest

from dspymq.conformance import vectors

KNOWN_FAULTS: Final[dict[str, str]] = {}
"""Vectors that this repository's own code does not meet yet, and why."""


def _param(kind: str, vector: dict[str, Any]) -> Any:
    name = f"{kind}/{vector['name']}"
    fault = KNOWN_FAULTS.get(name)
    return pytest.param(vector, id=name, marks=[pytest.mark.xfail(strict=True, reason=fault)] if fault else [])


UNREADABLE: Final = [pytest.param(case, id=case["name"]) for case in vectors.invalid() if case["answer"] is not None]
INVALID: Final = [_param("invalid", case) for case in vectors.invalid()]
BROKER_TRANSCRIPTS: Final = [_param("broker", each) for each in vectors.transcripts("broker")]
