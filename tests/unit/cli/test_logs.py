"""Logs: a line for people on a terminal, a JSON object a line otherwise."""

import io
import json
import logging
from collections.abc import Iterator

import pytest

from dspymq.cli import logs


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
