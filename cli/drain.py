"""`dspymq drain WORKER` and `dspymq undrain WORKER`: take a worker out, and back in."""

from __future__ import annotations

from typing import Any

import click

from dspymq.cli import options
from dspymq.cli.output import print_json


@click.command(short_help="Give a worker nothing more.")
@click.argument("worker")
@click.option(
    "--grace",
    "grace_s",
    type=click.FloatRange(min=0),
    default=30.0,
    metavar="SECONDS",
    envvar="DSPYMQ_DRAIN_GRACE",
    show_envvar=True,
    help="What its running jobs may take before they are given to others; default 30.",
)
@options.broker_option
@options.json_option("Print the worker as the broker sees it.")
@options.log_options("warning")
def drain(worker: str, grace_s: float, brokers: tuple[str, ...], as_json: bool) -> None:
    """Give WORKER nothing more; it finishes what it has and stays connected, until `dspymq undrain`.

    WORKER is its id, its name, or the beginning of either, as `dspymq status` shows them.

    \b
    Examples:
      dspymq drain host-4711
      dspymq drain 01a20c8b --grace 120
    """
    _tell("workers.drain", worker, brokers, as_json, {"grace_ms": int(grace_s * 1_000)})


@click.command(short_help="Give a drained worker jobs again.")
@click.argument("worker")
@options.broker_option
@options.json_option("Print the worker as the broker sees it.")
@options.log_options("warning")
def undrain(worker: str, brokers: tuple[str, ...], as_json: bool) -> None:
    """Give WORKER jobs again after `dspymq drain`.

    \b
    Examples:
      dspymq undrain host-4711
    """
    _tell("workers.undrain", worker, brokers, as_json, {})


def _tell(method: str, worker: str, brokers: tuple[str, ...], as_json: bool, params: dict[str, Any]) -> None:
    from dspymq.cli.connection import ask

    async def run(client: Any) -> dict[str, Any]:
        found = _find(worker, await client.workers())
        return dict(await client.request(method, {"worker": found, **params}))

    row, _ = ask(brokers, run)
    if as_json:
        print_json(row)
    else:
        in_flight = sum(row["in_flight"].values())
        click.echo(f"{row['name'] or row['worker']} is {row['state']}, {in_flight} in flight")


def _find(text: str, rows: list[dict[str, Any]]) -> str:
    """The id of the one worker that is meant. An id that nobody has is left for the broker to refuse."""
    for key in ("worker", "name"):
        exact = [row for row in rows if row[key] == text]
        matches = exact or [row for row in rows if str(row[key]).startswith(text)]
        if len(matches) > 1:
            names = ", ".join(f"{row['name']} ({row['worker']})" for row in matches)
            raise click.UsageError(f"{text!r} may be any of {names}")
        if matches:
            return str(matches[0]["worker"])
    return text
