"""Logging of the command: human lines where a terminal looks, one JSON object a line otherwise. Always on stderr."""

import logging
import os
import sys
from typing import Final, TextIO

from dspymq.transport.log_lines import HumanFormatter, JsonFormatter, LinesHandler

LEVELS: Final = ("debug", "info", "warning", "error")

STDERR: Final = 2


def open_standard_streams() -> None:
    """Let what was closed when this process began (`2>&-`) lead nowhere.

    Else the next file or socket that is opened gets its number, and with it what is written on stderr.
    """
    for fd, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
            os.set_inheritable(fd, True)
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(fd, mode, closefd=False))


def give_up_stderr() -> None:
    """At the end: a stderr that takes nothing must not turn into an exit code of Python's own."""
    try:
        sys.stderr.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), STDERR)


def set_up(level: str, stream: TextIO | None = None) -> None:
    """Send this process's log to `stream` (stderr), from `level` (one of LEVELS) on."""
    target = sys.stderr if stream is None else stream
    formatter = HumanFormatter(colour=_wants_colour()) if target.isatty() else JsonFormatter()
    # Not through sys.stderr, whose buffer keeps what could not be written.
    handler = LinesHandler(STDERR, formatter) if _is_stderr(target) else logging.StreamHandler(target)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("dspymq").setLevel(level.upper())


def _is_stderr(stream: TextIO) -> bool:
    try:
        return stream.fileno() == STDERR
    except OSError:
        return False


def _wants_colour() -> bool:
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
