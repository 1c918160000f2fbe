"""Programs that ignore their cancel: the process pays with its life, the neighbours do not, a replacement serves."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dspymq import exceptions
from dspymq.job import Job
from tests.faults.system import PATIENCE_S, Bystander, System, resident_mib, running_system
from tests.lm import expected_answer
from tests.processes import is_alive, wait_until

STUBBORN: list[tuple[str, dict[str, Any]]] = [("spin", {}), ("deaf", {"ms": 600_000}), ("shielded", {})]


@pytest.fixture(scope="module")
def system() -> Iterator[System]:
    """One executor of four slots: everybody is everybody's neighbour."""
    with running_system(
        processes=1,
        concurrency=4,
        broker_environ={"DSPYMQ_BROKER_GRACE_MS": "1000"},
        pool_arguments=["--grace", "3"],
        pool_environ={"DSPYMQ_WORKER_STALL_MS": "2000", "DSPYMQ_WORKER_BEAT_MS": "200"},
    ) as made:
        yield made


@pytest.fixture(autouse=True)
def whole_again(system: System) -> Iterator[None]:
    system.pool.wait_ready(1)
    yield
    system.lm.release()
    wait_until(lambda: len(system.pool.executors()) == 1, 20.0, "the end of what was replaced")
    system.pool.wait_ready(1)
    system.still_serves()
    assert system.client.stats()["jobs"]["live"] == 0


def start(system: System, program: str, inputs: dict[str, Any], mark: Path, timeout_s: float = 60) -> tuple[Job, int]:
    """The job, and the process that runs it."""
    job = system.client.submit(program, {**inputs, "mark": str(mark)}, timeout_s=timeout_s)
    wait_until(lambda: mark.exists() and mark.read_text().endswith("\n"), 10.0, "its start")
    return job, int(mark.read_text().split()[-1])


@pytest.mark.parametrize(("program", "inputs"), STUBBORN, ids=[name for name, _ in STUBBORN])
@pytest.mark.parametrize("how", ["cancel", "deadline"])
def test_its_process_is_killed_and_its_neighbours_live(
    system: System, tmp_path: Path, program: str, inputs: dict[str, Any], how: str
) -> None:
    job, pid = start(system, program, inputs, tmp_path / "mark", timeout_s=1.5 if how == "deadline" else 60)
    names = [f"{program}-{how}-{n}" for n in range(2)]
    neighbours = [system.client.submit("qa", {"question": f"#job={name} #hang"}) for name in names]
    for name in names:
        system.lm.wait_open(name)
    if how == "cancel":
        job.cancel()
    with pytest.raises(exceptions.Cancelled if how == "cancel" else exceptions.DeadlineExceeded):
        job.result(PATIENCE_S)
    # A replacement takes new calls while the neighbours are still at work in the condemned process.
    wait_until(lambda: len(system.pool.executors()) == 2, 10.0, "a replacement")
    assert system.ask("beside") == expected_answer("answer", "beside")
    assert is_alive(pid)
    for name, neighbour in zip(names, neighbours, strict=True):
        system.lm.release(name)
        assert neighbour.result(PATIENCE_S).attempt == 1
        assert system.lm.job(name).requests == 1
    wait_until(lambda: not is_alive(pid), 10.0, "the end of the condemned process")
    assert (tmp_path / "mark").read_text().split() == [str(pid)]


@pytest.mark.parametrize("how", ["cancel", "deadline"])
def test_a_c_call_that_holds_the_gil_costs_its_neighbours_an_attempt_at_most(
    system: System, tmp_path: Path, how: str
) -> None:
    """The loop itself stands still, so its neighbours cannot be told from it: they run again, unblamed."""
    names = [f"grip-{how}-{n}" for n in range(2)]
    neighbours = [system.client.submit("qa", {"question": f"#job={name} #hang"}, timeout_s=60) for name in names]
    for name in names:
        system.lm.wait_open(name)
        # Run again they run alone, one after the other, in any order.
        system.lm.script(name, hang=False)
    job, pid = start(system, "grip", {}, tmp_path / "mark", timeout_s=1.5 if how == "deadline" else 60)
    if how == "cancel":
        job.cancel()
    with pytest.raises(exceptions.Cancelled if how == "cancel" else exceptions.DeadlineExceeded):
        job.result(PATIENCE_S)
    for name, neighbour in zip(names, neighbours, strict=True):
        system.lm.wait_for(lambda name=name: system.lm.job(name).requests == 2, PATIENCE_S)
        system.lm.release(name)
        assert neighbour.result(PATIENCE_S).attempt == 2
    assert not is_alive(pid)


def test_a_whole_pool_of_stubborn_programs_is_replaced(system: System, tmp_path: Path) -> None:
    started = [start(system, "deaf", {"ms": 600_000}, tmp_path / f"mark{n}") for n in range(4)]
    waiting = system.client.submit("qa", {"question": "in the queue"}, timeout_s=60)
    for job, _ in started:
        job.cancel()
    for job, _ in started:
        with pytest.raises(exceptions.Cancelled):
            job.result(PATIENCE_S)
    assert waiting.result(PATIENCE_S).answer == expected_answer("answer", "in the queue")
    for _, pid in started:
        wait_until(lambda pid=pid: not is_alive(pid), 10.0, "its end")


def test_a_deadline_ends_the_call_even_though_the_program_never_ends(system: System, tmp_path: Path) -> None:
    """Nobody cancels: the timeout that was asked for, plus the grace, and the client has its answer."""
    began = time.monotonic()
    job, _ = start(system, "spin", {}, tmp_path / "mark", timeout_s=1.0)
    with pytest.raises(exceptions.DeadlineExceeded) as caught:
        job.result(PATIENCE_S)
    assert caught.value.reason == "deadline"
    assert time.monotonic() - began < 1.0 + 1.0 + 2.5


def test_a_memory_hog_fails_alone(system: System) -> None:
    pid = system.pool.executor_pids()[0]
    with Bystander(system), pytest.raises(exceptions.ProgramError) as caught:
        system.client.submit("glutton", {"mib": 300}).result(PATIENCE_S)
    assert "MemoryError" in caught.value.message
    assert system.pool.executor_pids() == [pid]


def test_an_output_that_is_too_large_fails_alone(system: System) -> None:
    before = resident_mib(system.broker.pid)
    with Bystander(system):
        for _ in range(3):
            with pytest.raises(exceptions.ResourceExhausted) as caught:
                system.client.submit("fat", {"size": 60 * 1024 * 1024}).result(PATIENCE_S)
            assert caught.value.reason == "result_too_large"
        assert len(system.client.call("fat", size=15 * 1024 * 1024).text) == 15 * 1024 * 1024
    assert resident_mib(system.broker.pid) - before < 100
