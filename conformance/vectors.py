"""The files of protocol/vectors, and the rules of SPEC.md that they name."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any, Final, NamedTuple

import dspymq.protocol

VECTORS: Final = Path(dspymq.protocol.__file__).parent / "vectors"
RULES: Final = Path(__file__).parent / "rules.json"
"""Written from SPEC.md by tests/conformance/make_rules.py."""


class Rule(NamedTuple):
    """A rule of SPEC.md: `R-5.7`, who keeps it (of `C W B`), whether it only recommends, and how it begins."""

    number: str
    roles: str
    recommends: bool
    text: str

    @property
    def section(self) -> int:
        """The section of SPEC.md that it stands in."""
        return section_of(self.number)


def section_of(rule: str) -> int:
    """The section of a rule such as `R-5.7`."""
    return int(rule.removeprefix("R-").partition(".")[0])


def order_of(rule: str) -> tuple[int, int]:
    """Sorts rules as SPEC.md has them."""
    section, _, number = rule.removeprefix("R-").partition(".")
    return int(section), int(number)


@functools.cache
def rules() -> dict[str, Rule]:
    """All rules, by number."""
    return {row["rule"]: _rule(row) for row in _spec()["rules"]}


def _rule(row: dict[str, Any]) -> Rule:
    return Rule(row["rule"], row["roles"], row["recommends"], row["text"])


@functools.cache
def sections() -> dict[int, str]:
    """The titles of the sections of SPEC.md."""
    return {int(number): title for number, title in _spec()["sections"].items()}


@functools.cache
def _spec() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(RULES.read_text("utf-8"))
    return found


def load(name: str) -> dict[str, Any]:
    """A file of vectors, such as `invalid.json`."""
    found: dict[str, Any] = json.loads((VECTORS / name).read_text("utf-8"))
    if found["format"] != 1:
        raise ValueError(f"{name} has format {found['format']}; this kit reads format 1")
    return found


def transcripts(role: str) -> list[dict[str, Any]]:
    """All transcripts of a role (`broker`, `client`, `worker`), in their order."""
    files = [load(f"transcripts/{path.name}") for path in sorted((VECTORS / "transcripts").glob(f"{role}*.json"))]
    return [each for file in files if file["role"] == role for each in file["transcripts"]]


def invalid() -> list[dict[str, Any]]:
    """The frames that a broker must refuse."""
    cases: list[dict[str, Any]] = load("invalid.json")["cases"]
    return cases


@functools.cache
def defaults(endpoint: str, t: str) -> dict[str, Any]:
    """What the fields of a message mean that are left out, by encodings.json."""
    found: dict[str, Any] = {}
    for row in load("encodings.json")["messages"]:
        if row["endpoint"] == endpoint and row["fields"]["t"] == t:
            found |= row["defaults"]
    return found


def with_defaults(endpoint: str, header: dict[str, Any]) -> dict[str, Any]:
    """The header with every field that it leaves out."""
    return {**defaults(endpoint, header["t"]), **header}
