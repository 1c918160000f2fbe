"""`dspymq jobs`, `drain` and `undrain` against a real broker and pool."""

import json
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from dspymq import Cancelled, Client
from dspymq.cli.exit_codes import ExitCode
from tests.integration.cli_system import Shell
from tests.lm import ScriptedLM
from tests.processes import RunningBroker, clean_environ, running, running_broker, running_pool


@pytest.fixture(scope="module")
def lm() -> Iterator[ScriptedLM]:
    with ScriptedLM() as lm:
        yield lm


@pytest.fixture(scope="module")
def broker(lm: ScriptedLM) -> Iterator[RunningBroker]:
    with running_broker() as broker, running_pool(broker, lm=lm, processes=1, concurrency=2, name="pool-a"):
        yield broker


def test_a_job_is_listed_shown_cancelled_retried_and_dropped(broker: RunningBroker, lm: ScriptedLM) -> None:
    shell = Shell(broker.clients)
    with Client(broker.clients, name="tester") as client:
        job = client.submit("question -> answer", {"question": "wait #job=listed #hang"})
        lm.wait_open("listed")
        rows = json.loads(shell("jobs", "ls", "--json").out)["jobs"]
        assert [(row["job"], row["program"], row["flow"]) for row in rows] == [(job.id, "_inline", "tester")]
        shown = json.loads(shell("jobs", "show", job.id, "--json").out)
        assert shown["attempt"] == 1
        assert shown["attached"]
        assert job.id in shell("jobs", "ls").out
        assert shell("jobs", "drop", job.id).code == ExitCode.STATE
        assert "is cancelling" in shell("jobs", "cancel", job.id).out
        with pytest.raises(Cancelled):
            job.result(10)
    assert shell("jobs", "show", "nobody").code == ExitCode.NOT_FOUND


def test_a_drained_worker_gets_nothing_until_it_is_undrained(broker: RunningBroker, lm: ScriptedLM) -> None:
    shell = Shell(broker.clients)
    assert "pool-a is draining" in shell("drain", "pool-a").out
    with Client(broker.clients) as client:
        job = client.submit("question -> answer", {"question": "hello #job=drained"})
        client.ping()
        assert lm.job("drained").requests == 0
        assert "pool-a is ready" in shell("undrain", "pool").out
        assert job.result(10).answer
    assert shell("drain", "nobody").code == ExitCode.NOT_FOUND


def test_status_watch_goes_on_until_ctrl_c(broker: RunningBroker) -> None:
    command = ["status", "--watch", "--interval", "0.1", "--json", "--broker", broker.clients]
    with running("watch", command, clean_environ()) as process:
        lines = [process.first_line() for _ in range(3)]
        assert all(json.loads(line)["stats"]["workers"] == 1 for line in lines)
        assert process.kill(signal.SIGINT) == ExitCode.INTERRUPTED


def test_events_are_shown_as_they_happen(broker: RunningBroker) -> None:
    command = ["events", "job.done", "--json", "--broker", broker.clients]
    with (
        running("events", command, clean_environ()) as process,
        Client(broker.clients) as client,
        ThreadPoolExecutor(1) as threads,
    ):
        line = threads.submit(process.first_line)
        jobs = set()
        while not line.done():
            job = client.submit("question -> answer", {"question": "e"})
            job.result(10)
            jobs.add(job.id)
        event = json.loads(line.result())
        assert (event["kind"], event["details"]["code"]) == ("job.done", "OK")
        assert event["details"]["job"] in jobs
        assert process.kill(signal.SIGINT) == ExitCode.INTERRUPTED


def test_python_hears_events(broker: RunningBroker) -> None:
    with Client(broker.clients) as client, client.subscribe("job") as events:
        job = client.submit("question -> answer", {"question": "hello"})
        job.result(10)
        kinds = []
        for event in events:
            if event.details["job"] == job.id:
                kinds.append(event.kind)
            if event.kind == "job.done" and event.details["job"] == job.id:
                break
        assert kinds == ["job.submitted", "job.dispatched", "job.done"]
