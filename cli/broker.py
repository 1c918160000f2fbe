"""`dspymq broker`: one broker, until it is told to stop."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dspymq.cli import options
from dspymq.cli.errors import CommandError
from dspymq.cli.exit_codes import ExitCode
from dspymq.cli.output import print_json

if TYPE_CHECKING:
    from dspymq.broker import Broker


@click.command(short_help="Run a broker.")
@click.option(
    "--clients",
    metavar="ADDR",
    help="Where clients connect; default tcp://127.0.0.1:5570, port * lets the system choose.  "
    "[env var: DSPYMQ_BROKER_CLIENTS]",
)
@click.option(
    "--workers",
    metavar="ADDR",
    help="Where workers connect; default tcp://127.0.0.1:5571.  [env var: DSPYMQ_BROKER_WORKERS]",
)
@click.option(
    "--insecure",
    is_flag=True,
    default=None,
    help="Listen beyond this machine although nobody is authenticated yet.  [env var: DSPYMQ_BROKER_INSECURE]",
)
@click.option(
    "--health",
    metavar="HOST:PORT",
    help="Answer /livez and /readyz over HTTP there; /readyz is 503 while no worker could take a job.  "
    "[env var: DSPYMQ_BROKER_HEALTH]",
)
@click.option(
    "--store",
    metavar="FILE",
    help="Keep defined programs and aliases there over restarts.  [env var: DSPYMQ_BROKER_STORE]",
)
@options.config_option
@options.parent_option
@options.json_option("Print the addresses and the pid as one line on stdout, once it listens.")
@options.log_options("info")
def broker(
    clients: str | None,
    workers: str | None,
    insecure: bool | None,
    health: str | None,
    store: str | None,
    config_path: Path | None,
    as_json: bool,
) -> None:
    """Run a broker until SIGTERM or Ctrl-C.

    It keeps jobs in memory and runs no program: workers connect to it, and clients submit jobs to it, each at
    an address of its own. Every key of [broker] may also stand in the environment as DSPYMQ_BROKER_KEY.

    \b
    Examples:
      dspymq broker
      dspymq broker --clients tcp://0.0.0.0:5570 --workers tcp://0.0.0.0:5571 --insecure
      dspymq broker --clients ipc:///run/dspymq/clients --config /etc/dspymq.toml
    """
    import asyncio

    import zmq

    from dspymq.broker import StoreError, load_broker_config, serve

    config = load_broker_config(
        config_path,
        os.environ,
        {"clients": clients, "workers": workers, "insecure": insecure or None, "health": health, "store": store},
    )

    def started(running: Broker) -> None:
        if as_json:
            addresses = {"clients": running.clients_address, "workers": running.workers_address}
            health = {"health": running.health_address} if running.health_address else {}
            print_json({**addresses, **health, "pid": os.getpid()})

    try:
        asyncio.run(serve(config, on_started=started))
    except StoreError as error:
        raise CommandError(f"--store: {error}") from None
    except zmq.ZMQError as error:
        where = f"{config.clients} and {config.workers}"
        raise CommandError(f"cannot listen on {where}: {error.strerror} (see --clients and --workers)") from None
    except ValueError as error:
        raise CommandError(f"--health: {error}", ExitCode.USAGE) from None
    except OSError as error:
        raise CommandError(f"cannot listen on {config.health}: {error.strerror} (see --health)") from None
