"""`dspymq up`: a broker and a pool on this machine, for development."""

from __future__ import annotations

import os
from pathlib import Path

import click

from dspymq.cli import options


@click.command(short_help="Run a broker and a pool together, for development.")
@click.argument("targets", metavar="[MODULE[:NAME]]...", nargs=-1)
@click.option(
    "--processes",
    type=int,
    metavar="N",
    help="Executor processes; default one a CPU, at most 4.  [env var: DSPYMQ_WORKER_PROCESSES]",
)
@click.option(
    "--concurrency",
    type=int,
    metavar="M",
    help="Jobs at once in each of them; default 8.  [env var: DSPYMQ_WORKER_CONCURRENCY]",
)
@click.option(
    "--reload/--no-reload",
    default=None,
    help="Import the programs anew when their files change.  [env var: DSPYMQ_WORKER_RELOAD]",
)
@click.option(
    "--clients",
    metavar="ADDR",
    help="Where clients connect; by default port 5570, or a free one if that is taken.  "
    "[env var: DSPYMQ_BROKER_CLIENTS]",
)
@click.option(
    "--workers",
    metavar="ADDR",
    help="Where workers connect; by default port 5571, or a free one.  [env var: DSPYMQ_BROKER_WORKERS]",
)
@options.config_option
@options.json_option("Print addresses, programs and pids as one line on stdout, once all is ready.")
@options.log_options("warning")
@click.pass_context
def up(
    context: click.Context,
    targets: tuple[str, ...],
    processes: int | None,
    concurrency: int | None,
    reload: bool | None,
    clients: str | None,
    workers: str | None,
    config_path: Path | None,
    as_json: bool,
) -> int:
    """Run a broker and a pool with the programs of MODULE, until Ctrl-C: all you need to try things out.

    Jobs run on the language model that is configured (DSPYMQ_LM_MODEL, or [profiles.NAME] in --config), else on the
    small embedded one (`dspymq local install`). Ctrl-C lets running jobs end; a second one stops at once. For
    anything that has to last, run `dspymq broker` and `dspymq worker` as services instead.

    \b
    Examples:
      dspymq up
      dspymq up myapp.programs
      DSPYMQ_LM_MODEL=openai/gpt-4o-mini dspymq up myapp.programs --processes 2
    """
    import asyncio

    from dspymq.cli.up_plan import UpRequest
    from dspymq.cli.up_run import Up
    from dspymq.cli.worker import check_dspy

    check_dspy()
    request = UpRequest.from_options(
        targets=targets,
        processes=processes,
        concurrency=concurrency,
        reload=reload,
        clients=clients,
        workers=workers,
        config_path=config_path,
        log_level=options.said_level(context) or "warning",
        environ=os.environ,
    )
    return asyncio.run(Up(request, as_json=as_json).run())
