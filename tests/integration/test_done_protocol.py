"""What a broker promises over its own death, its workers' deaths, and its clients' absence, counted at the LM."""

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dspymq import Client, exceptions
from tests.faults.system import PATIENCE_S, PROGRAMS, running_system
from tests.faults.test_frozen import DEAD_S, QUICK, frozen
from tests.integration.test_done_restarts import Restartable, adopted, live, lm
from tests.lm import ScriptedLM, expected_answer
from tests.processes import clean_environ, running_broker, running_pool, wait_until

__all__ = ["lm"]

CALLS = 20

CALLER = """
import json, sys
from dspymq import Client
address, count, *more = sys.argv[1:]
client = Client(address, name="caller", timeout_s=60)
jobs = [client.submit("qa", {"question": f"#job=j{n} #hang"}) for n in range(int(count))]
print(json.dumps([[prediction.answer, prediction.attempt] for prediction in (job.result(60) for job in jobs)]))
"""

ONE_JOB = """
import sys
from dspymq import Client
client = Client(sys.argv[1], name="one")
job = client.submit("qa", {"question": sys.argv[3]}, job_id=sys.argv[2], on_disconnect="keep", watch=["accepted"])
sys.stdin.read() if len(sys.argv) > 4 else print(job.result(30).answer)
"""


@contextlib.contextmanager
def caller(address: str, count: int) -> Iterator[subprocess.Popen[str]]:
    """A process with so many calls open."""
    command = [sys.executable, "-c", CALLER, address, str(count)]
    with subprocess.Popen(command, env=clean_environ(), stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("first", ["the clients", "the pool", "the jobs' ends"])
def test_20_jobs_open_at_the_lm_over_a_sigkill_of_the_broker(first: str, lm: ScriptedLM) -> None:
    """Whoever is back first, and if they end meanwhile: 20 answers, and exactly 20 requests at the LM."""
    with (
        Restartable(adopt_ms=10_000) as brokers,
        running_pool(brokers.broker, targets=[PROGRAMS], lm=lm, processes=2, concurrency=10) as pool,  # type: ignore[arg-type]
        caller(brokers.clients, CALLS) as process,
        contextlib.ExitStack() as stack,
    ):
        lm.wait_for(lambda: lm.open == CALLS)
        if first == "the clients":
            stack.enter_context(frozen(pool.pid))
        elif first == "the pool":
            stack.enter_context(frozen(process.pid))
        brokers.kill()
        if first == "the jobs' ends":
            lm.release()
            lm.wait_idle()
        brokers.start()
        with Client(brokers.clients, name="watcher") as watcher:
            if first == "the clients":
                wait_until(lambda: live(watcher) == CALLS, 20.0, "what the clients sent again")
                assert adopted(watcher) == 0
            elif first == "the pool":
                wait_until(lambda: adopted(watcher) == CALLS, 20.0, "adoption")
            stack.close()
            if first != "the jobs' ends":
                wait_until(lambda: adopted(watcher) == CALLS and live(watcher) == CALLS, 20.0, "everybody")
                lm.release()
            found = json.loads(process.communicate(timeout=PATIENCE_S)[0])
        assert found == [[expected_answer("answer", f"#job=j{n} #hang"), 1] for n in range(CALLS)]
        assert [lm.job(f"j{n}").requests for n in range(CALLS)] == [1] * CALLS


def test_a_job_ends_while_its_client_is_away_and_is_asked_for_again_by_another_process() -> None:
    """The stored result, one request at the LM; another body under the same id is refused."""
    with running_system() as system:

        def ask(question: str, *more: str) -> subprocess.Popen[str]:
            command = [sys.executable, "-c", ONE_JOB, system.broker.clients, "the-id", question, *more]
            pipe = subprocess.PIPE
            return subprocess.Popen(command, env=clean_environ(), stdin=pipe, stdout=pipe, stderr=pipe, text=True)

        with ask("#job=away #hang", "waits") as first:
            system.lm.wait_open("away")
            first.kill()
        system.lm.release()
        wait_until(lambda: live(system.client) == 0, 10.0, "its end")
        with ask("#job=away #hang") as again:
            answer = again.communicate(timeout=PATIENCE_S)[0].split("\n")[-2]
        assert answer == expected_answer("answer", "#job=away #hang")
        assert system.lm.job("away").requests == 1
        with pytest.raises(exceptions.AlreadyExists) as caught:
            system.client.submit("qa", {"question": "another"}, job_id="the-id").result(PATIENCE_S)
        assert caught.value.reason == "id_conflict"


def test_16_jobs_on_one_executor_one_of_which_calls_os_exit(tmp_path: Path) -> None:
    """15 succeed, one is poison, and no bystander runs more than twice."""
    with running_system(processes=1, concurrency=16) as system:
        beside = [system.client.submit("qa", {"question": f"#job=b{n} #hang"}, timeout_s=60) for n in range(15)]
        for n in range(15):
            system.lm.wait_open(f"b{n}")
            # When it runs again nothing holds it.
            system.lm.script(f"b{n}", hang=False)
        poison = system.client.submit("abort", {"mark": str(tmp_path / "mark")}, timeout_s=60)
        with pytest.raises(exceptions.Aborted) as caught:
            poison.result(PATIENCE_S)
        assert caught.value.reason == "poison"
        assert [job.result(PATIENCE_S).attempt for job in beside] == [2] * 15
        assert [system.lm.job(f"b{n}").requests for n in range(15)] == [2] * 15
        assert len((tmp_path / "mark").read_text().split()) <= 3
        system.pool.wait_ready(1)
        system.still_serves()


def test_a_supervisor_stopped_past_its_death_with_one_job_running_and_one_just_dispatched() -> None:
    """One terminal each, the job that had not started reaches the LM once, and the pool serves again.

    Nobody else could run them meanwhile.
    """
    with (
        ScriptedLM() as lm,
        running_broker(environ=QUICK) as broker,
        running_pool(broker, targets=[PROGRAMS], lm=lm, concurrency=2) as pool,
        Client(broker.clients) as client,
    ):
        runs = client.submit("qa", {"question": "#job=runs #hang"}, timeout_s=60)
        lm.wait_open("runs")
        with frozen(pool.pid):
            waits = client.submit("qa", {"question": "#job=waits"}, timeout_s=60)
            wait_until(lambda: pool.row()["in_flight"].get("default") == 2, 5.0, "the dispatch")
            wait_until(lambda: pool.row() == {}, 10 * DEAD_S, "its death")
        wait_until(lambda: pool.row().get("state") == "ready", 10.0, "the pool")
        lm.release()
        # The one that ran all the while waited for a worker again, and was taken over as it stood.
        assert runs.result(PATIENCE_S).attempt == 1
        assert waits.result(PATIENCE_S).attempt == 2
        assert (lm.job("runs").requests, lm.job("waits").requests) == (1, 1)
        assert client.call("qa", question="and now?").answer == expected_answer("answer", "and now?")
