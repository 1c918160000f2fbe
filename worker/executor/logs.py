"""What an executor writes on stderr: lines of the supervisor's form, and nothing of what a job carries.

Until it is forked (or while it imports the programs) it is one thread, and everything is shown. From then on lines go
out by a thread of their own, and bear the job that they belong to. What libraries say is withheld but for its place,
since it may quote inputs and outputs; the programs' own loggers are their author's business.
"""

from __future__ import annotations

import logging
import sys
import threading
import traceback
from collections.abc import Iterable
from contextvars import ContextVar
from types import TracebackType
from typing import Any, Final

from dspymq.transport.log_lines import JsonFormatter, LinesHandler, write_patiently

PATIENCE_S: Final = 0.2
STDERR: Final = 2

job: ContextVar[str] = ContextVar("job", default="")
"""`job=... lease=... executor=...` of what runs here, for the lines about it."""

_own: set[str] = {"dspymq"}
"""Top-level names of loggers that are shown as they are."""


def set_up(level: str, targets: Iterable[str], *, as_json: bool) -> None:
    """For a process that imports programs: write at once. `level` holds for us and for the modules of the programs."""
    _own.update(target.partition(":")[0].partition(".")[0] for target in targets)
    for name in _own:
        logging.getLogger(name).setLevel(level.upper())
    handler = _Patient()
    handler.setFormatter(_formatter(as_json))
    logging.getLogger().handlers[:] = [handler]


def serve(*, as_json: bool) -> None:
    """For a process that runs jobs, when it is not forked any more."""
    handler = LinesHandler(STDERR, _formatter(as_json))
    handler.addFilter(_about)
    logging.getLogger().handlers[:] = [handler]
    for name, logger in list(logging.root.manager.loggerDict.items()):
        # Some libraries bring handlers of their own (DSPy does), past ours.
        if isinstance(logger, logging.Logger) and logger.handlers and name.partition(".")[0] not in _own:
            logger.handlers.clear()
            logger.propagate = True
            logger.setLevel(max(logger.level, logging.WARNING))
    logging.captureWarnings(True)
    threading.excepthook = _thread_failed
    sys.unraisablehook = _unraisable


def place_of(trace: TracebackType | None) -> str:
    """FILE:LINE of where an error was raised: the last that is not in an installed package, if there is one."""
    frames = traceback.extract_tb(trace)
    own = [frame for frame in frames if "site-packages" not in frame.filename] or frames
    return f"{own[-1].filename}:{own[-1].lineno}" if own else "?"


def _about(record: logging.LogRecord) -> bool:
    """Make a record one that may be shown."""
    error = _kind(record.exc_info)
    if record.name.partition(".")[0] in _own:
        text = f"{record.getMessage()}{error}"
    else:
        text = f"library.line at={record.pathname}:{record.lineno}{error}"
    record.msg, record.args = f"{text} {job.get()}".rstrip(), None
    # The text of an error may quote what the client sent.
    record.exc_info = record.exc_text = record.stack_info = None
    return True


def _kind(error: Any) -> str:
    return f" error={error[0].__name__} raised_at={place_of(error[2])}" if error and error[0] else ""


def _thread_failed(args: threading.ExceptHookArgs) -> None:
    if args.exc_type is not SystemExit:
        place = place_of(args.exc_traceback)
        logging.getLogger("dspymq.worker.executor").warning(
            "thread.failed error=%s raised_at=%s", args.exc_type.__name__, place
        )


def _unraisable(args: Any) -> None:
    place = place_of(args.exc_traceback)
    name = args.exc_type.__name__ if args.exc_type else None
    logging.getLogger("dspymq.worker.executor").warning("error.unraisable error=%s raised_at=%s", name, place)


def _formatter(as_json: bool) -> logging.Formatter:
    return JsonFormatter() if as_json else logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s")


class _Patient(logging.Handler):
    """Writes before it returns, but waits for nobody who does not read."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = self.format(record)
        except Exception:
            return
        write_patiently(STDERR, f"{text}\n".encode(errors="backslashreplace"), PATIENCE_S)
