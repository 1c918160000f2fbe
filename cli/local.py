"""`dspymq local`: the small language model that needs no key and no network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from dspymq.cli import options
from dspymq.cli.errors import CommandError
from dspymq.cli.exit_codes import ExitCode
from dspymq.cli.output import print_json

if TYPE_CHECKING:
    from dspymq.worker.local.install import Status


@click.group(short_help="The small embedded language model: install, status.")
def local() -> None:
    """The embedded language model: small, on this machine, without a key.

    It has 135 million parameters: enough to try all the machinery, not to be clever. Workers run it where the model of
    a profile is `local`, and `dspymq up` does where no other is configured.
    """


@local.command(short_help="Fetch the model's packages into this environment.")
@options.log_options("warning")
def install() -> None:
    """Fetch the model's packages into this Python environment, with pip; nothing happens where they are.

    \b
    Examples:
      dspymq local install
    """
    from dspymq.worker.local import install as packages

    try:
        found = packages.install(lambda line: click.echo(line, err=True))
    except packages.InstallError as error:
        raise CommandError(str(error)) from None
    _show(found)


@local.command(short_help="Say what is installed.")
@options.json_option("Print it as one document.")
@options.log_options("warning")
def status(as_json: bool) -> int:
    """Say what is installed of the embedded model; exits with 1 if it cannot be used.

    \b
    Examples:
      dspymq local status
      dspymq local status || dspymq local install
    """
    from dspymq.worker.local import install as packages

    found = packages.status()
    if as_json:
        print_json(status_document(found))
    else:
        _show(found)
    return ExitCode.OK if found.usable else ExitCode.FAILURE


def is_local_installed() -> bool:
    """Whether the embedded model can be used."""
    from dspymq.worker.local.install import status as look

    return look().usable


def _show(found: Status) -> None:
    from dspymq.worker.local.install import ENGINE, MODEL_NAME, WEIGHTS

    size = (
        f"{found.weights_bytes / 1_000_000:.0f} MB at {found.weights_path}" if found.weights_path else "not installed"
    )
    click.echo(f"model    {MODEL_NAME}")
    click.echo(f"engine   {ENGINE} {found.engine_version or '- not installed'}")
    click.echo(f"weights  {WEIGHTS} {found.weights_version or '-'}, {size}")
    click.echo(
        "usable   yes; as the model `local` of a profile, or DSPYMQ_LM_MODEL=local" if found.usable else "usable   no"
    )
    if found.fix:
        click.echo(found.fix, err=True)


def status_document(found: Status) -> dict[str, Any]:
    """The status for machines."""
    return {
        "usable": found.usable,
        "engine_version": found.engine_version,
        "weights_version": found.weights_version,
        "weights_path": None if found.weights_path is None else str(found.weights_path),
        "weights_bytes": found.weights_bytes,
        "fix": found.fix,
    }
