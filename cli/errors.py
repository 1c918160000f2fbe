"""Errors as a shell sees them: a line on stderr, a line more for each field that does not fit, and an exit code."""

from __future__ import annotations

import contextlib
import logging
import sys
from typing import TYPE_CHECKING, Any

import click

from dspymq.cli.exit_codes import ExitCode, exit_code_for
from dspymq.cli.output import print_json
from dspymq.cli.suggestions import did_you_mean

if TYPE_CHECKING:
    from dspymq.exceptions import DspymqError

log = logging.getLogger("dspymq.cli")


class CommandError(Exception):
    """Something that a verb itself found wrong: what to print, and how to exit."""

    def __init__(self, message: str, exit_code: ExitCode = ExitCode.FAILURE) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def report(error: Exception, *, as_json: bool = False) -> ExitCode:
    """Say on stderr what went wrong, and with `as_json` also as a document on stdout. Returns the exit code."""
    if isinstance(error, CommandError):
        say(str(error))
        return error.exit_code
    # Whatever raised these has imported their modules already.
    exceptions = sys.modules.get("dspymq.exceptions")
    if exceptions is not None and isinstance(error, exceptions.DspymqError):
        return _report_dspymq(error, as_json=as_json)
    if _is_config_error(error):
        say(str(error))
        return ExitCode.USAGE
    log.debug("cli.fault", exc_info=error)
    hint = "" if log.isEnabledFor(logging.DEBUG) else " (--log-level debug shows where)"
    say(f"{type(error).__name__}: {_one_line(str(error))}{hint}")
    return ExitCode.FAILURE


def report_usage(error: click.ClickException) -> ExitCode:
    """A command line that cannot be understood: one line, with where to read on."""
    message = _one_line(error.format_message()).rstrip(".")
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "dspymq"
    say(f"{message} (see {path} --help)" if isinstance(error, click.UsageError) else message)
    return ExitCode.USAGE if isinstance(error, click.UsageError) else ExitCode.FAILURE


def say(message: str) -> None:
    """One error line."""
    _to_stderr(f"{click.style('error:', fg='red', bold=True)} {message}")


def _to_stderr(line: str) -> None:
    # The exit code says it, too.
    with contextlib.suppress(OSError):
        click.echo(line, err=True)


def describe(error: DspymqError, message: str | None = None) -> str:
    """The error as one line for people, its code and reason at the end; `message` replaces its own."""
    message = message or _one_line(error.message) or error.code
    matches = error.details.get("close_matches")
    if isinstance(matches, list) and matches and "did you mean" not in message:
        message += did_you_mean([str(match) for match in matches])
    if error.reason == "broker_unreachable":
        message += "; start one: dspymq broker, or dspymq up"
    if error.retry_after_ms:
        message += f"; try again in {error.retry_after_ms / 1000:g} s"
    kind = f"{error.code}/{error.reason}" if error.reason else error.code
    return f"{message} [{kind}]"


def error_document(error: DspymqError) -> dict[str, Any]:
    """The error for machines."""
    return {
        "error": {
            "code": error.code,
            "reason": error.reason,
            "message": error.message,
            "retryable": error.retryable,
            "retry_after_ms": error.retry_after_ms,
            "details": error.details,
            "job": error.job,
        }
    }


def _report_dspymq(error: DspymqError, *, as_json: bool) -> ExitCode:
    from dspymq.exceptions import InvalidArgument

    lines = _field_lines(error) if isinstance(error, InvalidArgument) else []
    # The fields follow, one a line; the message names them too.
    say(describe(error, message="the inputs do not fit" if lines and error.reason == "invalid_inputs" else None))
    for line in lines:
        _to_stderr(line)
    if as_json:
        print_json(error_document(error))
    return exit_code_for(error.code, error.reason)


def _field_lines(error: DspymqError) -> list[str]:
    entries = error.details.get("fields")
    if not isinstance(entries, list):
        return []
    lines = []
    for entry in entries:
        if isinstance(entry, dict):
            expected = f" (expected {_one_line(str(entry['expected']))})" if entry.get("expected") else ""
            problem = entry.get("message") or entry.get("problem", "")
            lines.append(f"  {entry.get('field', '?')}: {_one_line(str(problem))}{expected}")
    return lines


def _is_config_error(error: Exception) -> bool:
    broker, worker = sys.modules.get("dspymq.broker.config"), sys.modules.get("dspymq.worker.config")
    kinds = tuple(module.ConfigError for module in (broker, worker) if module is not None)
    return isinstance(error, kinds)


def _one_line(text: str) -> str:
    return " ".join(text.split())
