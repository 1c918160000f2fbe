"""Workers that break one rule: the kit blames that rule, and no other."""

from __future__ import annotations

import pytest

from dspymq.conformance.runs import Choice, run_worker
from dspymq.conformance.verdicts import Outcome, failed_rules
from tests.conformance.kit.running import all_at_once, showing, told, wrong_worker
from tests.conformance.kit.wrong_workers import FAULTS

SAMPLE = ("an-attempt", "stream")
WHOLE = ("counts chunks from one", "keeps everything", "shows traces")
SCALE = 0.25


def _run(fault: str) -> list[Outcome]:
    if fault in WHOLE:
        return run_worker(wrong_worker(fault), Choice(scale=SCALE))
    return run_worker(wrong_worker(fault), Choice(names=showing("worker", FAULTS[fault][1], SAMPLE), scale=SCALE))


@pytest.fixture(scope="module")
def outcomes() -> dict[str, list[Outcome]]:
    return all_at_once(FAULTS, _run)


@pytest.mark.timeout(240)
@pytest.mark.parametrize("fault", FAULTS)
def test_the_rule_that_is_broken_is_blamed(outcomes: dict[str, list[Outcome]], fault: str) -> None:
    assert failed_rules(outcomes[fault]) == {FAULTS[fault][1]}, told(outcomes[fault])
