"""File descriptors run out: in a supervisor, in an executor, in a client. (The broker's: test_hostile_clients.)"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from dspymq import exceptions
from tests.faults.system import System, open_files, running_system
from tests.lm import expected_answer
from tests.processes import clean_environ, wait_until


@contextlib.contextmanager
def few_files(pid: int, spare: int) -> Iterator[None]:
    """The process may open so many more."""
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (open_files(pid) + spare, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


@pytest.fixture(scope="module")
def system() -> Iterator[System]:
    with running_system(processes=2, concurrency=2, targets=["tests.faults.file_programs"]) as made:
        yield made


@pytest.mark.parametrize("spare", [-20, 3])
def test_a_supervisor_without_files_starts_executors_when_it_has_some_again(system: System, spare: int) -> None:
    """What is there serves on; what is wrong is said, and not over and over."""
    pool = system.pool
    spoken = len(pool.process.stderr())
    before = open_files(pool.pid)
    with few_files(pool.pid, spare):
        victim, other = pool.executor_pids()
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda: "executor.start_failed" in pool.process.stderr()[spoken:], 10.0, "a failed start")
        assert system.ask("one is left") == expected_answer("answer", "one is left")
    pool.wait_ready(2)
    assert other in pool.executor_pids()
    lines = [json.loads(line) for line in pool.process.stderr()[spoken:].splitlines()]
    assert [line for line in lines if "Too many open files" in line["message"]]
    assert not [line for line in lines if line.get("event") == "pool.fault"]
    assert len([line for line in lines if line.get("event") in ("executor.start_failed", "pool.problem")]) == 2
    wait_until(lambda: open_files(pool.pid) <= before, 10.0, "no file is kept")
    system.still_serves()


def test_a_program_without_files_fails_by_its_own_error_and_its_executor_serves_on(system: System) -> None:
    pids = system.pool.executor_pids()
    for _ in range(4):
        with pytest.raises(exceptions.ProgramError, match="Too many open files"):
            system.client.call("leak", limit=100, keep=False)
    for n in range(4):
        system.ask(f"after {n}")
    assert system.pool.executor_pids() == pids


def test_an_executor_whose_files_are_leaked_is_replaced(system: System) -> None:
    """Its jobs that need a connection fail, until it is replaced; the others serve on."""
    with pytest.raises(exceptions.ProgramError, match="Too many open files"):
        system.client.call("leak", limit=100, keep=True)
    wait_until(lambda: "why='files: " in system.pool.process.stderr(), 20.0, "its replacement")
    system.pool.wait_ready(2)
    wait_until(lambda: not [one for one in system.pool.executors() if one["state"] != "ready"], 10.0, "its end")
    for n in range(8):
        system.ask(f"replaced {n}")


@pytest.mark.soak
@pytest.mark.timeout(150)
def test_a_supervisor_without_files_finds_its_broker_again(system: System) -> None:
    """The broker stands still past its death meanwhile: the session is made anew, as soon as there are files."""
    pool = system.pool
    spoken = len(pool.process.stderr())
    with few_files(pool.pid, -20):
        os.kill(system.broker.pid, signal.SIGSTOP)
        wait_until(lambda: "broker.down" in pool.process.stderr()[spoken:], 20.0, "the end of the session")
        os.kill(system.broker.pid, signal.SIGCONT)
        wait_until(lambda: "link.no_socket" in pool.process.stderr()[spoken:], 10.0, "an attempt")
    assert system.ask("with files") == expected_answer("answer", "with files")
    pool.wait_ready(2)
    assert "Traceback" not in pool.process.stderr()[spoken:]


CLIENT = """
import os, resource, sys
from dspymq import Client, exceptions
spare = int(sys.argv[2])
client = Client(sys.argv[1], timeout_s=2)
used = len(os.listdir("/proc/self/fd"))
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (used + spare, hard))
try:
    client.call("qa", question="next")
except exceptions.DspymqError as error:
    print(type(error).__name__, error.reason, error.retryable, "Too many open files" in str(error))
else:
    print("answered")
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
print(client.call("qa", question="last").answer)
client.close()
"""


@pytest.mark.parametrize("spare", [12, pytest.param(0, marks=pytest.mark.soak)])
def test_a_client_without_files_says_so_and_goes_on_when_it_has_some(system: System, spare: int) -> None:
    command = [sys.executable, "-c", CLIENT, system.broker.clients, str(spare)]
    done = subprocess.run(command, env=clean_environ(), capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 0, done.stderr
    first, last = done.stdout.splitlines()
    assert first == "BrokerUnreachable broker_unreachable True True"
    assert last == expected_answer("answer", "last")
