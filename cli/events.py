"""`dspymq events [KIND]...`: what happens at a broker, as it happens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from dspymq.cli import options
from dspymq.cli.output import console, print_json

if TYPE_CHECKING:
    from dspymq.async_client import AsyncClient


@click.command(short_help="Show what happens at a broker, as it happens.")
@click.argument("kinds", nargs=-1, metavar="[KIND]...")
@options.broker_option
@options.json_option("Print a JSON document a line.")
@options.log_options("warning")
def events(kinds: tuple[str, ...], brokers: tuple[str, ...], as_json: bool) -> None:
    """Show what happens at a broker, as it happens, until Ctrl-C.

    KIND is a kind such as job.done, or a group such as job, worker or client; none given: all.

    \b
    Examples:
      dspymq events
      dspymq events worker job.requeued
      dspymq events job.done --json | jq -r 'select(.details.code != "OK") | .details.job'
    """
    from dspymq.cli.connection import ask

    async def follow(client: AsyncClient) -> None:
        async with await client.subscribe(*kinds) as found:
            async for event in found:
                _show(event, as_json=as_json)

    ask(brokers, follow)


def _show(event: Any, *, as_json: bool) -> None:
    if as_json:
        print_json({"kind": event.kind, "at_ms": event.at_ms, "details": event.details, "gap": event.gap})
        return
    from datetime import datetime

    at = datetime.fromtimestamp(event.at_ms / 1_000).strftime("%H:%M:%S.%f")[:-3]
    details = " ".join(f"{name}={value}" for name, value in event.details.items() if value is not None)
    gap = "  (events before this one may be missing)" if event.gap else ""
    console().print(f"{at}  {event.kind:16}  {details}{gap}")
