"""`dspymq up`: all of it together, and all of its ends."""

import json
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from dspymq import Client
from dspymq.cli.exit_codes import ExitCode
from tests.integration.cli_system import Shell, write_programs
from tests.lm import ScriptedLM
from tests.processes import ANY_PORT, Process, clean_environ, is_alive, running, wait_until

# As a terminal does it, Ctrl-C here is a SIGINT to the whole process group of `up`.


@contextmanager
def running_up(
    folder: Path, lm: ScriptedLM | None, *arguments: str, processes: int = 1
) -> Iterator[tuple[Process, dict[str, Any]]]:
    """`dspymq up` with the test programs on free ports, and what it says with --json."""
    target = write_programs(folder)
    command = ["up", target, "--processes", str(processes), "--json", *arguments]
    free = ("--clients", ANY_PORT, "--workers", ANY_PORT)
    with running("up", [*command, *(() if "--clients" in arguments else free)], clean_environ(lm), folder) as process:
        yield process, json.loads(process.first_line())


def test_up_serves_programs_and_ctrl_c_ends_all_of_it(tmp_path: Path, scripted_lm: ScriptedLM) -> None:
    with running_up(tmp_path, scripted_lm, processes=2) as (up, said):
        assert {"qa", "person", "typed"} <= set(said["programs"])
        assert "openai/scripted" in said["lm"]
        assert len(said["executor_pids"]) == 2
        assert Shell(said["clients"])("call", "qa", "question=x").code == 0
        members = up.members()
        assert {said["broker_pid"], said["worker_pid"], *said["executor_pids"]} <= set(members)
        os.killpg(up.pid, signal.SIGINT)
        assert up.process.wait(15) == 0
        assert up.members() == {}
        assert "Traceback" not in up.stderr()


def test_ctrl_c_lets_a_running_job_end_first(tmp_path: Path, scripted_lm: ScriptedLM) -> None:
    with running_up(tmp_path, scripted_lm) as (up, said), Client(said["clients"]) as client:
        job = client.submit("qa", {"question": "x #hang #job=last"})
        scripted_lm.wait_open("last")
        os.killpg(up.pid, signal.SIGINT)
        wait_until(lambda: client.workers()[0]["state"] == "draining", 5, "the drain")
        scripted_lm.release("last")
        assert job.result(10).answer.startswith("answer: x")
        assert up.process.wait(15) == 0


def test_a_second_ctrl_c_does_not_wait(tmp_path: Path, scripted_lm: ScriptedLM) -> None:
    with running_up(tmp_path, scripted_lm) as (up, said), Client(said["clients"]) as client:
        client.submit("qa", {"question": "x #hang #job=stuck"})
        scripted_lm.wait_open("stuck")
        os.killpg(up.pid, signal.SIGINT)
        wait_until(lambda: client.workers()[0]["state"] == "draining", 5, "the drain")
        os.killpg(up.pid, signal.SIGINT)
        up.process.wait(4)
        up.assert_nothing_left()


def test_nothing_survives_a_killed_up(tmp_path: Path, scripted_lm: ScriptedLM) -> None:
    with running_up(tmp_path, scripted_lm, processes=2) as (up, said):
        pids = [said["broker_pid"], said["worker_pid"], *said["executor_pids"]]
        assert all(is_alive(pid) for pid in pids)
        up.kill(signal.SIGKILL)
        wait_until(lambda: not up.members(), 5, f"the end of all: {up.members()}")


@pytest.mark.parametrize("victim", ["broker_pid", "worker_pid"])
def test_when_one_half_dies_the_other_is_ended_and_it_says_so(
    tmp_path: Path, scripted_lm: ScriptedLM, victim: str
) -> None:
    with running_up(tmp_path, scripted_lm) as (up, said):
        os.kill(said[victim], signal.SIGKILL)
        assert up.process.wait(15) == ExitCode.FAILURE
        name = "broker" if victim == "broker_pid" else "pool"
        assert f"error: the {name} (pid {said[victim]}) ended by signal 9" in up.stderr()
        up.assert_nothing_left()


def test_programs_that_cannot_be_loaded_end_it_with_their_reason() -> None:
    done = Shell("tcp://127.0.0.1:1")("up", "no_such_module", "--clients", ANY_PORT, "--workers", ANY_PORT)
    assert done.code == ExitCode.REFUSED
    assert "no_such_module" in done.err
    assert "Traceback" not in done.err


def test_a_chosen_port_that_is_taken_is_an_error(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        done = Shell("tcp://127.0.0.1:1")("up", "--clients", address, "--workers", ANY_PORT)
    assert done.code == ExitCode.FAILURE
    assert f"cannot listen on {address}" in done.err


def test_ctrl_c_while_it_starts_ends_it(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text("import pathlib, time\npathlib.Path('importing').touch()\ntime.sleep(30)\n")
    command = ["up", "slow", "--clients", ANY_PORT, "--workers", ANY_PORT, "--processes", "1"]
    with running("up", command, clean_environ(), tmp_path) as up:
        wait_until((tmp_path / "importing").exists, 20, "the import")
        os.killpg(up.pid, signal.SIGINT)
        up.process.wait(10)
        up.assert_nothing_left()
