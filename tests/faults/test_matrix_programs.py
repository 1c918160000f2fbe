"""Programs that stop everything beside them, or close what their process stands on: what it costs them, and others."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from dspymq import exceptions
from dspymq.job import Job
from tests.faults.matrix_processes import pids_in
from tests.faults.system import PATIENCE_S, System, running_system
from tests.lm import expected_answer
from tests.processes import is_alive, wait_until

STALL_MS = 1_000
SLOTS = 4


@pytest.fixture(scope="module")
def whole() -> Iterator[System]:
    """One executor: everybody is everybody's neighbour."""
    with running_system(
        processes=1,
        concurrency=SLOTS,
        targets=["tests.faults.matrix_rude"],
        pool_environ={
            "DSPYMQ_WORKER_STALL_MS": str(STALL_MS),
            "DSPYMQ_WORKER_BEAT_MS": "100",
            "DSPYMQ_WORKER_CANCEL_GRACE_MS": "500",
        },
        broker_environ={"DSPYMQ_BROKER_GRACE_MS": "500"},
    ) as made:
        yield made


@pytest.fixture
def system(whole: System) -> Iterator[System]:
    """Whole before and after."""
    yield whole
    whole.lm.release()
    one_executor(whole)
    whole.still_serves()
    wait_until(lambda: whole.client.stats()["jobs"]["live"] == 0, PATIENCE_S, "the end of every job")


def neighbours(system: System, label: str) -> dict[str, Job]:
    """Two calls that are open at the LM."""
    names = [f"{label}-{n}" for n in range(2)]
    jobs = {name: system.client.submit("qa", {"question": f"#job={name} #hang"}) for name in names}
    for name in names:
        system.lm.wait_open(name)
    return jobs


def end_well(system: System, jobs: dict[str, Job], attempts: int) -> None:
    """Each is answered rightly, in this attempt, with as many requests, and nobody convicted it of anything."""
    waiting = set(jobs)
    while waiting:
        # Those that run again may do so alone, one after the other.
        name = system.lm.wait_for(lambda: next((n for n in waiting if at_lm(system, n, attempts)), ""), PATIENCE_S)
        assert system.client.request("jobs.get", {"job": jobs[name].id})["convictions"] == 0
        system.lm.release(name)
        prediction = jobs[name].result(PATIENCE_S)
        assert prediction.answer == expected_answer("answer", f"#job={name}")
        assert prediction.attempt == system.lm.job(name).requests == attempts
        waiting.remove(name)


def at_lm(system: System, name: str, requests: int) -> bool:
    """Whether its request of this number is open."""
    job = system.lm.job(name)
    return job.requests == requests and job.open == 1


@pytest.mark.parametrize("program", ["blocks", "grips"])
def test_what_stands_still_past_the_stall_delays_its_neighbours_and_fails_none(
    system: System, tmp_path: Path, program: str
) -> None:
    before = system.pool.executor_pids()
    jobs = neighbours(system, f"delayed-{program}")
    blocked = system.client.submit(program, {"ms": 2 * STALL_MS, "mark": str(tmp_path / "mark")})
    wait_until(lambda: "stalled" in [one["state"] for one in system.pool.executors()], PATIENCE_S, "a stall")
    assert blocked.result(PATIENCE_S).attempt == 1
    end_well(system, jobs, attempts=1)
    assert system.pool.executor_pids() == before


@pytest.mark.soak
def test_ten_seconds_of_c_that_hold_the_gil_cost_nobody_an_attempt(tmp_path: Path) -> None:
    """With the settings that a pool has by itself: it stalls after 5 s."""
    with running_system(processes=1, targets=["tests.faults.matrix_rude"]) as system:
        jobs = neighbours(system, "ten")
        held = system.client.submit("grips", {"ms": 10_000, "mark": str(tmp_path / "mark")})
        wait_until(lambda: "stalled" in [one["state"] for one in system.pool.executors()], PATIENCE_S, "a stall")
        assert held.result(PATIENCE_S).attempt == 1
        end_well(system, jobs, attempts=1)
        system.still_serves()


def test_a_loop_that_is_blocked_for_good_costs_its_neighbours_an_attempt_at_most(
    system: System, tmp_path: Path
) -> None:
    """Its deadline ends the call, its grace the process; the neighbours run again and are not blamed."""
    jobs = neighbours(system, "for-good")
    mark = tmp_path / "mark"
    blocked = system.client.submit("blocks", {"ms": 600_000, "mark": str(mark)}, timeout_s=1.0)
    with pytest.raises(exceptions.DeadlineExceeded) as caught:
        blocked.result(PATIENCE_S)
    assert caught.value.reason == "deadline"
    end_well(system, jobs, attempts=2)
    (pid,) = pids_in(mark)
    wait_until(lambda: not is_alive(pid), PATIENCE_S, "its end")


def test_a_program_that_closes_all_files_is_poison_and_its_neighbours_run_again(system: System, tmp_path: Path) -> None:
    """Its pipe with them. It does so each time; what ran beside it loses one attempt."""
    jobs = neighbours(system, "closed")
    mark = tmp_path / "mark"
    closes = system.client.submit("closes", {"which": -1, "mark": str(mark)})
    # All three run alone from now on, one after the other in any order.
    end_well(system, jobs, attempts=2)
    with pytest.raises(exceptions.Aborted) as caught:
        closes.result(PATIENCE_S)
    assert caught.value.reason == "poison"
    pids = pids_in(mark)
    # Beside others, and then twice alone.
    assert len(set(pids)) == len(pids) <= 3
    wait_until(lambda: not any(is_alive(pid) for pid in pids), PATIENCE_S, "their end")


@pytest.mark.soak
def test_whatever_file_a_program_closes_its_call_ends_and_the_pool_serves(system: System, tmp_path: Path) -> None:
    """One after the other, each in a fresh process: its pipe, its loop's own files, its connections."""
    which, count = 0, 1
    ends = []
    while which < count:
        fresh(system)
        # So that there is a connection to the LM, too.
        system.ask(f"before {which}")
        once = tmp_path / f"once{which}"
        job = system.client.submit("closes", {"which": which, "mark": str(tmp_path / "mark"), "once": str(once)})
        prediction = job.result(PATIENCE_S)
        if prediction.attempt == 1:
            count = max(count, prediction.count)
            assert prediction.which == which
        ends.append(f"{once.read_text()} attempt {prediction.attempt}")
        assert prediction.attempt <= 2, ends
        one_executor(system)
        for n in range(SLOTS):
            question = f"after {which} {n}"
            assert system.ask(question, timeout_s=10.0) == expected_answer("answer", question), ends
        which += 1
    print(ends)
    assert len(ends) > 8


def one_executor(system: System) -> None:
    """Wait until there is one, which takes jobs."""
    wait_until(lambda: len(system.pool.executors()) == 1, PATIENCE_S, "the end of what was replaced")
    system.pool.wait_ready(1)


def fresh(system: System) -> None:
    """Have the executor replaced."""
    (pid,) = system.pool.executor_pids()
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: system.pool.executor_pids() not in ([pid], []), PATIENCE_S, "another executor")
    one_executor(system)
