"""What goes to stdout: JSON for machines, plain or coloured text for people."""

from __future__ import annotations

import base64
import json
import sys
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console


def print_json(value: Any) -> None:
    """One document, one line: for machines, and for `jq`."""
    click.echo(to_json(value))


def to_json(value: Any) -> str:
    """Compact JSON. Bytes become base64 text; numbers that JSON does not have become null."""
    try:
        return json.dumps(value, ensure_ascii=False, default=_plain, allow_nan=False)
    except ValueError:
        return json.dumps(_without_nan(value), ensure_ascii=False, default=_plain)


def console(*, err: bool = False) -> Console:
    """A rich console on stdout or stderr; plain text where no terminal looks."""
    from rich.console import Console

    # Where nobody looks, nothing is folded: a line stays a line for whatever reads it.
    width = None if is_terminal(err=err) else 1_000
    return Console(stderr=err, highlight=False, markup=False, emoji=False, soft_wrap=True, width=width)


def is_terminal(*, err: bool = False) -> bool:
    """Whether a person looks at stdout (or stderr)."""
    return (sys.stderr if err else sys.stdout).isatty()


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    return str(value)


def _without_nan(value: Any) -> Any:
    if isinstance(value, float):
        return value if value - value == 0 else None
    if isinstance(value, dict):
        return {name: _without_nan(inner) for name, inner in value.items()}
    return [_without_nan(inner) for inner in value] if isinstance(value, list) else value
