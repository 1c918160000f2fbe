"""`dspymq define`, `undefine`, `alias`: programs that are data, and what their aliases stand for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from dspymq.cli import options
from dspymq.cli.output import console, print_json

if TYPE_CHECKING:
    from dspymq.async_client import AsyncClient


@click.command(short_help="Give a program that is data a name.")
@click.argument("name")
@click.argument("signature", required=False)
@click.option(
    "--spec",
    "file",
    metavar="FILE",
    envvar="DSPYMQ_DEFINE_SPEC",
    show_envvar=True,
    help="The whole spec, as JSON; - for stdin.",
)
@click.option(
    "--alias", metavar="ALIAS", envvar="DSPYMQ_DEFINE_ALIAS", show_envvar=True, help="Let NAME@ALIAS stand for it, too."
)
@options.broker_option
@options.json_option('Print {"name", "revision"}.')
@options.log_options("warning")
def define(
    name: str, signature: str | None, file: str | None, alias: str | None, brokers: tuple[str, ...], as_json: bool
) -> None:
    """Give a program that is data a name at the broker: a signature in text, or a whole spec.

    Any pool that takes inline programs runs it from then on. Its revision is a hash of its content.

    \b
    Examples:
      dspymq define summarize "text -> summary"
      dspymq define triage --spec triage.json --alias prod
      dspymq call triage@prod text="..."
    """
    from dspymq.cli.connection import ask
    from dspymq.cli.inputs import read_json_inputs

    spec: str | dict[str, Any] | None = signature if file is None else read_json_inputs(file)
    if spec is None or (file is not None and signature is not None):
        raise click.UsageError("give either a signature or --spec FILE")

    async def run(client: AsyncClient) -> str:
        revision = await client.define(name, spec)
        if alias is not None:
            await client.alias(name, alias, revision)
        return revision

    revision, _ = ask(brokers, run)
    if as_json:
        print_json({"name": name, "revision": revision})
    else:
        called = name if alias is None else f"{name}@{alias}"
        console().print(f"{called} is revision {revision}", highlight=False)


@click.command(short_help="Forget a revision that was defined.")
@click.argument("name")
@click.argument("revision")
@options.broker_option
@options.log_options("warning")
def undefine(name: str, revision: str, brokers: tuple[str, ...]) -> None:
    """Forget a revision that was defined; jobs that run at it go on.

    \b
    Examples:
      dspymq undefine summarize 5d41402abc4b2a76b9719d911017c592
    """
    from dspymq.cli.connection import ask

    ask(brokers, lambda client: client.undefine(name, revision))
    console().print(f"{name} has no revision {revision} any more", highlight=False)


@click.command(short_help="Let NAME@ALIAS stand for a revision.")
@click.argument("program", metavar="NAME@ALIAS")
@click.argument("revision", required=False)
@click.option(
    "--remove",
    is_flag=True,
    envvar="DSPYMQ_ALIAS_REMOVE",
    show_envvar=True,
    help="Let it stand for nothing any more.",
)
@click.option(
    "--expect",
    metavar="REVISION",
    envvar="DSPYMQ_ALIAS_EXPECT",
    show_envvar=True,
    help="Only if it stands for this one now.",
)
@options.broker_option
@options.json_option('Print {"before", "revision"}.')
@options.log_options("warning")
def alias(
    program: str, revision: str | None, remove: bool, expect: str | None, brokers: tuple[str, ...], as_json: bool
) -> None:
    """Let NAME@ALIAS stand for a revision from now on: one that is defined, or that a worker offers.

    \b
    Examples:
      dspymq alias triage@prod 5d41402abc4b2a76b9719d911017c592
      dspymq alias triage@prod --remove
    """
    from dspymq.cli.connection import ask

    name, mark, wanted = program.partition("@")
    if not (name and mark and wanted):
        raise click.UsageError(f"{program!r} is not NAME@ALIAS")
    if (revision is None) != remove:
        raise click.UsageError("give either a revision or --remove")
    before, _ = ask(
        brokers, lambda client: client.alias(name, wanted, revision, expect=... if expect is None else expect)
    )
    if as_json:
        print_json({"before": before, "revision": revision})
    else:
        console().print(f"{program} is {revision or 'nothing'} now; it was {before or 'nothing'}", highlight=False)
