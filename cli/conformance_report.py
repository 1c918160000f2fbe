"""The report of `dspymq conformance` for people: by section of SPEC.md, then by rule."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Final

from rich.text import Text

from dspymq.conformance.vectors import rules, sections
from dspymq.conformance.verdicts import Outcome, RuleOutcome, Verdict, by_rule

if TYPE_CHECKING:
    from rich.console import Console

_STYLES: Final = {
    Verdict.PASS: "green",
    Verdict.FAIL: "bold red",
    Verdict.NOT_SUPPORTED: "dim",
    Verdict.INFORMATIONAL: "yellow",
}
_WIDTH: Final = max(len(verdict) for verdict in Verdict)
_NOT_SHOWN: Final = "not shown"
_LONGEST: Final = 2000


def show(console: Console, role: str, tested: str, outcomes: Sequence[Outcome], *, whole: bool) -> None:
    """Print it; with `whole` also everything that was said in each transcript that was not kept."""
    console.print(Text(f"DJP/1 conformance of a {role}: {tested}", style="bold"))
    # Sorting is stable: within a section the order of the vectors stays.
    for number, group in groupby(sorted(outcomes, key=lambda each: each.section), lambda each: each.section):
        console.print(Text(f"\n{number} {sections().get(number, '')}", style="bold"))
        for outcome in group:
            _show_outcome(console, outcome, whole=whole)
    console.print(Text("\nRules", style="bold"))
    for each in by_rule(outcomes):
        _show_rule(console, each)
    console.print()
    console.print(_summary(outcomes))


def _show_outcome(console: Console, outcome: Outcome, *, whole: bool) -> None:
    rule_names = " ".join(outcome.rules)
    console.print(_line(outcome.verdict, f"{outcome.name}  ", (rule_names, "dim")))
    if outcome.verdict is Verdict.PASS:
        return
    if outcome.verdict is Verdict.NOT_SUPPORTED:
        console.print(_indented(outcome.text, "dim"))
        return
    console.print(_indented(outcome.about))
    at = "" if outcome.step is None else f", step {outcome.step}"
    console.print(_indented(f"{_broken(outcome)}{at}: {_cut(outcome.text)}", _STYLES[outcome.verdict]))
    if outcome.wanted is not None:
        console.print(_indented(f"expected: {_cut(str(outcome.wanted))}"))
    if whole:
        for event in outcome.exchange:
            console.print(_indented(str(event), "dim"))


def _broken(outcome: Outcome) -> str:
    if outcome.blamed is None:
        return "no rule, but its COMMAND"
    word = "breaks" if outcome.verdict is Verdict.FAIL else "does not follow"
    return f"{word} {outcome.blamed}"


def _show_rule(console: Console, each: RuleOutcome) -> None:
    text = rules()[each.rule].text if each.rule in rules() else ""
    if each.verdict in (Verdict.FAIL, Verdict.INFORMATIONAL):
        console.print(_line(each.verdict, f"{each.rule:<7} ", (text, "")))
        console.print(_indented(f"see {', '.join(each.transcripts)}", "dim"))
    else:
        console.print(_line(each.verdict, f"{each.rule:<7} ", (text, "dim")))


def _summary(outcomes: Sequence[Outcome]) -> Text:
    text = Text()
    for verdict in Verdict:
        count = sum(each.verdict is verdict for each in outcomes)
        text.append(f"{count} {verdict}", style=_STYLES[verdict] if count else "dim")
        text.append(", " if verdict is not list(Verdict)[-1] else "")
    kept = by_rule(outcomes)
    broken = [each.rule for each in kept if each.verdict is Verdict.FAIL]
    passed = sum(each.verdict is Verdict.PASS for each in kept)
    text.append(f"; of {len(kept)} rules {passed} are kept, {len(broken)} broken")
    if broken:
        text.append(f": {' '.join(broken)}", style="bold red")
    return text


def _line(verdict: Verdict | None, name: str, rest: tuple[str, str]) -> Text:
    word, style = (verdict.value, _STYLES[verdict]) if verdict else (_NOT_SHOWN, "dim")
    return Text.assemble((f"  {word:<{_WIDTH}}  ", style), name, rest)


def _indented(text: str, style: str = "") -> Text:
    indent = " " * (_WIDTH + 4)
    return Text("\n".join(indent + line for line in text.splitlines()), style=style)


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}... (--json has all of it)"
