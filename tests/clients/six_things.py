"""Makes docs/clients.md from the examples of each client, which tests run.

python -m tests.clients.six_things        # writes the page
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from tests.processes import ROOT

PAGE: Final = ROOT / "docs" / "clients.md"


class Language(NamedTuple):
    """Where a language's example is."""

    name: str
    fence: str
    example: str
    comment: str


LANGUAGES: Final = (
    Language("Python", "python", "examples/six_things.py", "#"),
    Language("Elixir", "elixir", "clients/elixir/examples/six_things.exs", "#"),
    Language("Node", "ts", "clients/node/examples/six-things.ts", "//"),
)

THINGS: Final = {
    "call": (
        "Call",
        "Waits for the outputs. The connection is made, and made again, behind it; the call is sent again under its id "
        "until it has its one answer, or its time is over.",
    ),
    "extraction": (
        "Typed extraction",
        "A signature needs no program on any worker. Inputs and outputs are checked against its types there.",
    ),
    "stream": (
        "Stream",
        "Text as it is written. Leaving the loop cancels the job; a reader that is slow holds up nobody but itself.",
    ),
    "cancel": ("Cancel", "Closes the request at the language model. The job ends once: cancelled, or with its answer."),
    "tool": (
        "Tool",
        "A function of the caller, called by the program while it runs. Its arguments are checked on the worker; each "
        "call runs once, also when the connection breaks in between.",
    ),
    "errors": (
        "Errors",
        "By code and reason (SPEC.md, section 12), with the field that is wrong, and whether trying again may help.",
    ),
}

HEAD: Final = """# Clients

The same six things in each of the full clients. Every snippet here is part of a file that the tests run:
[examples/six_things.py](../examples/six_things.py),
[clients/elixir/examples/six_things.exs](../clients/elixir/examples/six_things.exs),
[clients/node/examples/six-things.ts](../clients/node/examples/six-things.ts). Small clients, each in under
150 lines of code, are in [clients/minimal](../clients/minimal/README.md); how to write one, in [SPEC.md](../SPEC.md).

All of them reconnect by themselves, with several brokers to try in order, and are tested by the same
[conformance kit](conformance.md).
"""


def section(language: Language, thing: str) -> str:
    """The lines of a language's example between its marks for this thing. Raises LookupError if there are none."""
    text = (ROOT / language.example).read_text()
    mark = re.escape(language.comment)
    found = re.search(rf"^{mark} -- {thing}\n(.*?)\n*^{mark} -- end$", text, re.MULTILINE | re.DOTALL)
    if found is None:
        raise LookupError(f"{language.example} has no `{language.comment} -- {thing}` ... `{language.comment} -- end`")
    return found.group(1).strip("\n")


def page() -> str:
    """docs/clients.md."""
    parts = [HEAD]
    for thing, (title, text) in THINGS.items():
        parts.append(f"## {title}\n\n{text}\n")
        parts += [f"{one.name}:\n\n```{one.fence}\n{section(one, thing)}\n```\n" for one in LANGUAGES]
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page())
