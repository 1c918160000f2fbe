"""SPEC.md by itself: rule numbers, references, links, names, and the session that it works in hex."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conformance import spec_rules as k
from tests.conformance.spec_text import Spec, read

Check = Callable[[Spec], list[str]]


@pytest.mark.parametrize("check", [k.check_rules, k.check_sections, k.check_names, k.check_session, k.check_zmtp])
def test_spec_holds_together(check: Check) -> None:
    assert check(read()) == []


def test_tests_name_rules_that_exist() -> None:
    spec = read()
    own = Path(__file__)
    problems = []
    for path in sorted(own.parent.glob("*.py")):
        if path != own:
            problems += k.missing_rules(spec, path.read_text("utf-8"), path.name)
    assert problems == []


@pytest.mark.parametrize(
    ("old", "new", "check", "said"),
    [
        ("- **R-2.2** (", "- **R-2.1** (", k.check_rules, "R-2.1 is there twice"),
        ("- **R-2.2** (", "- **R-2.9** (", k.check_rules, "R-2.3 comes after R-2.9"),
        ("- **R-2.2** (C W B)", "- **R-2.2** (X)", k.check_rules, "R-2.2 is bold, but no rule"),
        ("- **R-2.2** (C W B)", "- **R-2.2** (B C)", k.check_rules, "R-2.2 has the roles (B C)"),
        ("(R-3.11)", "(R-3.99)", k.check_rules, "SPEC.md refers to R-3.99"),
        ("(section 12.2)", "(section 12.9)", k.check_sections, "SPEC.md refers to section 12.9"),
        ("## 9 Streams", "## Streams", k.check_sections, "refers to SPEC section 9"),
        ("(#9-streams)", "(#9-stream)", k.check_sections, "the link #9-stream leads nowhere"),
        ("## 9 Streams", "## 9 Streams\n\nSee JobMachine.", k.check_names, "SPEC.md names JobMachine"),
        ("## 9 Streams", "## 9 Streams\n\nSee dspymq.broker.", k.check_names, "SPEC.md names dspymq.broker"),
        ("## 9 Streams", "## 9 Streams\n\nSee `/home/somebody/notes`.", k.check_names, "SPEC.md names /home"),
        ("a4 64 65 6d 6f", "a4 64 65 6d 70", k.check_session, "the header is"),
        ("82 a1 74 a4 70 69 6e 67 a1 6e 01", "82 a1 74 a4 70 69 6e 67 a1 6e 81", k.check_session, "does not decode"),
        ('= {"t": "pong", "n": 1}', '= {"t": "pong", "n": 2}', k.check_session, "#4 B > C pong: the header is"),
        ("#8  B > W", "#8  W > B", k.check_session, "#8 W > B synced: the code gives B > W"),
        ("#17  C > B", "#18  C > B", k.check_session, "SPEC.md shows the steps"),
        ("a4 6e 61 6d 65                            ", "a4 6e 61 6d 65      ", k.check_session, "annotated"),
        ("00 0b 82 a1", "00 0c 82 a1", k.check_zmtp, "not #3 of the session"),
        ("ready     04 29", "ready     04 28", k.check_zmtp, "READY is not"),
    ],
)
def test_what_does_not_hold_together_is_named(old: str, new: str, check: Check, said: str) -> None:
    text = read().text
    assert text.count(old) >= 1, f"SPEC.md has no {old!r}"
    problems = check(Spec(text.replace(old, new, 1)))
    assert any(said in problem for problem in problems), problems
