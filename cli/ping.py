"""`dspymq ping`: is there a broker, how far, and could it answer a call."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from dspymq.cli import options
from dspymq.cli.errors import CommandError
from dspymq.cli.exit_codes import ExitCode
from dspymq.cli.output import print_json

if TYPE_CHECKING:
    from dspymq.async_client import AsyncClient

AGAIN_S = 0.1


@click.command(short_help="See that a broker answers.")
@options.broker_option
@click.option(
    "--ready",
    is_flag=True,
    envvar="DSPYMQ_PING_READY",
    show_envvar=True,
    help="Also see that a worker could take a job, however busy it is.",
)
@click.option(
    "--program",
    metavar="NAME",
    envvar="DSPYMQ_PING_PROGRAM",
    show_envvar=True,
    help="Also see that a worker offers this program; means --ready.",
)
@click.option(
    "--wait",
    "wait_s",
    type=click.FloatRange(0),
    default=0.0,
    metavar="S",
    envvar="DSPYMQ_PING_WAIT",
    show_envvar=True,
    help="Wait so many seconds for all of it.",
)
@options.json_option('Print {"broker", "ms"}.')
@options.log_options("warning")
def ping(brokers: tuple[str, ...], ready: bool, program: str | None, wait_s: float, as_json: bool) -> None:
    """See that a broker answers, and how long it takes.

    With --ready the exit code is 6 while no call could be answered.

    \b
    Examples:
      dspymq ping
      dspymq ping --broker tcp://10.0.0.7:5570
      dspymq ping --ready --wait 30
      dspymq ping --program qa
    """
    from dspymq.cli.connection import CONNECT_TIMEOUT_S, ask
    from dspymq.exceptions import DspymqError

    async def question(client: AsyncClient) -> tuple[float, str | None]:
        seconds = await client.ping(timeout_s=CONNECT_TIMEOUT_S)
        wanted = ready or program is not None
        return seconds, not_ready(await client.workers(), program) if wanted else None

    end = time.monotonic() + wait_s
    while True:
        problem: Exception
        try:
            (seconds, why), address = ask(brokers, question)
        except DspymqError as error:
            problem = error
        else:
            if why is None:
                break
            problem = CommandError(f"{address} answers, but {why}", ExitCode.UNAVAILABLE)
        if time.monotonic() + AGAIN_S > end:
            raise problem
        time.sleep(AGAIN_S)
    if as_json:
        print_json({"broker": address, "ms": round(seconds * 1000, 3)})
    else:
        click.echo(f"{address} answered in {seconds * 1000:.1f} ms")


def not_ready(workers: list[dict[str, Any]], program: str | None) -> str | None:
    """Why no call (of this program) could be answered, or None; `workers` are the rows of workers.list."""
    serving = [row for row in workers if row["state"] == "ready" and row["programs"]]
    if not serving:
        return "no worker has slots and programs" if workers else "no worker is here"
    if program is not None and not any(program in row["programs"] for row in serving):
        return f"no worker offers {program!r}"
    return None
