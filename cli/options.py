"""Options that several verbs share, and what every one of them arranges."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from dspymq.cli import logs

F = TypeVar("F", bound=Callable[..., Any])

BROKER_HELP = (
    "Where the broker is, such as tcp://127.0.0.1:5570; several (or separated by commas) are tried in order.  "
    "[env var: DSPYMQ_BROKER]"
)


def wants_json(context: click.Context) -> bool:
    """Whether --json was given, as far as the command line was read."""
    return bool(context.meta.get("dspymq.json"))


def json_option(help_text: str) -> Callable[[F], F]:
    """`--json`."""

    def note(context: click.Context, _: click.Parameter, value: bool) -> bool:
        context.meta["dspymq.json"] = value
        return value

    return click.option(
        "--json",
        "as_json",
        is_flag=True,
        is_eager=True,
        envvar="DSPYMQ_JSON",
        show_envvar=True,
        callback=note,
        help=help_text,
    )


def log_options(default: str) -> Callable[[F], F]:
    """`--log-level` and `-v`; sets logging up before the verb runs."""

    def apply(context: click.Context, _: click.Parameter, value: str | None) -> None:
        # `meta` is shared by all contexts of one command line: what stands before the verb is the verb's default.
        said = value or ("debug" if context.meta.pop("dspymq.verbose", False) else None)
        level = said or context.meta.get("dspymq.log_level") or default
        if said:
            context.meta["dspymq.log_level"] = said.lower()
        logs.set_up(level)

    def note(context: click.Context, _: click.Parameter, value: bool) -> None:
        context.meta["dspymq.verbose"] = value

    def decorate(function: F) -> F:
        with_level = click.option(
            "--log-level",
            type=click.Choice(logs.LEVELS, case_sensitive=False),
            envvar="DSPYMQ_LOG_LEVEL",
            show_envvar=True,
            expose_value=False,
            callback=apply,
            help=f"What is logged on stderr, as JSON lines where no terminal looks (default {default}).",
        )(function)
        return click.option(
            "-v",
            "--verbose",
            is_flag=True,
            is_eager=True,
            expose_value=False,
            callback=note,
            envvar="DSPYMQ_VERBOSE",
            show_envvar=True,
            help="The same as --log-level debug.",
        )(with_level)

    return decorate


def said_level(context: click.Context) -> str | None:
    """The log level that was asked for, one of logs.LEVELS; None if none was."""
    level: str | None = context.meta.get("dspymq.log_level")
    return level


def broker_option(function: F) -> F:
    """`--broker`, for clients; DSPYMQ_BROKER and the default are the client's own business."""
    return click.option("--broker", "brokers", metavar="ADDR", multiple=True, help=BROKER_HELP)(function)


def config_option(function: F) -> F:
    """`--config FILE`."""
    return click.option(
        "--config",
        "config_path",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        envvar="DSPYMQ_CONFIG",
        show_envvar=True,
        help="A TOML file with [broker], [worker] and [profiles.NAME] tables.",
    )(function)


def end_with_parent(context: click.Context, _: click.Parameter, pid: int | None) -> None:
    """Die with the process `pid`, which started this one (`dspymq up` does)."""
    if pid:
        from dspymq.worker.executor.process import die_with_parent

        die_with_parent(pid)


def parent_option(function: F) -> F:
    """`--parent PID`, hidden: who starts a broker or a pool as a part of itself leaves no orphan."""
    return click.option("--parent", type=int, hidden=True, expose_value=False, is_eager=True, callback=end_with_parent)(
        function
    )
