"""Executors that die with requests open: every call is answered, and only who did it pays."""

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from dspymq import exceptions
from dspymq.job import Job
from tests.faults.system import PATIENCE_S, Bystander, System, running_system
from tests.lm import expected_answer
from tests.processes import is_alive, wait_until


@pytest.fixture(scope="module")
def system() -> Iterator[System]:
    with running_system(processes=2, concurrency=4) as made:
        yield made


@pytest.fixture(autouse=True)
def whole_again(system: System) -> Iterator[None]:
    yield
    system.lm.script(hang=False)
    system.lm.release()
    system.lm.wait_idle()
    system.pool.wait_ready(2)
    system.still_serves()
    assert system.client.stats()["jobs"]["live"] == 0


def open_calls(system: System, label: str, count: int) -> list[Job]:
    """So many calls, each with its request open at the LM, and told who runs it."""
    jobs = [
        system.client.submit("qa", {"question": f"#job={label}{n} #hang"}, watch=["started"], timeout_s=60)
        for n in range(count)
    ]
    for n in range(count):
        system.lm.wait_open(f"{label}{n}")
    wait_until(lambda: all(job.worker for job in jobs), 10.0, "started")
    return jobs


def starts(mark: Path) -> int:
    return len(mark.read_text().splitlines())


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGABRT, signal.SIGSEGV])
def test_a_killed_executor_costs_its_calls_one_attempt_and_its_neighbours_none(
    system: System, number: signal.Signals
) -> None:
    label = number.name.lower()
    jobs = open_calls(system, label, 8)
    victim = jobs[0].worker
    assert victim is not None
    hit = [n for n, job in enumerate(jobs) if job.worker == victim]
    assert len(hit) == 4
    for n in hit:
        system.lm.script(f"{label}{n}", hang=False)
    os.kill(system.pool.pid_of(victim), number)
    for n in hit:
        assert jobs[n].result(PATIENCE_S).attempt == 2
        assert system.lm.job(f"{label}{n}").requests == 2
    others = [n for n in range(8) if n not in hit]
    assert not any(jobs[n].done() for n in others)
    for n in others:
        system.lm.release(f"{label}{n}")
        assert jobs[n].result(PATIENCE_S).attempt == 1
        assert system.lm.job(f"{label}{n}").requests == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_what_a_terminal_or_a_service_manager_sends_to_everybody_ends_no_executor(
    system: System, number: signal.Signals
) -> None:
    """It is the supervisor's to act on: the executors go on with what they have."""
    label = number.name.lower()
    jobs = open_calls(system, label, 8)
    before = {system.pool.pid_of(job.worker) for job in jobs if job.worker}
    for pid in before:
        os.kill(pid, number)
    system.lm.release()
    assert [job.result(PATIENCE_S).attempt for job in jobs] == [1] * 8
    assert before <= set(system.pool.executor_pids())


def test_all_executors_killed_at_once_and_again(system: System) -> None:
    """Two whole generations die, with calls open and more in the queue; nobody gets an error."""
    lm = system.lm
    lm.script(hang=True)
    jobs = [system.client.submit("qa", {"question": f"generation {n}"}, timeout_s=60) for n in range(24)]
    killed: set[int] = set()
    for _ in range(2):
        lm.wait_for(lambda: lm.open > 0)
        wait_until(lambda: set(system.pool.executor_pids()) - killed, 10.0, "executors")
        for pid in set(system.pool.executor_pids()) - killed:
            killed.add(pid)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    lm.script(hang=False)
    lm.release()
    predictions = [job.result(PATIENCE_S) for job in jobs]
    assert [p.answer for p in predictions] == [expected_answer("answer", f"generation {n}") for n in range(24)]
    assert max(p.attempt for p in predictions) <= 3


