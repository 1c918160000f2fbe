"""Whether a call could be answered, by the rows of workers.list."""

from __future__ import annotations

from typing import Any

import pytest

from dspymq.cli.ping import not_ready


def row(state: str = "ready", *programs: str) -> dict[str, Any]:
    return {"state": state, "programs": {name: ["r"] for name in programs}}


@pytest.mark.parametrize(
    ("workers", "program", "problem"),
    [
        ([], None, "no worker is here"),
        ([row("away", "qa"), row("draining", "qa"), row("syncing", "qa")], None, "no worker has slots and programs"),
        ([row("ready")], None, "no worker has slots and programs"),
        ([row("ready", "qa")], None, None),
        ([row("ready", "qa"), row("draining", "other")], "other", "no worker offers 'other'"),
        ([row("ready", "qa")], "qa", None),
    ],
)
def test_why_no_call_could_be_answered(workers: list[dict[str, Any]], program: str | None, problem: str | None) -> None:
    assert not_ready(workers, program) == problem
