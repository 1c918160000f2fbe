"""`dspymq jobs ls|show|cancel|retry|drop`: the jobs that a broker knows."""

from __future__ import annotations

from typing import Any, Final

import click

from dspymq.cli import options
from dspymq.cli.group import Commands
from dspymq.cli.output import console, print_json

STATES: Final = ("queued", "dispatched", "running", "cancelling", "done")


@click.group(cls=Commands, short_help="List, show, cancel, retry or drop jobs.")
def jobs() -> None:
    """The jobs that a broker knows: waiting, at work, or finished and not yet fetched or forgotten.

    \b
    Examples:
      dspymq jobs ls --state queued --state running
      dspymq jobs show 01a20c8b-4c01-792d-8955-b0c3d5811eb1
      dspymq jobs ls --json | jq -r '.jobs[] | select(.age_ms > 60000) | .job' | xargs -n1 dspymq jobs cancel
    """


@jobs.command("ls", short_help="List jobs, oldest first.")
@click.option(
    "--state",
    "states",
    multiple=True,
    type=click.Choice(STATES),
    envvar="DSPYMQ_JOBS_STATE",
    show_envvar=True,
    help="Only jobs in this state; may be given several times.",
)
@click.option(
    "--program", metavar="NAME", envvar="DSPYMQ_JOBS_PROGRAM", show_envvar=True, help="Only jobs of this program."
)
@click.option(
    "--limit",
    type=click.IntRange(1, 1_000),
    default=100,
    envvar="DSPYMQ_JOBS_LIMIT",
    show_envvar=True,
    help="At most so many; default 100.",
)
@options.broker_option
@options.json_option('Print {"jobs", "truncated"}.')
@options.log_options("warning")
def list_jobs(
    states: tuple[str, ...], program: str | None, limit: int, brokers: tuple[str, ...], as_json: bool
) -> None:
    """List jobs, oldest first.

    \b
    Examples:
      dspymq jobs ls --state queued --state running
      dspymq jobs ls --program qa --json
    """
    params: dict[str, Any] = {"states": list(states), "limit": limit}
    if program is not None:
        params["program"] = program
    found = _ask(brokers, "jobs.list", params)
    if as_json:
        print_json(found)
        return
    _show_rows(found["jobs"])
    if found["truncated"]:
        console(err=True).print("There may be more; see --limit, --state, --program.")


@jobs.command("show", short_help="Show one job.")
@click.argument("job")
@options.broker_option
@options.json_option("Print what the broker answers.")
@options.log_options("warning")
def show_job(job: str, brokers: tuple[str, ...], as_json: bool) -> None:
    """Show all that the broker knows of a job, but for its inputs and outputs.

    \b
    Examples:
      dspymq jobs show 01a20c8b-4c01-792d-8955-b0c3d5811eb1
    """
    found = _ask(brokers, "jobs.get", {"job": job})
    if as_json:
        print_json(found)
        return
    out = console()
    for name, value in found.items():
        if value is not None:
            out.print(f"{name:14} {_plain(value)}")


@jobs.command("cancel", short_help="Cancel jobs.")
@click.argument("job", nargs=-1, required=True)
@options.broker_option
@options.json_option("Print the state of each, a line each.")
@options.log_options("warning")
def cancel_jobs(job: tuple[str, ...], brokers: tuple[str, ...], as_json: bool) -> None:
    """Cancel jobs; whoever waits for one gets CANCELLED, with what it has used.

    \b
    Examples:
      dspymq jobs cancel 01a20c8b-4c01-792d-8955-b0c3d5811eb1
    """
    _each(brokers, "jobs.cancel", job, as_json, "{job} is {state}")


@jobs.command("retry", short_help="Run a finished job again.")
@click.argument("job", nargs=-1, required=True)
@options.broker_option
@options.json_option("Print the new job of each, a line each.")
@options.log_options("warning")
def retry_jobs(job: tuple[str, ...], brokers: tuple[str, ...], as_json: bool) -> None:
    """Run the content of finished jobs again, each under a new id, to which a client may attach.

    \b
    Examples:
      dspymq jobs retry 01a20c8b-4c01-792d-8955-b0c3d5811eb1
    """
    _each(brokers, "jobs.retry", job, as_json, "{job}")


@jobs.command("drop", short_help="Forget finished jobs.")
@click.argument("job", nargs=-1, required=True)
@options.broker_option
@options.json_option("Print the id of each, a line each.")
@options.log_options("warning")
def drop_jobs(job: tuple[str, ...], brokers: tuple[str, ...], as_json: bool) -> None:
    """Forget finished jobs and their results now.

    \b
    Examples:
      dspymq jobs drop 01a20c8b-4c01-792d-8955-b0c3d5811eb1
    """
    _each(brokers, "jobs.drop", job, as_json, "{job} is forgotten")


def _ask(brokers: tuple[str, ...], method: str, params: dict[str, Any]) -> dict[str, Any]:
    from dspymq.cli.connection import ask

    answer, _ = ask(brokers, lambda client: client.request(method, params))
    return dict(answer)


def _each(brokers: tuple[str, ...], method: str, jobs: tuple[str, ...], as_json: bool, text: str) -> None:
    for job in jobs:
        row = _ask(brokers, method, {"job": job})
        if as_json:
            print_json(row)
        else:
            click.echo(text.format(**row))


def _show_rows(rows: list[dict[str, Any]]) -> None:
    from rich.table import Table

    if not rows:
        console().print("No such jobs")
        return
    table = Table(box=None, pad_edge=False, header_style="bold", show_edge=False)
    for column in ("JOB", "STATE", "PROGRAM", "ATTEMPT", "AGE", "LEFT", "CLIENT", "CODE"):
        table.add_column(column, overflow="fold")
    for row in rows:
        code = row["code"] or ""
        reason = f"/{row['reason']}" if row["reason"] and row["code"] != "OK" else ""
        table.add_row(
            row["job"],
            row["state"],
            row["program"],
            str(row["attempt"]),
            _seconds(row["age_ms"]),
            _seconds(row["left_ms"]),
            row["flow"] if row["attached"] else f"({row['flow']})",
            f"{code}{reason}",
        )
    console().print(table)


def _seconds(ms: int | None) -> str:
    return "" if ms is None else f"{ms / 1_000:.1f} s"


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "-"
    return str(value)
