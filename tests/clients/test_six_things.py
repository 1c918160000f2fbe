"""docs/clients.md says what the examples do, and the examples run."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.clients.six_things import LANGUAGES, PAGE, THINGS, page, section
from tests.lm import ScriptedLM
from tests.processes import ROOT, clean_environ, running_broker, running_pool


def test_the_page_is_made_from_the_examples() -> None:
    assert PAGE.read_text() == page(), "run: python -m tests.clients.six_things"


@pytest.mark.parametrize("language", LANGUAGES, ids=lambda language: language.name)
def test_snippets_are_short_enough_to_be_read_side_by_side(language: object) -> None:
    assert all(len(section(language, thing).splitlines()) <= 14 for thing in THINGS)  # type: ignore[arg-type]


def test_the_python_example_runs() -> None:
    with (
        ScriptedLM() as lm,
        running_broker() as broker,
        running_pool(broker, targets=["examples.programs"], lm=lm),
    ):
        command = [sys.executable, "examples/six_things.py", broker.clients]
        done = subprocess.run(command, cwd=ROOT, env=clean_environ(), capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    said = [line.partition(":")[0] for line in done.stdout.splitlines()]
    assert said == ["call", "extraction", "story", "cancel", "tool", "errors"], done.stdout
    assert "review" in done.stdout.splitlines()[-1]
