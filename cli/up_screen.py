"""What `dspymq up` shows when all is ready."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.text import Text

from dspymq.cli.kinds import TEXT, kinds_of_schema
from dspymq.cli.output import console
from dspymq.cli.up_plan import Started, UpRequest
from dspymq.cli.up_snippets import snippets

SHOWN_PROGRAMS = 12


def show(started: Started, request: UpRequest) -> None:
    """Print it."""
    out = console()
    for line in lines(started, request):
        out.print(line)


def lines(started: Started, request: UpRequest) -> list[Text]:
    """The screen, line by line."""
    pool, lm, programs = request.pool, request.lm, started.programs
    note = "  (the usual port is taken)" if request.are_ports_taken else ""
    shown = [
        Text("dspymq is up; Ctrl-C ends it.", style="bold green"),
        Text(),
        _row("clients", started.clients + note),
        _row("workers", started.workers),
        _row(
            "pool", f"{_counted(pool.processes, 'process', 'es')}, {_counted(pool.concurrency, 'job')} at once in each"
        ),
        _row("model", lm.title),
    ]
    if lm.hint:
        shown.append(_row("", lm.hint))
    shown.append(_row("programs", "inline signatures" if not programs else interface(programs[0])))
    shown += [_row("", interface(program)) for program in programs[1:SHOWN_PROGRAMS]]
    if len(programs) > SHOWN_PROGRAMS:
        shown.append(_row("", f"and {len(programs) - SHOWN_PROGRAMS} more: dspymq programs"))
    name, example = example_of(programs)
    for snippet in snippets(started.clients, name, example):
        shown += [Text(), Text(f"From {snippet.language}:", style="bold")]
        shown += [Text(f"  {line}") for line in snippet.code.splitlines()]
    return shown


def interface(program: Mapping[str, Any]) -> str:
    """`name: inputs -> outputs`, as far as the program says."""
    sides = []
    for side in ("inputs", "outputs"):
        schema = program.get(side)
        properties = schema.get("properties") if isinstance(schema, Mapping) else None
        sides.append(", ".join(properties) if isinstance(properties, Mapping) else "...")
    return f"{program['name']}: {sides[0]} -> {sides[1]}"


def example_of(programs: Sequence[Mapping[str, Any]]) -> tuple[str, dict[str, str]]:
    """A call to show: of the simplest program whose inputs are all text, else of an inline signature."""
    simple = []
    for program in programs:
        kinds = kinds_of_schema(program.get("inputs")) or {}
        if kinds and all(TEXT in kind.types for kind in kinds.values()):
            simple.append((str(program["name"]), dict.fromkeys(kinds, "...")))
    if simple:
        return min(simple, key=lambda one: len(one[1]))
    return "question -> answer", {"question": "What is the capital of France?"}


def _row(name: str, value: str) -> Text:
    return Text.assemble((f"  {name:<10}", "bold"), value)


def _counted(count: int, word: str, plural: str = "s") -> str:
    return f"{count} {word}{'' if count == 1 else plural}"
