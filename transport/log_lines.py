"""Log lines: how they look, and a writer that never keeps its caller waiting.

A log that cannot be written costs lines, never the service: a disk that is full, a reader that is gone, and a pipe or a
terminal that takes no more (whose writer the kernel would stop) are found out by a thread of its own, which drops what
does not fit its bounded queue, counts it, and says how much that was as soon as it can write again.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import logging
import os
import re
import select
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Final

MAX_WAITING_BYTES: Final = 1024 * 1024
"""What may wait for a log that takes nothing."""

FLUSH_S: Final = 0.5
"""How long the end of a process waits for its last lines, if they do not go out."""

LOST_EVENT: Final = "log_lines_dropped"

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


class LineWriter:
    """Writes to a file descriptor, from a daemon thread that the first line starts. `write` never blocks.

    `notice(n)` is the line that says that n lines were dropped. Usable on in a forked child: what waited when it was
    forked is its parent's to write.
    """

    def __init__(self, fd: int, notice: Callable[[int], bytes], max_bytes: int = MAX_WAITING_BYTES) -> None:
        self._fd = fd
        self._notice = notice
        self._max_bytes = max_bytes
        self._thread: threading.Thread | None = None
        self._begin()

    def write(self, data: bytes) -> None:
        """Write a line (or several, that belong together) as soon as that is possible, or drop it."""
        if self._pid != os.getpid():
            self._begin()
        with self._changed:
            if self._bytes + len(data) > self._max_bytes:
                self._lost += 1
                return
            self._lines.append(data)
            self._bytes += len(data)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="dspymq-log", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def drop(self) -> None:
        """Count a line that there is no text of."""
        with self._changed:
            self._lost += 1

    def flush(self, timeout_s: float = FLUSH_S) -> None:
        """Wait until all is written, at most so long."""
        if self._pid == os.getpid():
            with self._changed:
                self._changed.wait_for(lambda: not self._lines and not self._writing, timeout_s)

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._changed = threading.Condition()
        self._lines: deque[bytes] = deque()
        self._bytes = 0
        self._lost = 0
        self._writing = False
        self._failed = False
        self._thread = None

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._lines)
                data = self._lines.popleft()
                self._bytes -= len(data)
                self._writing = True
            written = self._put(data)
            with self._changed:
                self._lost += not written
                lost = self._lost if written and not self._lines else 0
            if lost and self._put(self._notice(lost)):
                with self._changed:
                    self._lost -= lost
            with self._changed:
                self._writing = False
                self._changed.notify_all()

    def _put(self, data: bytes) -> bool:
        """Whether it is written, all of it."""
        if self._failed:
            # The end of a line may be missing, which had no room, ours or another process's: this one stands by itself.
            data = b"\n" + data
        while data:
            try:
                written = os.write(self._fd, data)
            except BlockingIOError:
                # Somebody else has made it so that it does not block.
                _wait_writable(self._fd, None)
            except OSError:
                self._failed = True
                return False
            else:
                data = data[written:]
        self._failed = False
        return True


class LinesHandler(logging.Handler):
    """Formats records, and hands them to a LineWriter."""

    def __init__(self, fd: int, formatter: logging.Formatter) -> None:
        super().__init__()
        self.setFormatter(formatter)
        self.writer = LineWriter(fd, self._notice)

    def emit(self, record: logging.LogRecord) -> None:
        """Never raises and never blocks."""
        try:
            data = self._encoded(record)
        except Exception:
            self.writer.drop()
        else:
            self.writer.write(data)

    def flush(self) -> None:
        """Wait a moment for what is not written yet."""
        self.writer.flush()

    def _encoded(self, record: logging.LogRecord) -> bytes:
        return f"{self.format(record)}\n".encode(errors="backslashreplace")

    def _notice(self, lost: int) -> bytes:
        text = f"event={LOST_EVENT} n={lost}"
        record = logging.LogRecord("dspymq.log", logging.WARNING, __file__, 0, text, None, None)
        return self._encoded(record)


def writes_json() -> bool:
    """Whether this process logs JSON."""
    return any(isinstance(handler.formatter, JsonFormatter) for handler in logging.getLogger().handlers)


def write_raw(data: bytes) -> None:
    """Write what others wrote to where the log goes (else to stderr), without waiting."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, LinesHandler):
            handler.writer.write(data)
            return
    write_patiently(2, data, 0)


def write_patiently(fd: int, data: bytes, patience_s: float) -> None:
    """Write here and now, piece by piece; what is not taken within `patience_s`, or not at all, is dropped."""
    while data and _wait_writable(fd, patience_s):
        # What poll promises of a pipe.
        piece = data[: select.PIPE_BUF]
        try:
            data = data[os.write(fd, piece) :]
        except OSError:
            return


def _wait_writable(fd: int, timeout_s: float | None) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    with contextlib.suppress(OSError):
        return bool(poll.poll(None if timeout_s is None else timeout_s * 1000))
    return False


def _structure(message: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    first = message.partition(" ")[0]
    fields = {name: _unquoted(value) for name, value in _PAIR.findall(message)}
    event = first if fields and _EVENT.fullmatch(first) else fields.pop("event", None)
    if event:
        found["event"] = event
    if fields:
        found["fields"] = fields
    return found


def _unquoted(text: str) -> str:
    return text[1:-1] if len(text) >= 2 and text[0] == text[-1] and text[0] in "'\"" else text
