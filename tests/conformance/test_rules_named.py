"""Every rule of SPEC.md that says MUST is named by a vector or a test, for each role that must keep it."""

from __future__ import annotations

import pytest

from tests.conformance import rule_names
from tests.conformance.rule_names import Duty
from tests.conformance.spec_text import Spec, read

MOST_OPEN = 2
"""The list of what nothing names may only become shorter: lower this number with it."""


def test_every_must_is_named_and_the_list_of_exceptions_only_shrinks(capsys: pytest.CaptureFixture[str]) -> None:
    spec = read()
    named, still_open = rule_names.named(spec), rule_names.still_open()
    missing = [duty for duty in rule_names.duties(spec) if duty not in named]
    with capsys.disabled():
        for duty in missing:
            print(f"\nno vector or test names {duty}: {still_open.get(duty, 'and no reason is given')}", end="")
    assert [str(duty) for duty in missing if duty not in still_open] == []
    assert [str(duty) for duty in still_open if duty not in missing] == [], "named by now: take them off the list"
    assert len(still_open) <= MOST_OPEN


def test_what_is_named_exists() -> None:
    spec = read()
    numbers = {rule.number for rule in spec.rules}
    assert [str(duty) for duty in rule_names.named(spec) if duty.rule not in numbers] == []
    tests = {test for tests in rule_names.elsewhere().values() for test in tests}
    assert [test for test in sorted(tests) if not rule_names.exists(test)] == []


def test_a_rule_that_nobody_names_is_found() -> None:
    new = "15.99"
    spec = Spec(read().text + f"\n- **R-{new}** (C B) A peer MUST do what nobody tests.\n")
    missing = [duty for duty in rule_names.duties(spec) if duty not in rule_names.named(spec)]
    assert Duty(new, "B") in missing
    assert Duty(new, "C") in missing


def test_names_of_tests_name_rules() -> None:
    order = ["3.8", "3.9", "3.10", "3.11", "4.1"]
    assert rule_names.rules_of("test_r_3_8_to_3_10_and_4_1_what_they_say", order) == ["3.8", "3.9", "3.10", "4.1"]
    assert rule_names.rules_of("test_r_3_8_2_peers", order) == ["3.8"]
    assert rule_names.rules_of("test_section_3_8", order) == []
