"""Brokers that break one rule: the kit blames that rule, and no other."""

from __future__ import annotations

import pytest

from dspymq.conformance.broker_runs import Broker, run_broker
from dspymq.conformance.brokers import Started
from dspymq.conformance.runs import Choice
from dspymq.conformance.verdicts import Outcome, failed_rules
from tests.conformance.kit.running import all_at_once, showing, told, wrong_broker
from tests.conformance.kit.wrong_brokers import FAULTS

SAMPLE = ("order-of-a-job", "invalid/tag-later-version")
WHOLE = "forgets tombstones"
"""All transcripts that can share a broker are played on it."""
SCALE = 0.25


def _run(fault: str) -> list[Outcome]:
    if fault == WHOLE:
        started = Started(wrong_broker(fault), {})
        try:
            return run_broker(Broker(addresses=(started.clients, started.workers)), Choice(scale=SCALE, jobs=2))
        finally:
            started.close()
    tested = Broker(template=wrong_broker(fault))
    names = showing("broker", FAULTS[fault][1], SAMPLE)
    return run_broker(tested, Choice(names=names, scale=SCALE))


@pytest.fixture(scope="module")
def outcomes() -> dict[str, list[Outcome]]:
    return all_at_once(FAULTS, _run)


@pytest.mark.timeout(240)
@pytest.mark.parametrize("fault", FAULTS)
def test_the_rule_that_is_broken_is_blamed(outcomes: dict[str, list[Outcome]], fault: str) -> None:
    assert failed_rules(outcomes[fault]) == {FAULTS[fault][1]}, told(outcomes[fault])
