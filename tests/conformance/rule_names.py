"""Which rules of SPEC.md say MUST, and which of them a vector or a test names, for each role that must keep them."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from dspymq.conformance.vectors import VECTORS
from tests.conformance.spec_text import ROOT, Rule, Spec

HERE: Final = Path(__file__).parent
ELSEWHERE: Final = HERE / "rules_elsewhere.json"
"""Tests of other folders that hold a rule: `R-5.3 C` to a list of `path::test`."""
OPEN: Final = HERE / "rules_open.json"
"""Rules that nothing names yet: `R-3.4 C` to the reason."""

_ROLES: Final = {"broker": "B", "client": "C", "worker": "W"}
_IN_NAMES: Final = re.compile(r"(?P<word>r|and|to)_(?P<section>\d+)_(?P<number>\d+)(?=_|$)")


class Duty(NamedTuple):
    """A rule, and one of the roles that must keep it."""

    rule: str
    role: str

    def __str__(self) -> str:
        return f"R-{self.rule} {self.role}"


def duties(spec: Spec) -> list[Duty]:
    """Every rule that says MUST, for each of its roles."""
    return [Duty(rule.number, role) for rule in spec.rules if _is_must(rule) for role in rule.roles.split()]


def _is_must(rule: Rule) -> bool:
    return re.search(r"\bMUST\b", rule.text) is not None


def named(spec: Spec) -> set[Duty]:
    """What vectors and tests name."""
    order = [rule.number for rule in spec.rules]
    return set(_by_vectors()) | set(_by_tests(order)) | set(elsewhere())


def _by_vectors() -> Iterator[Duty]:
    for role in _ROLES.values():
        for row in ("encodings", "ids") if role != "B" else ("encodings", "ids", "digests"):
            yield from _duties(json.loads((VECTORS / f"{row}.json").read_text("utf-8"))["rules"], role)
    for case in json.loads((VECTORS / "invalid.json").read_text("utf-8"))["cases"]:
        yield from _duties(case["rules"], "B")
    for path in sorted((VECTORS / "transcripts").glob("*.json")):
        file = json.loads(path.read_text("utf-8"))
        for transcript in file["transcripts"]:
            yield from _duties(transcript["rules"], _ROLES[file["role"]])


def _duties(rules: list[str], role: str) -> Iterator[Duty]:
    for rule in rules:
        yield Duty(rule.removeprefix("R-"), role)


def _by_tests(order: list[str]) -> Iterator[Duty]:
    """The tests of rules on a real broker are named after them: `test_r_6_1_to_6_3_...`, `test_r_3_8_and_3_9_...`."""
    for path in sorted(HERE.glob("test_rules_*.py")):
        for name in tests_of(path):
            yield from (Duty(rule, "B") for rule in rules_of(name, order))


def tests_of(path: Path) -> list[str]:
    """The names of a file's tests."""
    tree = ast.parse(path.read_text("utf-8"))
    return [node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def rules_of(name: str, order: list[str]) -> list[str]:
    """The rules in the name of a test; `to` takes all in between, in the order of SPEC.md."""
    found: list[str] = []
    at = len("test_")
    while match := _IN_NAMES.match(name, at):
        rule = f"{match['section']}.{match['number']}"
        if match["word"] == "to" and found:
            found += order[order.index(found[-1]) + 1 : order.index(rule)]
        found.append(rule)
        at = match.end() + 1
    return found


def elsewhere() -> dict[Duty, list[str]]:
    """The tests of other folders."""
    return {_duty(text): tests for text, tests in json.loads(ELSEWHERE.read_text("utf-8")).items()}


def still_open() -> dict[Duty, str]:
    """What nothing names, with the reasons."""
    return {_duty(text): reason for text, reason in json.loads(OPEN.read_text("utf-8")).items()}


def _duty(text: str) -> Duty:
    rule, role = text.removeprefix("R-").split()
    return Duty(rule, role)


def exists(test: str) -> bool:
    """Whether `path::name` is a test of this repository."""
    path, _, name = test.partition("::")
    return (ROOT / path).is_file() and name in tests_of(ROOT / path)
