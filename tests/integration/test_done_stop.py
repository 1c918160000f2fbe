"""Told to stop, or killed without a word: within the grace nothing is left of a broker, a pool, or `up`."""

import contextlib
import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dspymq import Client, exceptions
from dspymq.job import Job
from tests.faults.system import PATIENCE_S, PROGRAMS
from tests.lm import ScriptedLM, expected_answer
from tests.processes import Process, RunningBroker, clean_environ, running, running_broker, running_pool, wait_until

GATED = """
import os, time
open(os.environ["STARTED"], "w").close()
while not os.path.exists(os.environ["GATE"]):
    time.sleep(0.01)
import dspy
qa = dspy.Predict("question -> answer")
"""


@pytest.fixture
def lm() -> Iterator[ScriptedLM]:
    with ScriptedLM() as lm:
        yield lm


@pytest.fixture
def broker() -> Iterator[RunningBroker]:
    with running_broker() as broker:
        yield broker


@pytest.fixture
def client(broker: RunningBroker) -> Iterator[Client]:
    with Client(broker.clients, timeout_s=60) as client:
        yield client


def gone(process: Process, timeout_s: float) -> float:
    """Wait until no process of its session lives; the seconds that took."""
    began = time.monotonic()
    wait_until(lambda: not process.members(), timeout_s, f"the end of {process.members()}")
    return time.monotonic() - began


def open_calls(client: Client, lm: ScriptedLM, count: int) -> list[Job]:
    jobs = [client.submit("qa", {"question": f"#job=open{n} #hang"}) for n in range(count)]
    for n in range(count):
        lm.wait_open(f"open{n}")
    return jobs


def test_a_broker_told_to_stop_is_gone_at_once(broker: RunningBroker, lm: ScriptedLM, client: Client) -> None:
    with running_pool(broker, "--grace", "1", targets=[PROGRAMS], lm=lm):
        open_calls(client, lm, 2)
        began = time.monotonic()
        assert broker.process.stop() == 0
        assert time.monotonic() - began < 3
        assert not broker.process.members()
        # The pool outlives it, and stops in its own time, though nobody takes what it holds.
        lm.release()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_pool_told_to_stop_lets_its_calls_end(
    broker: RunningBroker, lm: ScriptedLM, client: Client, number: signal.Signals
) -> None:
    with running_pool(broker, targets=[PROGRAMS], lm=lm, processes=2) as pool:
        jobs = open_calls(client, lm, 8)
        queued = client.submit("qa", {"question": "for the next pool"})
        pool.process.process.send_signal(number)
        wait_until(lambda: pool.row().get("state") == "draining", 10.0, "a drain")
        lm.release()
        for job in jobs:
            assert job.result(PATIENCE_S).attempt == 1
        assert pool.process.process.wait(10) == 0
        assert gone(pool.process, 5.0) < 2
        assert not queued.done()
    assert lm.requests == 8
    with running_pool(broker, targets=[PROGRAMS], lm=lm):
        assert queued.result(PATIENCE_S).answer == expected_answer("answer", "for the next pool")


def test_a_pool_gives_back_what_does_not_end_within_the_grace(
    broker: RunningBroker, lm: ScriptedLM, client: Client, tmp_path: Path
) -> None:
    """Also what ignores everything; nobody is blamed, and another pool answers."""
    with running_pool(broker, "--grace", "1", targets=[PROGRAMS], lm=lm, name="leaves") as pool:
        jobs = open_calls(client, lm, 2)
        marks = [tmp_path / f"mark{n}" for n in range(2)]
        stuck = [client.submit("deaf", {"ms": 600_000, "mark": str(mark)}, redeliver=False) for mark in marks]
        wait_until(lambda: all(mark.exists() for mark in marks), 10.0, "their start")
        for n in range(2):
            lm.script(f"open{n}", hang=False)
        began = time.monotonic()
        pool.process.process.terminate()
        pool.process.process.wait(10)
        assert 1 <= time.monotonic() - began < 5
        assert gone(pool.process, 5.0) < 3
        for job in stuck:
            with pytest.raises(exceptions.Unavailable) as caught:
                job.result(PATIENCE_S)
            assert caught.value.reason == "worker_lost"
    with running_pool(broker, targets=[PROGRAMS], lm=lm, name="comes"):
        assert [job.result(PATIENCE_S).attempt for job in jobs] == [2, 2]


def test_a_second_signal_stops_a_pool_at_once(broker: RunningBroker, lm: ScriptedLM, client: Client) -> None:
    with running_pool(broker, "--grace", "600", targets=[PROGRAMS], lm=lm) as pool:
        open_calls(client, lm, 2)
        pool.process.process.terminate()
        wait_until(lambda: pool.row().get("state") == "draining", 10.0, "a drain")
        pool.process.process.terminate()
        pool.process.process.wait(10)
        assert gone(pool.process, 5.0) < 3
        lm.wait_disconnected("open0")


