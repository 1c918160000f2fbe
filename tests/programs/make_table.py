"""Writes docs/programs.md: `python -m tests.programs.make_table`."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from dspymq.worker.executor.spec_nodes import KINDS
from tests.programs.inventory import SECTIONS
from tests.programs.rows import ROWS, Row

PAGE: Final = Path(__file__).parents[2] / "docs" / "programs.md"

_HEAD: Final = """\
# Programs

<!-- Written by `python -m tests.programs.make_table`; tests/programs/test_table.py compares. -->

A program is a `dspy.Module` in a pool's own code, or a *spec*: a map that a client sends along, in any language.
SPEC.md section 11.7 has the grammar of specs; nothing in them is evaluated, imported or unpickled.

```text
{"kind": "pipeline",
 "steps": [
   {"name": "outline", "program": {"signature": "topic -> points: list[str]"}},
   {"name": "write",
    "program": {"kind": "chain_of_thought",
                "signature": {"inputs": ["topic", {"name": "points", "type": "list[str]"}],
                              "outputs": [{"name": "essay", "type": {"type": "string", "maxLength": 5000}}]}}}]}
```

| kind | keys besides `kind`, `profile`, `adapter`, `config`, `cache`, `state` |
|---|---|
"""

_LENT: Final = """\

## What a pool lends to specs

Specs name tools and rewards of the pool, which its own modules register when they are imported:

```python
from dspymq.worker.executor.registry import allow_code, reward, tool

@tool
def search(query: str, limit: int = 5) -> list[str]:
    "Titles of the pages that fit best."

@reward
def is_short(inputs, prediction) -> float:
    return 1.0 if len(prediction.answer) < 200 else 0.0

allow_code()  # the operator's word: specs of the kind rlm, whose model writes code (in Deno, a sandbox)
```

## What is taken for what

Inputs and outputs are checked against the program's JSON Schemas (draft 2020-12, in `programs.get`), bounds included.
A missing, unknown, ill-typed or out-of-bounds input is `invalid_inputs` before any call; an output that does not fit is
`lm_output_unparsable`, with usage. These are taken for the other; everything else is refused:

| for | also taken |
|---|---|
| `int` | `3.0`; text that is a whole number; `true` as 1, `false` as 0 |
| `float` | a whole number; text that is a number; `true` as 1, `false` as 0 |
| `bool` | 0 and 1; `"true"`, `"false"`, `"yes"`, `"no"`, `"on"`, `"off"`, `"t"`, `"f"`, `"y"`, `"n"`, `"1"`, `"0"` |
| `str` | bytes that are UTF-8 |
| `date`, `datetime` | ISO 8601 text; seconds since 1970, for a date whole days |
| `time`, `timedelta` | ISO 8601 text; seconds |
| `bytes` | text, as UTF-8 |
| `Literal` | a number of the same value |
| `set`, `tuple` | an array |
| a map | the empty array, since some languages cannot tell them apart |
| `Code` | text |

In inputs, in what tools give and in what one step gives another, DSPy's custom-type markers and field headers
(`[[ ## answer ## ]]`) are nothing but text: one character of each becomes another one that looks the same.

## DSPy, name by name

Every name of the installed DSPy has a row, with the test that runs it with the scripted LM, or the reason why there is
none. A test fails when DSPy adds a name that has no row.
"""


def page() -> str:
    """The text of docs/programs.md."""
    kinds = "".join(f"| `{kind}` | {', '.join(f'`{key}`' for key in keys)} |\n" for kind, keys in KINDS.items())
    return _HEAD + kinds + _LENT + "".join(_section(section, ROWS[section]) for section in SECTIONS)


def _section(section: str, rows: dict[str, Row]) -> str:
    lines = [f"\n### {section}\n", "| name | from any language | test |", "|---|---|---|"]
    for name in sorted(rows, key=str.lower):
        row = rows[name]
        shown = name.replace("|", "\\|")
        test = f"`{row.test.removeprefix('programs/')}`" if row.test else ""
        lines.append(f"| `{shown}` | {row.how} | {test} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
