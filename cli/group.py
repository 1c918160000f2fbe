"""The command group: suggestions for typos, errors as lines, exit codes."""

from __future__ import annotations

import os
import sys
from collections.abc import MutableMapping, Sequence
from typing import Any

import click

from dspymq.cli import errors, logs
from dspymq.cli.exit_codes import ExitCode
from dspymq.cli.options import wants_json
from dspymq.cli.suggestions import close_to, did_you_mean


class Commands(click.Group):
    """A click group whose verbs return an exit code (None is 0) and may raise anything: no traceback gets out."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does; an unknown verb gets close matches."""
        word = args[0]
        if self.get_command(ctx, word) is None and not word.startswith("-") and not ctx.resilient_parsing:
            known = self.list_commands(ctx)
            hint = did_you_mean(close_to(word, known)) or f"; there are {', '.join(known)}"
            raise click.UsageError(f"no command {word!r}{hint}", ctx)
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the verb; what it raises becomes lines on stderr and an exit code."""
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise
        except Exception as error:
            return errors.report(error, as_json=wants_json(ctx))

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """Run the command line `args`. Exits with the code, or returns it unless `standalone_mode`."""
        code = self._run(args, prog_name or "dspymq", complete_var, extra)
        if standalone_mode:
            logs.give_up_stderr()
            sys.exit(code)
        return code

    def _run(
        self, args: Sequence[str] | None, prog_name: str, complete_var: str | None, extra: MutableMapping[str, Any]
    ) -> int:
        try:
            code = super().main(args, prog_name, complete_var, standalone_mode=False, **extra)
            sys.stdout.flush()
        except click.exceptions.NoArgsIsHelpError as error:
            click.echo(error.ctx.get_help() if error.ctx else "", err=True)
            return ExitCode.USAGE
        except click.ClickException as error:
            return errors.report_usage(error)
        except (click.Abort, KeyboardInterrupt):
            return ExitCode.INTERRUPTED
        except BrokenPipeError:
            # The reader had enough (`| head`). Python would complain again when it closes stdout.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return ExitCode.OK
        return int(code or 0)