def test_the_fork_server_killed_takes_its_executors_along_and_the_pool_recovers(system: System) -> None:
    jobs = open_calls(system, "server", 4)
    before = system.pool.executor_pids()
    for n in range(4):
        system.lm.script(f"server{n}", hang=False)
    server = int(Path(f"/proc/{before[0]}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(server, signal.SIGKILL)
    wait_until(lambda: not any(is_alive(pid) for pid in before), 5.0, "the end of its executors")
    for n, job in enumerate(jobs):
        assert job.result(PATIENCE_S).attempt == 2
        assert system.lm.job(f"server{n}").requests == 2


@pytest.mark.parametrize("code", [0, 7, -signal.SIGSEGV, -signal.SIGKILL])
def test_a_program_that_ends_its_process_twice_is_poison(system: System, tmp_path: Path, code: int) -> None:
    """It ran alone both times: two deaths are enough to convict it, and it is not run a third time."""
    mark = tmp_path / "mark"
    with pytest.raises(exceptions.Aborted) as caught:
        system.client.submit("abort", {"mark": str(mark), "code": code}).result(PATIENCE_S)
    assert (caught.value.code, caught.value.reason, caught.value.retryable) == ("ABORTED", "poison", False)
    assert starts(mark) == 2


def test_a_program_that_ends_its_process_once_is_run_again(system: System, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    job = system.client.submit("abort", {"mark": str(mark), "once": str(tmp_path / "once")})
    assert job.result(PATIENCE_S).attempt == 2
    assert starts(mark) == 2


def test_bystanders_of_a_poisonous_program_are_not_blamed(system: System, tmp_path: Path) -> None:
    """They share its process's end, run again alone, and are answered; the culprit gets no company any more."""
    jobs = open_calls(system, "beside", 6)
    for n in range(6):
        system.lm.script(f"beside{n}", hang=False)
    mark = tmp_path / "mark"
    with pytest.raises(exceptions.Aborted) as caught:
        system.client.submit("abort", {"mark": str(mark)}).result(PATIENCE_S)
    assert caught.value.reason == "poison"
    # One death in company proves nothing; then two alone.
    assert starts(mark) == 3
    system.lm.release()
    assert sorted(job.result(PATIENCE_S).attempt for job in jobs) == [1, 1, 1, 2, 2, 2]


def test_many_poisonous_programs_at_once_do_not_harm_the_calls_beside_them(system: System, tmp_path: Path) -> None:
    with Bystander(system, name="steady", attempts=3):
        bad = [system.client.submit("abort", {"mark": str(tmp_path / f"m{n}")}, timeout_s=60) for n in range(6)]
        for job in bad:
            with pytest.raises(exceptions.DspymqError) as caught:
                job.result(60)
            assert caught.value.reason in ("poison", "worker_lost")
        assert all(starts(tmp_path / f"m{n}") <= 4 for n in range(6))


def test_no_redeliver_means_never_twice(system: System, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    with pytest.raises(exceptions.Unavailable) as caught:
        system.client.submit("abort", {"mark": str(mark)}, redeliver=False).result(PATIENCE_S)
    assert caught.value.reason == "worker_lost"
    assert starts(mark) == 1


def test_a_stream_whose_executor_dies_begins_again_and_ends_whole(system: System) -> None:
    question = "#job=cut #tokens=300 #chunk=4 #hang_after=60 #fail_first=1"
    job = system.client.submit("qa", {"question": question}, stream=True, watch=["started"], timeout_s=60)
    system.lm.wait_for(lambda: system.lm.job("cut").pieces >= 60)
    wait_until(lambda: job.worker and len(job.text.get("answer", "")) > 100, 10.0, "the beginning")
    assert job.worker is not None
    os.kill(system.pool.pid_of(job.worker), signal.SIGKILL)
    text, resets = "", 0
    for chunk in job:
        if chunk.reset:
            text, resets = "", resets + 1
        text += chunk.text
    prediction = job.result(PATIENCE_S)
    assert prediction.attempt == 2
    assert resets >= 1
    assert text == prediction.answer == job.text["answer"]
    assert len(text.split()) == 300
