"""Clients that break one rule: the kit blames that rule, and no other."""

from __future__ import annotations

import pytest

from dspymq.conformance.runs import Choice, run_client
from dspymq.conformance.verdicts import Outcome, failed_rules
from tests.conformance.kit.running import all_at_once, showing, told, wrong_client
from tests.conformance.kit.wrong_clients import FAULTS

SAMPLE = ("call",)
WHOLE = "says no known_epoch"
SCALE = 0.25


def _run(fault: str) -> list[Outcome]:
    if fault == WHOLE:
        return run_client(wrong_client(fault), Choice(scale=SCALE, jobs=2))
    return run_client(wrong_client(fault), Choice(names=showing("client", FAULTS[fault][1], SAMPLE), scale=SCALE))


@pytest.fixture(scope="module")
def outcomes() -> dict[str, list[Outcome]]:
    return all_at_once(FAULTS, _run)


@pytest.mark.timeout(240)
@pytest.mark.parametrize("fault", FAULTS)
def test_the_rule_that_is_broken_is_blamed(outcomes: dict[str, list[Outcome]], fault: str) -> None:
    assert failed_rules(outcomes[fault]) == {FAULTS[fault][1]}, told(outcomes[fault])
