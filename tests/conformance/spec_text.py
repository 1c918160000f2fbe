"""SPEC.md as data: its tables, rules, headings and code blocks."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).resolve().parents[2]
SPEC: Final = ROOT / "SPEC.md"

Row = dict[str, str]

_RULE: Final = re.compile(r"^- \*\*R-(\d+\.\d+)\*\* \(([CWB ]+)\) (.*)$")
_HEADING: Final = re.compile(r"^#+ (.*)$")


class Rule(NamedTuple):
    """A numbered rule: `2.3`, who keeps it (C, W, B), and its text."""

    number: str
    roles: str
    text: str


class Spec:
    """The text of a SPEC.md, to be asked."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.lines = text.splitlines()

    @property
    def headings(self) -> list[str]:
        """All headings, without their number signs and outside of code."""
        found = []
        in_code = False
        for line in self.lines:
            in_code ^= line.startswith("```")
            match = None if in_code else _HEADING.match(line)
            if match:
                found.append(match[1])
        return found

    @property
    def rules(self) -> list[Rule]:
        """All rules, in their order; a rule goes on over indented lines."""
        rules: list[Rule] = []
        is_rule = False
        for line in self.lines:
            match = _RULE.match(line)
            if match:
                rules.append(Rule(match[1], match[2], match[3]))
                is_rule = True
            elif is_rule and line.startswith("  "):
                rules[-1] = rules[-1]._replace(text=f"{rules[-1].text} {line.strip()}")
            else:
                is_rule = False
        return rules

    def part(self, heading: str) -> str:
        """The text from a heading that begins with these words to the next heading of its rank or above."""
        start = self._find(rf"^#+ {re.escape(heading)}")
        rank = len(self.lines[start]) - len(self.lines[start].lstrip("#"))
        in_code = False
        for index in range(start + 1, len(self.lines)):
            line = self.lines[index]
            in_code ^= line.startswith("```")
            if not in_code and re.match(rf"^#{{1,{rank}}} ", line):
                return "\n".join(self.lines[start:index])
        return "\n".join(self.lines[start:])

    def table(self, anchor: str, nth: int = 0) -> list[Row]:
        """The nth table after the first line that matches the pattern: a dict a row, by the words of its head."""
        index = self._find(anchor)
        for _ in range(nth + 1):
            while index < len(self.lines) and not self.lines[index].startswith("|"):
                index += 1
            end = index
            while end < len(self.lines) and self.lines[end].startswith("|"):
                end += 1
            rows, index = self.lines[index:end], end
        if len(rows) < 3:
            raise AssertionError(f"SPEC.md has no table after a line like {anchor!r}")
        head = _cells(rows[0])
        made = []
        for line in rows[2:]:
            cells = _cells(line)
            if len(cells) != len(head):
                raise AssertionError(f"SPEC.md: this row has {len(cells)} cells, its head {len(head)}: {line}")
            made.append(dict(zip(head, cells, strict=True)))
        return made

    def field_table(self, name: str) -> list[Row]:
        """The table of a message's or structure's fields: under its own line, else under its own heading."""
        own = rf"^`{name}`.*:$"
        anchor = own if any(re.match(own, line) for line in self.lines) else rf"^#### `{name}`$"
        return self.table(anchor)

    def blocks(self, language: str) -> list[str]:
        """The code blocks of a language."""
        return re.findall(rf"^```{language}\n(.*?)\n```$", self.text, re.MULTILINE | re.DOTALL)

    def _find(self, pattern: str) -> int:
        for index, line in enumerate(self.lines):
            if re.match(pattern, line):
                return index
        raise AssertionError(f"SPEC.md has no line like {pattern!r}")


def read() -> Spec:
    """The SPEC.md of this checkout."""
    return Spec(SPEC.read_text("utf-8"))


def words(cell: str) -> list[str]:
    """The words in backticks of a cell."""
    return re.findall(r"`([^`]*)`", cell)


def word(cell: str) -> str:
    """The first word in backticks of a cell, or the cell itself."""
    found = words(cell)
    return found[0] if found else cell


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")] if line.strip("| ") else []
