"""`dspymq status`: what a broker and its workers are doing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from dspymq.cli import options
from dspymq.cli.output import print_json

if TYPE_CHECKING:
    from dspymq.async_client import AsyncClient


@click.command(short_help="Show workers, executors, slots, queues and counts.")
@options.broker_option
@options.json_option('Print {"broker", "stats", "workers"}.')
@options.log_options("warning")
def status(brokers: tuple[str, ...], as_json: bool) -> None:
    """Show a broker's workers and their executors, slots, jobs in flight, queues and counts.

    \b
    Examples:
      dspymq status
      dspymq status --json | jq '.workers[].executors[].pid'
    """
    from dspymq.cli.connection import ask
    from dspymq.cli.status_text import show_status

    async def both(client: AsyncClient) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        return await client.stats(), await client.workers()

    (stats, workers), address = ask(brokers, both)
    if as_json:
        print_json({"broker": address, "stats": stats, "workers": workers})
    else:
        show_status(address, stats, workers)
