"""A cancel that is told in the same breath as its call: the call is cancelled, not lost and not taken for a mistake."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.clients.drivers import Driver
from tests.clients.languages import COMMANDS
from tests.faults.system import PROGRAMS
from tests.lm import ScriptedLM
from tests.processes import RunningBroker, running_broker, running_pool

CALLS = 30
PATIENCE_S = 60.0
pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def broker() -> Iterator[RunningBroker]:
    with ScriptedLM() as lm, running_broker() as broker, running_pool(broker, targets=[PROGRAMS], lm=lm):
        yield broker


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("drivers")


@pytest.mark.parametrize("language", COMMANDS)
def test_a_cancel_right_after_its_call(language: str, broker: RunningBroker, build: Path) -> None:
    heard: queue.Queue[dict[str, Any]] = queue.Queue()
    driver = Driver(language, COMMANDS[language](build), broker.clients, heard.put)

    def next_end() -> str:
        outcome = heard.get(timeout=PATIENCE_S)["outcome"]
        return f"{outcome['code']} {outcome.get('reason') or ''}".strip()

    try:
        assert heard.get(timeout=PATIENCE_S)["ready"]
        driver.tell({"tell": "submit", "call": "first", "program": "qa", "inputs": {"question": "there?"}})
        assert next_end() == "OK"
        for n in range(CALLS):
            inputs = {"question": "#delay_ms=20000 is that all?"}
            submit = {"tell": "submit", "call": f"c{n}", "program": "qa", "inputs": inputs}
            driver.tell(submit, {"tell": "cancel", "call": f"c{n}"})
        assert [next_end() for _ in range(CALLS)] == ["CANCELLED cancelled"] * CALLS
        # A cancel may meet the end of its call on the way.
        last = {**submit, "call": "last", "inputs": {"question": "still there?"}}
        driver.tell({"tell": "cancel", "call": "c0"}, last)
        assert next_end() == "OK"
    finally:
        driver.kill()
    assert not driver.problems
