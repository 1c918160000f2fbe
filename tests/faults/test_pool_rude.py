"""Programs that fork, print, hold the interpreter or lose their pipe: what it costs them, and nobody else."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.system import PATIENCE_S, Bystander, System, running_system
from tests.lm import expected_answer
from tests.processes import is_alive, session_members, wait_until

FORKS = ["child_returns", "child_waits_on_the_loop", "child_lives_on", "subprocess", "thread", "many"]


@pytest.fixture(scope="module")
def system() -> Iterator[System]:
    with running_system(
        processes=1,
        concurrency=6,
        targets=["tests.faults.pool_programs"],
        pool_environ={"DSPYMQ_WORKER_STALL_MS": "2000", "DSPYMQ_WORKER_BEAT_MS": "200"},
    ) as made:
        yield made


@pytest.fixture(autouse=True)
def still_serves(system: System) -> Iterator[None]:
    yield
    system.pool.wait_ready(1)
    system.still_serves()


@pytest.mark.parametrize("how", FORKS)
def test_a_program_that_forks_has_one_end_and_its_neighbours_one_request_each(
    system: System, tmp_path: Path, how: str
) -> None:
    """The child inherits a whole executor: it must not answer, nor run its neighbours' calls a second time."""
    mark = tmp_path / "mark"
    with Bystander(system, at_least=2):
        before = system.pool.executor_pids()
        prediction = system.client.submit("forks", {"how": how, "mark": str(mark)}).result(PATIENCE_S)
        assert prediction.attempt == 1
        assert [prediction.pid] == before
    assert str(prediction.pid) in mark.read_text().split()
    assert system.pool.executor_pids() == before


def test_a_synchronous_program_that_forks_leaves_no_child_behind(system: System, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    with Bystander(system, at_least=2):
        prediction = system.client.submit("forks_in_thread", {"mark": str(mark)}).result(PATIENCE_S)
    assert prediction.attempt == 1
    pids = wait_until(lambda: len(set(mark.read_text().split())) == 2 and mark.read_text().split(), 10.0, "two marks")
    children = [int(pid) for pid in pids if int(pid) != prediction.pid]
    wait_until(lambda: not any(is_alive(pid) for pid in children), 10.0, "the child's end")


def test_a_child_that_lives_on_ends_with_its_executor(system: System, tmp_path: Path) -> None:
    """In whatever thread it was forked, and whatever it does."""
    hang = tmp_path / "mark"
    system.client.submit("forks", {"how": "child_lives_on", "mark": str(hang)}).result(PATIENCE_S)
    (executor,) = system.pool.executor_pids()
    children = [pid for pid in session_members(system.pool.pid) if parent_of(pid) == executor]
    assert children
    os.kill(executor, signal.SIGKILL)
    wait_until(lambda: not any(is_alive(pid) for pid in children), 3.0, "their end")


def parent_of(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def test_an_executor_whose_child_lives_on_is_known_to_be_dead_at_once(system: System, tmp_path: Path) -> None:
    """Children inherit its pipe and its sentinel; a death that waits for them would be seen when they end."""
    system.client.submit("forks", {"how": "child_lives_on", "mark": str(tmp_path / "mark")}).result(PATIENCE_S)
    began = time.monotonic()
    job = system.client.submit("loses", {"what": "segfault", "once": str(tmp_path / "once")})
    assert job.result(PATIENCE_S).attempt == 2
    assert time.monotonic() - began < 5


def test_megabytes_of_output_cost_nobody_anything(system: System) -> None:
    # What ran a job of the test before alone may be about to end.
    wait_until(lambda: len(system.pool.executors()) == 1, PATIENCE_S, "the end of others")
    pids = system.pool.executor_pids()
    stdout = system.pool.process.process.stdout
    assert stdout is not None
    # Somebody must read it, as of any process.
    threading.Thread(target=stdout.read, daemon=True).start()
    with Bystander(system, at_least=3):
        assert system.client.submit("prints", {"mib": 8}).result(PATIENCE_S).attempt == 1
    assert system.pool.executor_pids() == pids


def test_a_held_interpreter_delays_its_neighbours_and_fails_none(system: System) -> None:
    """Longer than the silence after which it gets no jobs, and shorter than anybody's deadline."""
    pids = system.pool.executor_pids()
    with Bystander(system, at_least=1):
        assert system.client.submit("holds_gil", {"ms": 4_000}).result(PATIENCE_S).attempt == 1
    assert system.pool.executor_pids() == pids


@pytest.mark.parametrize("what", ["pipe", "segfault"])
def test_who_loses_its_process_runs_again(system: System, tmp_path: Path, what: str) -> None:
    before = system.pool.executor_pids()
    began = time.monotonic()
    job = system.client.submit("loses", {"what": what, "once": str(tmp_path / "once")})
    assert job.result(PATIENCE_S).attempt == 2
    assert time.monotonic() - began < 10
    wait_until(lambda: not set(before) & set(system.pool.executor_pids()), 10.0, "a replacement")
    if what == "segfault":
        # The interpreter's own words, file and line included, are in the log.
        assert "pool_programs.py" in system.pool.process.stderr()


def test_signal_handlers_of_a_program_end_nobody(system: System, tmp_path: Path) -> None:
    with Bystander(system, at_least=3):
        job = system.client.submit("loses", {"what": "signals", "once": str(tmp_path / "once")})
        assert job.result(PATIENCE_S).attempt == 1
    assert system.ask("after") == expected_answer("answer", "after")
