"""The report of a run for machines: a JSON document, and JUnit's XML."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from xml.etree import ElementTree

from dspymq.conformance.vectors import rules, sections
from dspymq.conformance.verdicts import Outcome, Verdict, by_rule, is_conformant

FORMAT = 1


def document(role: str, tested: str, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """The whole run; `exchange` is there for what did not pass. Keys may be added."""
    counts = {verdict.value: sum(each.verdict is verdict for each in outcomes) for verdict in Verdict}
    return {
        "format": FORMAT,
        "role": role,
        "tested": tested,
        "conformant": is_conformant(outcomes),
        "counts": counts,
        "rules": [
            {
                "rule": each.rule,
                "verdict": each.verdict.value if each.verdict else None,
                "text": rules()[each.rule].text if each.rule in rules() else "",
                "transcripts": list(each.transcripts),
            }
            for each in by_rule(outcomes)
        ],
        "transcripts": [_row(each) for each in outcomes],
    }


def _row(outcome: Outcome) -> dict[str, Any]:
    found: dict[str, Any] = {
        "name": outcome.name,
        "about": outcome.about,
        "rules": list(outcome.rules),
        "verdict": outcome.verdict.value,
        "took_ms": round(outcome.took_ms),
    }
    if outcome.text:
        found["text"] = outcome.text
    if outcome.verdict in (Verdict.FAIL, Verdict.INFORMATIONAL):
        found |= {"broken": outcome.blamed, "step": outcome.step, "wanted": outcome.wanted}
        found["exchange"] = [str(each) for each in outcome.exchange]
    return found


def junit(role: str, tested: str, outcomes: Sequence[Outcome]) -> str:
    """One suite, a class for each section of SPEC.md, a case for each transcript.

    What is not supported or only recommended is skipped.
    """
    failures = sum(each.verdict is Verdict.FAIL for each in outcomes)
    skipped = sum(each.verdict in (Verdict.NOT_SUPPORTED, Verdict.INFORMATIONAL) for each in outcomes)
    seconds = f"{sum(each.took_ms for each in outcomes) / 1000:.3f}"
    numbers = {"tests": str(len(outcomes)), "failures": str(failures), "skipped": str(skipped), "errors": "0"}
    suites = ElementTree.Element("testsuites")
    name = f"DJP/1 {role}: {tested}"
    suite = ElementTree.SubElement(suites, "testsuite", {"name": _xml(name), "time": seconds, **numbers})
    for each in outcomes:
        _case(suite, role, each)
    ElementTree.indent(suites)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(suites, encoding="unicode") + "\n"


def _case(suite: ElementTree.Element, role: str, outcome: Outcome) -> None:
    title = sections().get(outcome.section, "")
    case = ElementTree.SubElement(
        suite,
        "testcase",
        {
            "classname": f"DJP/1 {role}.{outcome.section} {title}",
            "name": f"{outcome.name} ({' '.join(outcome.rules)})",
            "time": f"{outcome.took_ms / 1000:.3f}",
        },
    )
    if outcome.verdict is Verdict.FAIL:
        message = f"{outcome.blamed or 'the driver'}: {_first_line(outcome.text)}"
        failure = ElementTree.SubElement(
            case, "failure", {"message": _xml(message), "type": outcome.blamed or "driver"}
        )
        failure.text = _xml("\n".join([outcome.text, "", *(str(event) for event in outcome.exchange)]))
    elif outcome.verdict is not Verdict.PASS:
        message = f"{outcome.verdict.value}: {_first_line(outcome.text)}"
        ElementTree.SubElement(case, "skipped", {"message": _xml(message)})


def _first_line(text: str) -> str:
    return text.partition("\n")[0]


def _xml(text: str) -> str:
    """Without what XML 1.0 cannot hold."""
    return "".join(c if c in "\t\n" or " " <= c <= "\ud7ff" or "\ue000" <= c <= "\ufffd" else "\ufffd" for c in text)
