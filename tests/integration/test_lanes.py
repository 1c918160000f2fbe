"""Lanes keep long work and short work apart: each has slots of its own in every executor."""

import os
import signal
from collections.abc import Iterator

import pytest

from dspymq import Client, exceptions
from tests.faults.system import PATIENCE_S, System, running_system
from tests.lm import expected_answer


@pytest.fixture(scope="module")
def system() -> Iterator[System]:
    with running_system(processes=1, concurrency=2, pool_arguments=["--lane", "batch=1", "--lane", "night=3"]) as made:
        yield made


def test_the_slots_of_all_lanes_are_offered(system: System) -> None:
    assert system.pool.row()["slots"] == {"default": 2, "batch": 1, "night": 3}
    assert system.pool.executors()[0]["slots"] == {"default": 2, "batch": 1, "night": 3}


def test_long_jobs_of_one_lane_take_no_slot_of_another(system: System) -> None:
    lm = system.lm
    batch = system.client.with_options(lane="batch")
    jobs = [batch.submit("qa", {"question": f"#job=long{n} #hang"}, timeout_s=60) for n in range(4)]
    lm.wait_open("long0")
    for n in range(3):
        assert system.ask(f"short {n}") == expected_answer("answer", f"short {n}")
    assert [lm.job(f"long{n}").requests for n in range(4)] == [1, 0, 0, 0]
    for n in range(4):
        lm.wait_open(f"long{n}")
        lm.release(f"long{n}")
    assert [job.result(PATIENCE_S).attempt for job in jobs] == [1] * 4


def test_a_lane_that_nobody_serves_is_missing(system: System) -> None:
    with pytest.raises(exceptions.Unavailable) as caught:
        system.client.with_options(lane="weekly", fail_fast=True).call("qa", question="x")
    assert caught.value.reason == "no_worker"


def test_an_isolated_job_keeps_to_its_lane(system: System) -> None:
    """A job that was on a process that was killed runs again alone, in a slot of its lane."""
    job = system.client.with_options(lane="night").submit("qa", {"question": "#job=alone #hang"}, watch=["started"])
    system.lm.wait_open("alone")
    system.lm.script("alone", hang=False)

    os.kill(system.pool.pid_of(str(job.worker)), signal.SIGKILL)
    assert job.result(PATIENCE_S).attempt == 2
    system.pool.wait_ready(1)
    with Client(system.broker.clients) as client:
        assert client.stats()["slots"]["night"] == {"granted": 3, "used": 0}