def test_a_pool_stops_without_a_broker(lm: ScriptedLM) -> None:
    with contextlib.ExitStack() as stack:
        broker = stack.enter_context(running_broker())
        client = stack.enter_context(Client(broker.clients))
        pool = stack.enter_context(running_pool(broker, "--grace", "1", targets=[PROGRAMS], lm=lm))
        open_calls(client, lm, 2)
        broker.process.kill()
        pool.process.process.terminate()
        pool.process.process.wait(10)
        assert gone(pool.process, 5.0) < 3


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_pool_that_still_imports_its_programs_ends(
    broker: RunningBroker, tmp_path: Path, number: signal.Signals
) -> None:
    """The fork server is in the middle of somebody's code, and there is no executor yet."""
    (tmp_path / "gated.py").write_text(GATED)
    environ = {"STARTED": str(tmp_path / "started"), "GATE": str(tmp_path / "gate")}
    with running_pool(broker, "--grace", "1", targets=["gated"], cwd=tmp_path, environ=environ, wait=False) as pool:
        wait_until((tmp_path / "started").exists, PATIENCE_S, "the import")
        assert len(pool.process.members()) >= 2
        pool.process.process.send_signal(number)
        pool.process.process.wait(10)
        assert gone(pool.process, 5.0) < 3


def test_a_supervisor_killed_takes_everything_along(
    broker: RunningBroker, lm: ScriptedLM, client: Client, tmp_path: Path
) -> None:
    """Fork server, executors, calls in the middle, a program in an endless loop, one that holds the GIL; no file."""
    environ = {"TMPDIR": str(tmp_path)}
    with running_pool(broker, targets=[PROGRAMS], lm=lm, processes=3, environ=environ) as pool:
        open_calls(client, lm, 4)
        stuck = [client.submit(name, {}, redeliver=False) for name in ("spin", "spin", "grip")]
        wait_until(lambda: pool.row()["in_flight"]["default"] == 7, 10.0, "their start")
        assert len(pool.process.members()) >= 5
        os.kill(pool.pid, signal.SIGKILL)
        pool.process.process.wait(10)
        assert gone(pool.process, 5.0) < 2
        for n in range(4):
            lm.wait_disconnected(f"open{n}")
        for job in stuck:
            with pytest.raises(exceptions.Unavailable):
                job.result(PATIENCE_S)
        assert not list(tmp_path.iterdir())


def test_a_spawned_pool_killed_takes_everything_along(broker: RunningBroker, lm: ScriptedLM, client: Client) -> None:
    arguments = ["--start-method", "spawn"]
    with running_pool(broker, *arguments, targets=[PROGRAMS], lm=lm, processes=1) as pool:
        open_calls(client, lm, 2)
        os.kill(pool.pid, signal.SIGKILL)
        pool.process.process.wait(10)
        assert gone(pool.process, 5.0) < 2
        lm.wait_disconnected("open0")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGKILL])
def test_up_leaves_nothing_behind(lm: ScriptedLM, number: signal.Signals) -> None:
    """Broker and pool are processes of their own, in groups of their own: they go with `up`, however that ends."""
    arguments = ["up", PROGRAMS, "--json", "--processes", "1", "--clients", "tcp://127.0.0.1:*"]
    with running("up", [*arguments, "--workers", "tcp://127.0.0.1:*"], clean_environ(lm)) as up:
        told = json.loads(up.first_line())
        with Client(told["clients"], timeout_s=30) as client:
            assert client.call("qa", question="up?").answer == expected_answer("answer", "up?")
            open_calls(client, lm, 2)
            stuck = client.submit("spin", {}, redeliver=False)
            assert not stuck.done()
            assert len(up.members()) >= 5
            up.process.send_signal(number)
            if number is not signal.SIGKILL:
                # The endless program has all of the pool's grace; a second signal does not wait for it.
                wait_until(lambda: client.workers()[0]["state"] == "draining", 10.0, "a drain")
                up.process.send_signal(number)
            up.process.wait(15)
            assert gone(up, 5.0) < 4


def test_processes_of_a_program_do_not_keep_a_pool_from_ending(broker: RunningBroker, tmp_path: Path) -> None:
    """A program may start processes of its own; those are its own business, the pool's end is not theirs."""
    (tmp_path / "forks.py").write_text(
        "import subprocess, sys\nimport dspy\n\n"
        "class Forks(dspy.Module):\n"
        "    def forward(self, mark: str) -> dspy.Prediction:\n"
        "        code = 'import time; time.sleep(30)'\n"
        "        child = subprocess.Popen([sys.executable, '-c', code], close_fds=False)\n"
        "        return dspy.Prediction(pid=child.pid)\n\n"
        "forks = Forks()\n"
    )
    with running_pool(broker, "--grace", "1", targets=["forks"], cwd=tmp_path) as pool:
        with Client(broker.clients) as client:
            child = client.call("forks", mark="x").pid
        try:
            began = time.monotonic()
            pool.process.process.terminate()
            assert pool.process.process.wait(10) == 0
            assert time.monotonic() - began < 6
        finally:
            os.kill(child, signal.SIGKILL)
