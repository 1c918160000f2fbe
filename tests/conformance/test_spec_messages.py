"""SPEC.md's tables of messages are the Structs (SPEC section 4)."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.conformance.spec_fields import check_directions, check_fields
from tests.conformance.spec_text import Spec, read

Check = Callable[[Spec], list[str]]


@pytest.mark.parametrize("check", [check_fields, check_directions])
def test_the_tables_of_messages_are_the_structs(check: Check) -> None:
    assert check(read()) == []


@pytest.mark.parametrize(
    ("old", "new", "check", "said"),
    [
        ("| `lane` | name | |", "| `lane` | str | |", check_fields, "type of `lane`: SPEC.md says 'str'"),
        ('| `lane` | name | | `"default"`', '| `lane` | name | | `"batch"`', check_fields, "default of `lane`"),
        ("| `priority` | int 0–9 |", "| `priority` | int 0–8 |", check_fields, "type of `priority`"),
        ("| `priority` | int 0–9 | | `4`", "| `priority` | int 0–9 | | `5`", check_fields, "default of `priority`"),
        (
            "| `window` | positive | chunks | none |",
            "| `window` | positive | chunks | required |",
            check_fields,
            "none",
        ),
        ("| `timeout_ms` | positive | ms |", "| `timeout_ms` | positive | s |", check_fields, "unit of `timeout_ms`"),
        ("| `fail_fast` | bool |", "| `failfast` | bool |", check_fields, "SPEC.md has `failfast`, the code does not"),
        ("| `more` | bool | | `false` |", "| `many` | bool | | `false` |", check_fields, "the code has `more`"),
        ("| `cause` (W) |", "| `cause` |", check_fields, "`cancel` (C): SPEC.md has `cause`, the code does not"),
        ("| `keep` | [id] |", "| `keep` (W) | [id] |", check_fields, "`synced`: `keep` needs no (W)"),
        ("one of drain, crash, stall,", "one of drain, crash, stalled,", check_fields, "stalled"),
        ("| `jobs` (C) | [id] ≤ 1000 |", "| `jobs` (C) | [id] ≤ 999 |", check_fields, "[id] ≤ 1000"),
        ("| `input_tokens` | count |", "| `input_tokens` | float |", check_fields, "`model`: type of `input_tokens`"),
        ("| `attach` | C > B | B > W |", "| `attach` | C > B | W > B |", check_directions, "`attach` at the workers'"),
        ("| `event` | B > C | — |", "| `event` | B > C | B > W |", check_directions, "`event` at the workers'"),
        ("| `drain` | — | B > W |", "| `drains` | — | B > W |", check_directions, "no message is called `drains`"),
    ],
)
def test_a_table_of_messages_that_differs_is_named(old: str, new: str, check: Check, said: str) -> None:
    text = read().text
    assert text.count(old) >= 1, f"SPEC.md has no {old!r}"
    problems = check(Spec(text.replace(old, new, 1)))
    assert any(said in problem for problem in problems), problems
