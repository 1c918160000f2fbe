"""Logs: a line for people on a terminal, a JSON object a line otherwise."""

import errno
import fcntl
import io
import json
import logging
import os
import time
from collections.abc import Iterator

import pytest

from dspymq.cli import logs
from dspymq.transport import log_lines


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    root, own = logging.getLogger(), logging.getLogger("dspymq")
    before = root.handlers[:], root.level, own.level
    yield
    root.handlers[:], root.level = before[0], before[1]
    own.setLevel(before[2])


def test_json_lines_carry_the_event_and_its_fields() -> None:
    out = io.StringIO()
    logs.set_up("info", out)
    log = logging.getLogger("dspymq.worker.pool")
    log.info("executor.died executor=box-1/2 pid=%d text='two words'", 71)
    log.info("nothing to see")
    log.info("event=pool.start name=x")
    log.debug("executor.quiet")
    first, second, third = (json.loads(line) for line in out.getvalue().splitlines())
    assert first["time"].endswith("Z")
    assert (first["level"], first["logger"]) == ("info", "dspymq.worker.pool")
    assert first["event"] == "executor.died"
    assert first["fields"] == {"executor": "box-1/2", "pid": "71", "text": "two words"}
    assert second["message"] == "nothing to see"
    assert "event" not in second
    assert (third["event"], third["fields"]) == ("pool.start", {"name": "x"})


def test_a_terminal_gets_a_line_for_people(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    out = Terminal()
    logs.set_up("info", out)
    logging.getLogger("dspymq.broker").warning("broker_stalled for_ms=%d", 900)
    assert out.getvalue()[8:] == " WARNING broker  broker_stalled for_ms=900\n"
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "xterm")
    logs.set_up("info", out)
    logging.getLogger("dspymq.broker").warning("x")
    assert out.getvalue().endswith("\x1b[0m\n")


def test_exceptions_stay_within_their_line_as_json() -> None:
    out = io.StringIO()
    logs.set_up("debug", out)
    try:
        raise ValueError("broken")
    except ValueError:
        logging.getLogger("dspymq.x").exception("fault")
    (line,) = out.getvalue().splitlines()
    assert "ValueError: broken" in json.loads(line)["exception"]


def test_other_libraries_are_heard_from_warning_on() -> None:
    out = io.StringIO()
    logs.set_up("debug", out)
    logging.getLogger("asyncio").info("quiet")
    logging.getLogger("asyncio").warning("loud")
    assert [json.loads(line)["message"] for line in out.getvalue().splitlines()] == ["loud"]


def notice(lost: int) -> bytes:
    return f"lost {lost}\n".encode()


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """A pipe of one page."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4_096)
    yield reader, writer
    os.close(reader)
    os.close(writer)


def read_until(reader: int, last: bytes) -> bytes:
    got = b""
    while not got.endswith(last):
        data = os.read(reader, 65_536)
        assert data
        got += data
    return got


def test_a_log_that_nobody_reads_drops_lines_in_the_end_and_says_how_many(pipe: tuple[int, int]) -> None:
    reader, fd = pipe
    writer = log_lines.LineWriter(fd, notice, max_bytes=10_000)
    for n in range(1_000):
        writer.write(f"{n:099d}\n".encode())
    began = time.monotonic()
    writer.flush(0.05)
    assert time.monotonic() - began < 5, "the end of a process does not wait for ever"
    got = b""
    while b"lost" not in got or not got.endswith(b"\n"):
        got += os.read(reader, 65_536)
    *lines, last = got.decode().splitlines()
    numbers = [int(line) for line in lines]
    assert numbers == sorted(set(numbers))
    assert numbers[:100] == list(range(100)), "what came first is there"
    assert last == f"lost {1_000 - len(lines)}"
    writer.write(b"and on\n")
    assert read_until(reader, b"on\n") == b"and on\n"


def test_a_line_that_had_no_room_for_its_end_does_not_spoil_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[bytes] = []
    room = [4, 0, 0, 1_000, 1_000]

    def write(_: int, data: bytes) -> int:
        free = room.pop(0)
        if not free:
            raise OSError(errno.ENOSPC, "full")
        written.append(data[:free])
        return min(free, len(data))

    monkeypatch.setattr(os, "write", write)
    writer = log_lines.LineWriter(99, notice)
    for line in (b"first line\n", b"second\n", b"third\n"):
        writer.write(line)
        writer.flush(10)
    assert b"".join(written) == b"firs\nthird\nlost 2\n"


def test_a_child_that_was_forked_writes_its_own_lines(pipe: tuple[int, int]) -> None:
    reader, fd = pipe
    writer = log_lines.LineWriter(fd, notice)
    writer.write(b"parent\n")
    writer.flush(10)
    pid = os.fork()
    if not pid:
        writer.write(b"child\n")
        writer.flush(10)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    assert read_until(reader, b"child\n") == b"parent\nchild\n"


def test_a_record_that_cannot_be_formatted_is_counted(pipe: tuple[int, int]) -> None:
    reader, fd = pipe
    handler = log_lines.LinesHandler(fd, logging.Formatter("%(message)s"))
    for text, args in (("%d", ("no number",)), ("fine", ())):
        handler.handle(logging.LogRecord("x", logging.INFO, __file__, 1, text, args, None))
    assert read_until(reader, b"n=1\n") == b"fine\nevent=log_lines_dropped n=1\n"
