"""`dspymq worker`: one pool of executors, until it is told to stop."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import click

from dspymq.cli import options
from dspymq.cli.errors import CommandError


@click.command(short_help="Run a pool of workers.")
@click.argument("targets", metavar="[MODULE[:NAME]]...", nargs=-1)
@click.option(
    "--broker",
    "brokers",
    metavar="ADDR",
    multiple=True,
    help="Where the broker awaits workers; default tcp://127.0.0.1:5571; several are tried in order.  "
    "[env var: DSPYMQ_WORKER_BROKERS]",
)
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
    "--lane",
    "lanes",
    multiple=True,
    metavar="NAME=N",
    help="Jobs at once of another lane in each, beside --concurrency, so that long jobs never take the slots of short "
    "ones; may be given several times.  [env var: DSPYMQ_WORKER_LANES]",
)
@click.option(
    "--start-method",
    type=click.Choice(["forkserver", "spawn"]),
    help="forkserver imports the programs once, spawn once a process.  [env var: DSPYMQ_WORKER_START_METHOD]",
)
@click.option(
    "--reload/--no-reload",
    default=None,
    help="Import the programs anew when their files change; as SIGHUP does.  [env var: DSPYMQ_WORKER_RELOAD]",
)
@click.option(
    "--max-jobs-per-executor",
    type=int,
    metavar="N",
    help="Replace an executor after so many jobs.  [env var: DSPYMQ_WORKER_MAX_JOBS_PER_EXECUTOR]",
)
@click.option(
    "--max-age",
    "max_age_s",
    type=click.FloatRange(min=1),
    metavar="SECONDS",
    help="Replace an executor when it is so old.  [env var: DSPYMQ_WORKER_MAX_AGE_MS]",
)
@click.option(
    "--max-rss",
    metavar="SIZE",
    help="Replace an executor that has more in RAM, such as 800M or 2G.  [env var: DSPYMQ_WORKER_MAX_RSS_BYTES]",
)
@click.option(
    "--kill-rss",
    metavar="SIZE",
    help="Kill an executor that has more in RAM; default twice --max-rss.  [env var: DSPYMQ_WORKER_KILL_RSS_BYTES]",
)
@click.option(
    "--grace",
    "grace_s",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    help="What running jobs may take when it is told to stop; default 10.  [env var: DSPYMQ_WORKER_GRACE_MS]",
)
@click.option(
    "--health",
    metavar="HOST:PORT",
    help="Answer /livez and /readyz over HTTP there; /readyz is 503 while no job could be taken.  "
    "[env var: DSPYMQ_WORKER_HEALTH]",
)
@click.option("--name", metavar="NAME", help="For logs and `dspymq status`.  [env var: DSPYMQ_WORKER_NAME]")
@click.option(
    "--profile",
    "default_profile",
    metavar="NAME",
    help="The LM profile of jobs that name none.  [env var: DSPYMQ_WORKER_DEFAULT_PROFILE]",
)
@options.config_option
@options.parent_option
@options.log_options("info")
@click.pass_context
def worker(
    context: click.Context,
    targets: tuple[str, ...],
    brokers: tuple[str, ...],
    processes: int | None,
    concurrency: int | None,
    lanes: tuple[str, ...],
    start_method: str | None,
    reload: bool | None,
    max_jobs_per_executor: int | None,
    max_age_s: float | None,
    max_rss: str | None,
    kill_rss: str | None,
    grace_s: float | None,
    health: str | None,
    name: str | None,
    default_profile: str | None,
    config_path: Path | None,
) -> int:
    """Run a pool of workers that offers the programs of MODULE, until SIGTERM or Ctrl-C.

    MODULE is imported from the current directory or the Python path; every dspy.Module in it is offered, under its
    name there (all of __all__, if it has one), and zero-argument factories of one too. Without MODULE the pool runs
    inline signatures only. It needs the extra: pip install 'dspymq[worker]'.

    The first SIGTERM lets running jobs end (--grace), a second one stops at once. SIGHUP imports the programs anew
    without failing a call; of a new version that cannot be used the log says why, and the old one serves on. The
    broker need not be there yet, and may come and go. Every key of [worker] may also stand in the environment as
    DSPYMQ_WORKER_KEY.

    \b
    Examples:
      dspymq worker myapp.programs
      dspymq worker myapp.programs:qa myapp.batch --processes 4 --concurrency 16
      DSPYMQ_LM_MODEL=openai/gpt-4o-mini dspymq worker --broker tcp://10.0.0.7:5571
    """
    from dspymq.worker import load_worker_config, run_pool

    config = load_worker_config(
        config_path,
        os.environ,
        {
            "targets": list(targets) or None,
            "brokers": [part for text in brokers for part in text.split(",")] or None,
            "processes": processes,
            "concurrency": concurrency,
            "lanes": list(lanes) or None,
            "start_method": start_method,
            "reload": reload,
            "max_jobs_per_executor": max_jobs_per_executor,
            "max_age_ms": None if max_age_s is None else round(max_age_s * 1000),
            "max_rss_bytes": max_rss,
            "kill_rss_bytes": kill_rss,
            "grace_ms": None if grace_s is None else round(grace_s * 1000),
            "health": health,
            "name": name,
            "default_profile": default_profile,
            "log_level": options.said_level(context),
        },
    )
    check_dspy()
    return int(run_pool(config))


def check_dspy() -> None:
    """Raises CommandError if DSPy is not installed, as on the bare install."""
    if importlib.util.find_spec("dspy") is None:
        raise CommandError("DSPy is not installed here; workers need it: pip install 'dspymq[worker]'")
