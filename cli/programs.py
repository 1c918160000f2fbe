"""`dspymq programs [NAME]`: what can be called."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from dspymq.cli import options
from dspymq.cli.output import console, print_json

if TYPE_CHECKING:
    from rich.table import Table


@click.command(short_help="List what can be called, or show one program.")
@click.argument("name", required=False)
@options.broker_option
@options.json_option("Print what the broker answers.")
@options.log_options("warning")
def programs(name: str | None, brokers: tuple[str, ...], as_json: bool) -> None:
    """List the programs that workers offer; with NAME, one program with its inputs and outputs.

    \b
    Examples:
      dspymq programs
      dspymq programs summarize
      dspymq programs --json | jq -r '.[].name'
    """
    from dspymq.cli.connection import ask

    if name is None:
        rows, address = ask(brokers, lambda client: client.programs())
        if as_json:
            print_json(rows)
        else:
            _show_list(rows, address)
        return
    program, _ = ask(brokers, lambda client: client.program(name))
    if as_json:
        print_json(program)
    else:
        show_program(program)


def _show_list(rows: list[dict[str, Any]], address: str) -> None:
    named = [row for row in rows if not str(row["name"]).startswith("_")]
    out = console()
    if named:
        table = _table("PROGRAM", "WORKERS", "REVISION", "DESCRIPTION")
        for row in named:
            revision = str(row.get("revision") or "-")[:8]
            table.add_row(row["name"], str(row["workers"]), revision, first_line(row.get("description")))
        out.print(table)
    if any(row["name"] == "_inline" and row["workers"] for row in rows):
        out.print('Inline signatures too: dspymq call "question -> answer" question="..."')
    elif not named:
        out.print(f"No worker offers anything at {address} yet; start one: dspymq worker MODULE")


def show_program(program: Mapping[str, Any]) -> None:
    """One program: what it says of itself, its fields, how to call it."""
    from rich.text import Text

    from dspymq.cli.kinds import type_text

    out = console()
    out.print(Text(str(program["name"]), style="bold"))
    description = str(program.get("description") or "").strip()
    if description:
        out.print(Text(description))
    for title in ("inputs", "outputs"):
        schema = program.get(title)
        properties = schema.get("properties") if isinstance(schema, Mapping) else None
        out.print()
        if not isinstance(properties, Mapping):
            out.print(f"{title.capitalize()}: not declared by the program")
            continue
        table = _table(title.upper(), "TYPE", "")
        required = schema.get("required", []) if isinstance(schema, Mapping) else []
        for field, one in properties.items():
            note = str(one.get("description", "")) if isinstance(one, Mapping) else ""
            if title == "inputs" and field not in required:
                note = f"optional; {note}" if note else "optional"
            table.add_row(str(field), Text(type_text(one, schema)), Text(note))
        out.print(table)
    workers = program.get("workers")
    out.print()
    out.print(f"Revision {str(program.get('revision') or '-')[:8]}, offered by {len(workers or ())} worker(s)")
    out.print(Text(f"Call it: {call_line(program)}"))


def call_line(program: Mapping[str, Any]) -> str:
    """A command line that calls the program, with a gap for each input that it needs."""
    from dspymq.cli.kinds import TEXT, kinds_of_schema

    schema = program.get("inputs")
    kinds = kinds_of_schema(schema) or {}
    required = schema.get("required", []) if isinstance(schema, Mapping) else []
    gaps = [f"{name}={'...' if TEXT in kinds[name].types else 'JSON'}" for name in kinds if name in required]
    return " ".join(["dspymq call", shlex.quote(str(program["name"])), *gaps])


def first_line(text: Any, at_most: int = 72) -> str:
    """The first line of a description, shortened."""
    line = str(text or "").strip().partition("\n")[0]
    return line if len(line) <= at_most else f"{line[: at_most - 1]}…"


def _table(*columns: str) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold", show_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table
