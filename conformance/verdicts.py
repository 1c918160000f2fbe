"""What came of a transcript, and of each rule."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from dspymq.conformance.exchange import Event
from dspymq.conformance.vectors import order_of


class Verdict(enum.StrEnum):
    """The four."""

    PASS = "pass"
    FAIL = "fail"
    NOT_SUPPORTED = "not supported"
    INFORMATIONAL = "informational"
    """It is not as the transcript says, but only recommended."""


@dataclass
class Outcome:
    """The verdict of one transcript or case.

    `blamed` is the rule that a failure breaks; None if there is none, or if the fault is COMMAND's own.
    """

    name: str
    about: str
    rules: Sequence[str]
    verdict: Verdict
    took_ms: float = 0.0
    blamed: str | None = None
    text: str = ""
    step: int | None = None
    wanted: Any = None
    stood_still_ms: float = 0.0
    """For how long at most the kit itself stood still."""
    exchange: Sequence[Event] = field(default=(), repr=False)

    @property
    def section(self) -> int:
        """The section of SPEC.md that it is reported in: of the blamed rule, else of the first."""
        return order_of(self.blamed or self.rules[0])[0]


@dataclass(frozen=True)
class RuleOutcome:
    """What all transcripts say of one rule: `verdict` None if those that name it failed on another rule."""

    rule: str
    verdict: Verdict | None
    transcripts: Sequence[str]
    """Those that decided it."""


def by_rule(outcomes: Iterable[Outcome]) -> list[RuleOutcome]:
    """Each rule that a transcript names or blames, in the order of SPEC.md.

    A rule fails if a failure is blamed on it, passes if a transcript that names it passed, and else is whatever
    remains.
    """
    found = list(outcomes)
    numbers = {rule for each in found for rule in each.rules} | {each.blamed for each in found if each.blamed}
    return [_of_rule(rule, found) for rule in sorted(numbers, key=order_of)]


def _of_rule(rule: str, outcomes: list[Outcome]) -> RuleOutcome:
    for verdict in (Verdict.FAIL, Verdict.INFORMATIONAL):
        blaming = [each.name for each in outcomes if each.verdict is verdict and each.blamed == rule]
        if blaming:
            return RuleOutcome(rule, verdict, blaming)
    naming = [each for each in outcomes if rule in each.rules]
    for verdict in (Verdict.PASS, Verdict.NOT_SUPPORTED):
        names = [each.name for each in naming if each.verdict is verdict]
        if names:
            return RuleOutcome(rule, verdict, names)
    return RuleOutcome(rule, None, [each.name for each in naming])


def failed_rules(outcomes: Iterable[Outcome]) -> set[str]:
    """The rules that failures are blamed on."""
    return {each.blamed for each in outcomes if each.verdict is Verdict.FAIL and each.blamed}


def is_conformant(outcomes: Iterable[Outcome]) -> bool:
    """Whether nothing failed."""
    return all(each.verdict is not Verdict.FAIL for each in outcomes)
