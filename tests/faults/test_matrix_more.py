"""Beside the cells of the matrix of faults: other places where a job can be, and two victims at once."""

import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from tests.faults.matrix_processes import ORPHAN_MS, go_on, kill_executor, pids_in, stop
from tests.faults.matrix_system import CLIENTS, Keeper, MatrixSystem
from tests.faults.system import PATIENCE_S
from tests.faults.test_matrix import keeper
from tests.integration.test_done_restarts import adopted
from tests.lm import expected_answer
from tests.processes import wait_until

__all__ = ["keeper"]

pytestmark = [pytest.mark.soak, pytest.mark.timeout(180)]

HANGS = "#hang #fail_first=1"


@pytest.fixture
def system(keeper: Keeper) -> Iterator[MatrixSystem]:
    """Whole before, and whole again after what the test did to it."""
    with keeper.system() as system:
        yield system
        system.let_go()
        system.settle()
        fresh = system.submit()
        assert system.caller.wait_for(fresh, "end")["attempt"] == system.lm.job(fresh).requests == 1
        system.settle()
        wait_until(lambda: system.clients() == CLIENTS, PATIENCE_S, "the end of sessions")


def answered(system: MatrixSystem, job: str, *, attempt: int, requests: int) -> None:
    """It ends well, in this attempt, with so many requests at the LM."""
    end = system.caller.wait_for(job, "end")
    assert (end["code"], end["attempt"], system.lm.job(job).requests) == ("OK", attempt, requests), end
    assert end["answer"] == expected_answer("answer", system.inputs(job)["question"])
    assert len(system.ends(job)) <= 1


def refused(system: MatrixSystem, job: str, reason: str, *, requests: int) -> None:
    """It ends with this reason, after so many requests, of which none is open."""
    end = system.caller.wait_for(job, "end")
    assert (end["reason"], system.lm.job(job).requests) == (reason, requests), end
    system.lm.wait_for(lambda: system.lm.job(job).open == 0)


def running(system: MatrixSystem, script: str = HANGS, **options: Any) -> str:
    """A job whose request is open at the LM."""
    job = system.submit(script, **options)
    system.lm.wait_open(job)
    return job


def in_the_pipe(system: MatrixSystem, size: int) -> tuple[str, int]:
    """A job whose result its supervisor, which stands still, has not read; and its executor."""
    job = running(system, program="large", size=size, tells=True)
    (executor,) = pids_in(system.mark(job))
    stop(system.pool.pid)
    system.lm.release(job)
    wait_until(system.mark(f"{job}.half_way").exists, PATIENCE_S, "its result in the pipe")
    return job, executor


def kill_broker(system: MatrixSystem) -> None:
    system.brokers.kill()
    system.brokers.start()


def kill_pool(system: MatrixSystem) -> None:
    system.pools.end(signal.SIGKILL)
    system.pools.start()


# -- other places -----------------------------------------------------------------------------------------------------


def test_a_whole_result_in_the_pipe_of_an_executor_that_was_killed_counts(system: MatrixSystem) -> None:
    """R-6.28."""
    job, executor = in_the_pipe(system, 100_000)
    kill_executor(executor)
    go_on(system.pool.pid)
    answered(system, job, attempt=1, requests=1)


@pytest.mark.parametrize("size", [100_000, 12_000_000])
def test_a_result_in_the_pipe_of_a_supervisor_that_is_missed_is_delivered(system: MatrixSystem, size: int) -> None:
    job, _ = in_the_pipe(system, size)
    wait_until(lambda: not system.pool.row(), PATIENCE_S, "its loss")
    go_on(system.pool.pid)
    answered(system, job, attempt=1, requests=1)


def test_a_result_in_the_pipe_of_a_supervisor_that_was_killed_is_lost(system: MatrixSystem) -> None:
    job, _ = in_the_pipe(system, 100_000)
    kill_pool(system)
    answered(system, job, attempt=2, requests=2)


@pytest.mark.parametrize("first", ["supervisor", "broker"])
def test_a_dispatch_in_the_socket_of_a_supervisor_whose_broker_was_killed(system: MatrixSystem, first: str) -> None:
    """Whether the pool finds it there before or after the next broker has come: it is run once."""
    stop(system.pool.pid)
    job = system.submit()
    system.wait_state(job, "dispatched")
    system.brokers.kill()
    if first == "supervisor":
        go_on(system.pool.pid)
    system.brokers.start()
    go_on(system.pool.pid)
    answered(system, job, attempt=1, requests=1)


def test_a_client_that_comes_back_after_orphan_ms_is_told_so(system: MatrixSystem) -> None:
    job = running(system)
    stop(system.caller.pid)
    system.wait_state(job, "done")
    system.lm.wait_disconnected(job, timeout_s=ORPHAN_MS / 1000)
    go_on(system.caller.pid)
    refused(system, job, "client_gone", requests=1)


