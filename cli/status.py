"""`dspymq status`: what a broker and its workers are doing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from dspymq.cli import options
from dspymq.cli.output import is_terminal, print_json

if TYPE_CHECKING:
    from dspymq.async_client import AsyncClient


@click.command(short_help="Show workers, executors, slots, queues and counts.")
@click.option(
    "--watch",
    is_flag=True,
    envvar="DSPYMQ_STATUS_WATCH",
    show_envvar=True,
    help="Show it again and again, until Ctrl-C; with --json a line each time.",
)
@click.option(
    "--interval",
    "interval_s",
    type=click.FloatRange(min=0.1),
    default=1.0,
    metavar="SECONDS",
    envvar="DSPYMQ_STATUS_INTERVAL",
    show_envvar=True,
    help="With --watch: how often; default 1.",
)
@options.broker_option
@options.json_option('Print {"broker", "stats", "workers"}.')
@options.log_options("warning")
def status(watch: bool, interval_s: float, brokers: tuple[str, ...], as_json: bool) -> None:
    """Show a broker's workers and their executors, slots, jobs in flight, queues and counts.

    \b
    Examples:
      dspymq status
      dspymq status --watch
      dspymq status --json | jq '.workers[].executors[].pid'
    """
    import asyncio

    from dspymq.cli.connection import address_of, ask

    async def show(client: AsyncClient) -> None:
        while True:
            stats, workers = await client.stats(), await client.workers()
            _show(address_of(client), stats, workers, as_json=as_json, clear=watch)
            if not watch:
                return
            await asyncio.sleep(interval_s)

    ask(brokers, show)


def _show(address: str, stats: dict[str, Any], workers: list[dict[str, Any]], *, as_json: bool, clear: bool) -> None:
    from dspymq.cli.status_text import show_status

    if as_json:
        print_json({"broker": address, "stats": stats, "workers": workers})
        return
    if clear and is_terminal():
        click.clear()
    show_status(address, stats, workers)
