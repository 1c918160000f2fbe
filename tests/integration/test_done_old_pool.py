"""What hurt in the pool that dspymq replaces; each test carries the name of its hurt."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dspymq import Client, exceptions
from dspymq.protocol import body as bodies
from dspymq.protocol.messages import Ping, Pong
from tests.faults.peers import RawClient, RawWorker
from tests.faults.system import PATIENCE_S, System, running_system
from tests.integration.pool_peer import Peer
from tests.lm import ScriptedLM, expected_answer
from tests.processes import clean_environ, running, running_broker, running_pool, wait_until

PROGRAM = """
import os, time
with open(os.environ["IMPORTS"], "a") as file:
    file.write(f"{os.getpid()} {os.getppid()}\\n")
while not os.path.exists(os.environ["GATE"]):
    time.sleep(0.01)
import dspy
qa = dspy.Predict("question -> answer")
"""

CLIENT = """
import sys
from dspymq import Client
client = Client(sys.argv[1])
job = client.submit("qa", {"question": sys.argv[2]})
print("sent", flush=True)
job.result()
"""


class Counted:
    """A directory with a program whose imports are counted and held at a gate."""

    def __init__(self, directory: Path, *, is_open: bool = True) -> None:
        self.directory = directory
        self.gate, self._imports = directory / "gate", directory / "imports"
        (directory / "counted.py").write_text(PROGRAM)
        self.environ = {"IMPORTS": str(self._imports), "GATE": str(self.gate)}
        if is_open:
            self.gate.touch()

    def imports(self) -> list[tuple[int, int]]:
        """The (process, parent) of each import."""
        if not self._imports.exists():
            return []
        return [(int(a), int(b)) for a, b in (line.split() for line in self._imports.read_text().splitlines())]


@pytest.fixture(scope="module")
def system() -> Iterator[System]:
    with running_system(processes=2, concurrency=5, targets=["tests.faults.programs"]) as made:
        yield made


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_workers_start_all_at_once_and_not_one_by_one(tmp_path: Path) -> None:
    """Eight executors: in the first word that their pool says all of them are under way, forked from one import."""
    counted = Counted(tmp_path)
    peer = Peer()
    command = ["worker", "counted", "--broker", peer.address, "--processes", "8", "--concurrency", "1"]
    try:
        with running("pool", command, clean_environ(extra=counted.environ), tmp_path):
            peer.welcome_pool(8)
            first = next(body for message, body in peer.seen if type(message).__name__ == "Ready")
            assert len(bodies.decode(first)["executors"]) == 8
            pids = [executor["pid"] for executor in peer.executors()]
            ((server, _),) = counted.imports()
            assert {parent_of(pid) for pid in pids} == {server}
            assert server not in pids
    finally:
        peer.close()


def test_environment_is_validated_once_and_not_by_every_worker(tmp_path: Path) -> None:
    """Also when executors are replaced later: none of them imports anything again."""
    counted = Counted(tmp_path)
    with (
        ScriptedLM() as lm,
        running_broker() as broker,
        running_pool(broker, targets=["counted"], lm=lm, processes=3, cwd=tmp_path, environ=counted.environ) as pool,
    ):
        before = set(pool.executor_pids())
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not before & set(pool.executor_pids()), 10.0, "replacements")
        pool.wait_ready(3)
        assert len(counted.imports()) == 1


def test_a_call_that_arrives_while_workers_are_still_starting_is_answered(tmp_path: Path) -> None:
    counted = Counted(tmp_path, is_open=False)
    with (
        ScriptedLM() as lm,
        running_broker() as broker,
        Client(broker.clients) as client,
        running_pool(broker, targets=["counted"], lm=lm, cwd=tmp_path, environ=counted.environ, wait=False),
    ):
        wait_until(counted.imports, PATIENCE_S, "the import")
        jobs = [client.submit("qa", {"question": f"early {n}"}, watch=["accepted"]) for n in range(10)]
        wait_until(lambda: all(job.missing for job in jobs), 10.0, "accepted")
        assert not any(job.done() for job in jobs)
        counted.gate.touch()
        answers = [job.result(PATIENCE_S).answer for job in jobs]
        assert answers == [expected_answer("answer", f"early {n}") for n in range(10)]


def test_ten_concurrent_calls_give_ten_successes(system: System) -> None:
    with ThreadPoolExecutor(10) as threads:
        answers = list(threads.map(system.ask, [f"q{n}" for n in range(10)]))
    assert answers == [expected_answer("answer", f"q{n}") for n in range(10)]


def test_ten_concurrent_calls_give_ten_successes_on_one_slot() -> None:
    with running_system(processes=1, concurrency=1) as small, ThreadPoolExecutor(10) as threads:
        answers = list(threads.map(small.ask, [f"q{n}" for n in range(10)]))
        assert answers == [expected_answer("answer", f"q{n}") for n in range(10)]
        assert small.lm.peak_open == 1


def test_concurrent_calls_really_run_concurrently(system: System) -> None:
    """All ten slots hold an LM request at the same moment; sequential calls would never open a second one."""
    jobs = [system.client.submit("qa", {"question": f"#job=together #hang {n}"}) for n in range(10)]
    system.lm.wait_open("together", 10)
    system.lm.release("together")
    answers = {job.result(PATIENCE_S).answer for job in jobs}
    assert len(answers) == 10
    assert system.lm.job("together").peak_open == 10


def test_concurrent_calls_of_a_synchronous_program_really_run_concurrently(system: System) -> None:
    jobs = [system.client.submit("sync_qa", {"question": f"#job=threads #hang {n}"}) for n in range(10)]
    system.lm.wait_open("threads", 10)
    system.lm.release("threads")
    assert len({job.result(PATIENCE_S).answer for job in jobs}) == 10


def test_a_worker_does_not_exit_after_a_success(system: System) -> None:
    before = sorted(system.pool.executor_pids())
    for n in range(30):
        system.ask(f"success {n}")
    assert sorted(system.pool.executor_pids()) == before


def test_a_worker_does_not_exit_after_a_failure(system: System) -> None:
    before = sorted(system.pool.executor_pids())
    for question in ("#status=401", "#status=400", "#garbage"):
        with pytest.raises(exceptions.DspymqError):
            system.ask(question)
    assert sorted(system.pool.executor_pids()) == before
    system.still_serves()


def test_a_worker_does_not_exit_when_its_client_goes_away(system: System) -> None:
    """In order, and by SIGKILL, with a call open."""
    before = sorted(system.pool.executor_pids())
    for number in (signal.SIGINT, signal.SIGKILL):
        job = f"gone-{number.name}"
        command = [sys.executable, "-c", CLIENT, system.broker.clients, f"#job={job} #hang"]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=clean_environ()
        ) as process:
            system.lm.wait_open(job)
            process.send_signal(number)
            process.wait(10)
        if number is signal.SIGINT:
            system.lm.wait_disconnected(job)
    system.still_serves()
    assert sorted(system.pool.executor_pids()) == before
    system.lm.release()


def test_a_missing_input_fails_with_no_lm_request(system: System) -> None:
    before = system.lm.requests
    for program in ("qa", "sync_qa", "question, context -> answer"):
        with pytest.raises(exceptions.InvalidArgument) as caught:
            system.client.call(program, **({"context": "some"} if "->" in program else {}))
        assert caught.value.reason == "invalid_inputs"
        assert set(caught.value.fields) == {"question"}
    assert system.lm.requests == before


def test_a_timeout_is_the_one_asked_for_and_not_minutes(system: System) -> None:
    for program in ("qa", "sync_qa"):
        began = time.monotonic()
        with pytest.raises(exceptions.DeadlineExceeded):
            system.ask(f"#job=slow-{program} #hang", program, timeout_s=0.7)
        took = time.monotonic() - began
        assert 0.7 <= took < 3
        assert system.lm.wait_disconnected(f"slow-{program}") - began < 3
    system.still_serves()


def test_health_checks_do_not_flood_the_log() -> None:
    """At INFO and after dozens of heartbeats of broker, pool and clients not a line has been added."""
    with running_system(
        processes=2,
        broker_environ={"DSPYMQ_BROKER_WORKER_PING_MS": "150", "DSPYMQ_BROKER_CLIENT_PING_MS": "150"},
        pool_environ={"DSPYMQ_WORKER_BEAT_MS": "50", "DSPYMQ_WORKER_STALL_MS": "5000"},
    ) as system:
        system.still_serves()
        with RawClient(system.broker.clients, answers_pings=False) as client, RawWorker(system.broker.workers) as idle:
            assert client.hello().ping_ms == 150
            idle.hello()
            logs = (system.broker.process, system.pool.process)
            before = [log.stderr() for log in logs]
            for _ in range(20):
                client.expect(Ping)
                client.send(Pong())
            assert [log.stderr() for log in logs] == before
        system.still_serves()
        levels = {json.loads(line)["level"] for log in logs for line in log.stderr().splitlines()}
        assert levels == {"info"}