@pytest.mark.parametrize("point", ["queued", "running"])
def test_with_keep_a_job_goes_on_without_its_client(system: MatrixSystem, point: str) -> None:
    if point == "queued":
        system.pools.end()
        job = system.submit(on_disconnect="keep")
        system.wait_state(job, "queued")
    else:
        job = running(system, on_disconnect="keep")
    os.kill(system.caller.pid, signal.SIGKILL)
    wait_until(lambda: not system.row_of(job)["attached"], PATIENCE_S, "the end of its session")
    if point == "queued":
        system.pools.start()
    system.lm.release(job)
    system.wait_state(job, "done")
    system.new_caller()
    system.ask_again(job)
    answered(system, job, attempt=1, requests=1)


# -- two victims at once ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("back", ["client", "pool"])
def test_executor_and_broker_killed(system: MatrixSystem, back: str) -> None:
    """The pool gives the attempt back to the next broker: of a job that it knows, or of one that then vanishes (R-8.6).

    Then the client's job is a new one, and its attempts count anew.
    """
    job = running(system)
    last = system.caller.pid if back == "pool" else system.pool.pid
    system.brokers.kill()
    kill_executor(pids_in(system.mark(job))[0])
    wait_until(lambda: "executor.died" in system.pool.process.stderr(), PATIENCE_S, "its end")
    stop(last)
    system.brokers.start()
    if back == "client":
        system.wait_state(job, "queued")
    else:
        wait_until(lambda: adopted(system.watcher) == 1, PATIENCE_S, "its adoption")
        wait_until(lambda: not system.row_of(job), PATIENCE_S, "its end")
    go_on(last)
    answered(system, job, attempt=2 if back == "client" else 1, requests=2)


def test_supervisor_and_broker_killed(system: MatrixSystem) -> None:
    """The next broker knows nothing of an earlier attempt, and nobody has it: it runs again after `adopt_ms`."""
    job = running(system)
    os.kill(system.pool.pid, signal.SIGKILL)
    kill_broker(system)
    kill_pool(system)
    answered(system, job, attempt=1, requests=2)


def test_client_and_executor_killed(system: MatrixSystem) -> None:
    """It runs again, and is stopped for its client."""
    job = running(system, "#hang")
    os.kill(system.caller.pid, signal.SIGKILL)
    kill_executor(pids_in(system.mark(job))[0])
    system.wait_state(job, "done")
    system.new_caller()
    system.ask_again(job)
    refused(system, job, "client_gone", requests=2)


def test_client_and_supervisor_killed(system: MatrixSystem) -> None:
    """No pool comes back in time: it is stopped in the queue."""
    job = running(system)
    os.kill(system.caller.pid, signal.SIGKILL)
    system.pools.end(signal.SIGKILL)
    system.wait_state(job, "done")
    system.new_caller()
    system.ask_again(job)
    system.pools.start()
    refused(system, job, "client_gone", requests=1)


@pytest.mark.parametrize("asked", ["in time", "too late"])
def test_client_and_broker_killed(system: MatrixSystem, asked: str) -> None:
    """Only its worker knows of the job then: for `orphan_ms`, after which it is stopped (R-8.6)."""
    job = running(system)
    os.kill(system.caller.pid, signal.SIGKILL)
    kill_broker(system)
    wait_until(lambda: system.row_of(job).get("program") == "_unclaimed", PATIENCE_S, "its adoption")
    if asked == "too late":
        system.wait_state(job, "done")
        system.lm.wait_disconnected(job)
    system.new_caller()
    system.ask_again(job)
    if asked == "too late":
        refused(system, job, "client_gone", requests=1)
    else:
        wait_until(lambda: system.row_of(job).get("attached"), PATIENCE_S, "its client")
        system.lm.release(job)
        answered(system, job, attempt=1, requests=1)


def test_broker_killed_while_its_supervisor_is_missed(system: MatrixSystem) -> None:
    """The next broker waits for it, and it goes on."""
    job = running(system)
    stop(system.pool.pid)
    wait_until(lambda: not system.pool.row(), PATIENCE_S, "its loss")
    kill_broker(system)
    wait_until(lambda: system.row_of(job).get("state") == "queued", PATIENCE_S, "the job at the next broker")
    go_on(system.pool.pid)
    system.lm.release(job)
    answered(system, job, attempt=1, requests=1)


def test_everybody_stands_still_for_a_while(system: MatrixSystem) -> None:
    """And goes on in whatever order: nobody is blamed for a machine that slept."""
    job = running(system)
    (executor,) = pids_in(system.mark(job))
    everybody = [executor, system.pool.pid, system.brokers.pid, system.caller.pid]
    for pid in everybody:
        stop(pid)
    # The watcher does not sleep: it tells when the others would have missed each other.
    wait_until(lambda: not system.watcher._inner.driver.core.session.live, PATIENCE_S, "somebody who misses the broker")
    for pid in everybody:
        go_on(pid)
    system.lm.release(job)
    answered(system, job, attempt=1, requests=1)
