"""COMMANDs that do not keep the contract: a clear message, a verdict, no traceback; and nothing is left running."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from dspymq.cli.main import cli
from dspymq.conformance.command import Command, CommandFault
from dspymq.conformance.runs import CannotRun, Choice, run_client, run_worker
from dspymq.conformance.verdicts import Verdict
from tests.processes import is_alive, wait_until

READY = 'import json, sys; print(json.dumps({"ready": True, "pid": 0, "supports": ["call"]}), flush=True)\n'
CALL = Choice(names=("call",), scale=0.1)


Made = Callable[[str], list[str]]


@pytest.fixture
def command(tmp_path: Path) -> Made:
    """Makes the argv of a driver from its source."""

    def made(source: str) -> list[str]:
        path = tmp_path / "driver.py"
        path.write_text(textwrap.dedent(source), "utf-8")
        return [sys.executable, str(path)]

    return made


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("import sys; sys.exit('no library here')", "ended with exit code 1 before it wrote its first line"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "was killed by signal 9"),
        ("print('Welcome to my client!', flush=True); input()", "first line is|no JSON object"),
        ("print('{\"ready\": false}', flush=True); input()", "first line is"),
        ('print(\'{"ready": true, "supports": 7}\', flush=True); input()', "first line is"),
    ],
)
def test_a_command_that_does_not_start_is_said_so(command: Made, source: str, message: str) -> None:
    for run in (run_client, run_worker):
        with pytest.raises(CannotRun, match=message):
            run(command(source), CALL if run is run_client else Choice(names=("an-attempt",)))


def test_what_it_wrote_on_stderr_is_shown(command: Made) -> None:
    with pytest.raises(CannotRun, match="no library here"):
        run_client(command("import sys; sys.exit('no library here')"), CALL)


def test_a_command_that_is_not_there() -> None:
    with pytest.raises(CannotRun, match=r"cannot be started.*is it on the PATH"):
        run_client(["no-such-driver-anywhere"], CALL)


def test_a_silent_command(command: Made) -> None:
    started = Command(command("import time; time.sleep(60)"), ["tcp://127.0.0.1:1"])
    with pytest.raises(CommandFault, match=r"has not written its first line within 0\.3 s"):
        started.wait_ready(0.3)
    started.close()


@pytest.mark.parametrize(
    ("rest", "message"),
    [
        ("sys.stdin.readline(); sys.exit(3)", "ended with exit code 3"),
        ("sys.stdin.readline(); print('done!', flush=True); sys.stdin.read()", "wrote 'done!' to stdout"),
        (
            'sys.stdin.readline(); print(\'{"problem": "cannot do that"}\', flush=True); sys.stdin.read()',
            "cannot do that",
        ),
        ("sys.stdin.read()", "nothing came for b"),
    ],
)
def test_a_command_that_fails_in_a_transcript_fails_it(command: Made, rest: str, message: str) -> None:
    (outcome,) = run_client(command(READY + rest), CALL)
    assert outcome.verdict is Verdict.FAIL
    assert message in outcome.text


def test_a_worker_without_a_pid(command: Made) -> None:
    source = READY.replace('"pid": 0, ', "") + "sys.stdin.read()"
    with pytest.raises(CannotRun, match='no "pid"'):
        run_worker(command(source), Choice(names=("an-attempt",), scale=0.1))


def test_children_of_a_command_end_with_it(command: Made, tmp_path: Path) -> None:
    note = tmp_path / "pid"
    source = f"""
        import pathlib, subprocess, sys
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        pathlib.Path({str(note)!r}).write_text(str(child.pid))
        print('{{"ready": true, "supports": []}}', flush=True)
        sys.stdin.read()
    """
    started = Command(command(source), [])
    started.wait_ready()
    started.close()
    child = int(note.read_text())
    wait_until(lambda: not is_alive(child), what="the end of the child")


def test_not_supported_is_no_failure(command: Made) -> None:
    outcomes = run_client(command(READY.replace('["call"]', "[]") + "sys.stdin.read()"), Choice())
    assert {each.verdict for each in outcomes} == {Verdict.NOT_SUPPORTED}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["client"], "which COMMAND"),
        (["client", "--rule", "R-99.1", "--", "true"], "no rule R-99.1"),
        (["client", "--only", "no-such", "--", "true"], "no transcript 'no-such'"),
        (["worker", "--section", "15", "--", "true"], "no transcript of this role"),
        (["broker"], "two addresses"),
        (["broker", "tcp://127.0.0.1:1"], "two addresses"),
    ],
)
def test_a_command_line_that_is_wrong(arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(cli, ["conformance", *arguments])
    assert result.exit_code == 2
    assert message in result.output


def test_the_command_line_tells_of_a_driver_that_dies_in_one_line(command: Made) -> None:
    result = CliRunner().invoke(cli, ["conformance", "client", "--", *command("raise SystemExit(9)")])
    assert result.exit_code == 1
    assert "error: COMMAND ended with exit code 9" in result.output
    assert "Traceback" not in result.output


def test_no_broker_there() -> None:
    port = "tcp://127.0.0.1:9"
    result = CliRunner().invoke(cli, ["conformance", "broker", port, port, "--timeout-scale", "0.02"])
    assert result.exit_code == 1
    assert f"no broker answers hello of a client at {port}" in result.output


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (f"{sys.executable} -c 'raise SystemExit(4)'", "ended with exit code 4"),
        ("no-such-broker {clients}", "cannot be started"),
    ],
)
def test_a_broker_that_does_not_start(template: str, message: str) -> None:
    result = CliRunner().invoke(cli, ["conformance", "broker", "--start", template])
    assert result.exit_code == 1
    assert message in result.output


def test_the_environment_of_a_command(command: Made) -> None:
    source = (
        'import json, os; print(json.dumps({"ready": True, "supports": [os.environ["DSPYMQ_BROKERS"]]}), flush=True)'
    )
    started = Command(command(source), ["tcp://127.0.0.1:1", "tcp://127.0.0.1:2"])
    assert started.wait_ready() == {"tcp://127.0.0.1:1,tcp://127.0.0.1:2"}
    started.close()
