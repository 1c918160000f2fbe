"""`dspymq ping`: is there a broker, and how far."""

import click

from dspymq.cli import options
from dspymq.cli.output import print_json


@click.command(short_help="See that a broker answers.")
@options.broker_option
@options.json_option('Print {"broker", "ms"}.')
@options.log_options("warning")
def ping(brokers: tuple[str, ...], as_json: bool) -> None:
    """See that a broker answers, and how long it takes.

    \b
    Examples:
      dspymq ping
      dspymq ping --broker tcp://10.0.0.7:5570
    """
    from dspymq.cli.connection import CONNECT_TIMEOUT_S, ask

    seconds, address = ask(brokers, lambda client: client.ping(timeout_s=CONNECT_TIMEOUT_S))
    if as_json:
        print_json({"broker": address, "ms": round(seconds * 1000, 3)})
    else:
        click.echo(f"{address} answered in {seconds * 1000:.1f} ms")
