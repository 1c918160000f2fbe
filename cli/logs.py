"""Logging of the command: human lines where a terminal looks, one JSON object a line otherwise. Always on stderr."""

import datetime
import json
import logging
import os
import re
import sys
from typing import Any, Final, TextIO

LEVELS: Final = ("debug", "info", "warning", "error")

_PAIR: Final = re.compile(r"""(\w+)=('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|\S*)""")
_EVENT: Final = re.compile(r"[a-z][a-z0-9_]*(?:[._][a-z0-9_]+)*")

_COLOURS: Final = {logging.DEBUG: "2", logging.WARNING: "33", logging.ERROR: "31", logging.CRITICAL: "31"}


class HumanFormatter(logging.Formatter):
    """`12:30:05 WARNING worker.pool executor.died executor=box-1/2 pid=71`; with colours if `colour`."""

    def __init__(self, *, colour: bool) -> None:
        super().__init__()
        self._colour = colour

    def format(self, record: logging.LogRecord) -> str:
        """One line, and the traceback below it if there is one."""
        when = datetime.datetime.fromtimestamp(record.created).strftime("%H:%M:%S")
        line = f"{when} {record.levelname:<7} {record.name.removeprefix('dspymq.')}  {record.getMessage()}"
        number = _COLOURS.get(record.levelno) if self._colour else None
        if number is not None:
            line = f"\x1b[{number}m{line}\x1b[0m"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class JsonFormatter(logging.Formatter):
    """`{"time", "level", "logger", "message", "event"?, "fields"?, "exception"?}`; time is UTC, ISO 8601.

    `event` and `fields` are read from messages of the form `event key=value`, whatever else they say.
    """

    def format(self, record: logging.LogRecord) -> str:
        """One line of JSON."""
        message = record.getMessage()
        when = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
        line: dict[str, Any] = {
            "time": when.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": message,
            **_structure(message),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def set_up(level: str, stream: TextIO | None = None) -> None:
    """Send this process's log to `stream` (stderr), from `level` (one of LEVELS) on."""
    target = sys.stderr if stream is None else stream
    handler = logging.StreamHandler(target)
    is_terminal = target.isatty()
    handler.setFormatter(HumanFormatter(colour=_wants_colour()) if is_terminal else JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("dspymq").setLevel(level.upper())


def _wants_colour() -> bool:
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def _structure(message: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    first = message.partition(" ")[0]
    fields = {name: _unquoted(value) for name, value in _PAIR.findall(message)}
    event = fields.pop("event", None) or (first if fields and _EVENT.fullmatch(first) else None)
    if event:
        found["event"] = event
    if fields:
        found["fields"] = fields
    return found


def _unquoted(text: str) -> str:
    return text[1:-1] if len(text) >= 2 and text[0] == text[-1] and text[0] in "'\"" else text
