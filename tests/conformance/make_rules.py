"""Writes conformance/rules.json from SPEC.md: `python -m tests.conformance.make_rules` (a test compares)."""

from __future__ import annotations

import json
import re

from dspymq.conformance.vectors import RULES
from tests.conformance.spec_text import Rule, Spec, read

_DEMANDS = re.compile(r"\b(MUST|SHALL|REQUIRED)\b")
_RECOMMENDS = re.compile(r"\b(SHOULD|MAY|RECOMMENDED|OPTIONAL)\b")
_LONGEST = 160


def text() -> str:
    """The file."""
    spec = read()
    rows = [json.dumps(_row(rule), ensure_ascii=False) for rule in spec.rules]
    head = json.dumps(_sections(spec), ensure_ascii=False)
    return '{\n "sections": ' + head + ',\n "rules": [\n  ' + ",\n  ".join(rows) + "\n ]\n}\n"


def _sections(spec: Spec) -> dict[str, str]:
    found = (re.match(r"(\d+) (.*)", heading) for heading in spec.headings)
    return {match[1]: match[2] for match in found if match}


def _row(rule: Rule) -> dict[str, object]:
    """A rule recommends if nothing in it is demanded; what uses no key word states what is."""
    recommends = not _DEMANDS.search(rule.text) and _RECOMMENDS.search(rule.text) is not None
    first = re.split(r"(?<=[.:]) ", rule.text, maxsplit=1)[0].rstrip(":")
    short = first if len(first) <= _LONGEST else first[: _LONGEST - 3].rsplit(" ", 1)[0] + "..."
    return {"rule": f"R-{rule.number}", "roles": rule.roles, "recommends": recommends, "text": short}


if __name__ == "__main__":
    RULES.write_text(text(), "utf-8")
