"""Health as it is seen from outside: green only when a call could be answered, and not red because all are busy."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dspymq import Client
from dspymq.conformance.brokers import free_ports
from tests.faults.system import PATIENCE_S, PROGRAMS
from tests.lm import ScriptedLM, expected_answer
from tests.processes import RunningBroker, clean_environ, dspymq_command, running, running_pool, wait_until


def get(address: str, path: str, method: str = "GET") -> tuple[int, dict[str, Any]]:
    connection = http.client.HTTPConnection(address, timeout=5)
    connection.request(method, path)
    answer = connection.getresponse()
    text = answer.read()
    connection.close()
    return answer.status, json.loads(text) if text else {}


def ping(broker: RunningBroker, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = dspymq_command("ping", "--broker", broker.clients, *arguments)
    return subprocess.run(command, env=clean_environ(), capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def broker() -> Iterator[tuple[RunningBroker, str]]:
    any_port = "tcp://127.0.0.1:*"
    command = ["broker", "--clients", any_port, "--workers", any_port, "--health", "127.0.0.1:0", "--json"]
    with running("broker", command, clean_environ()) as process:
        addresses = json.loads(process.first_line())
        yield RunningBroker(process, addresses), addresses["health"]


def test_ready_follows_the_workers_and_not_their_load(broker: tuple[RunningBroker, str]) -> None:
    running_broker, health = broker
    assert get(health, "/livez") == (200, {"status": "ok"})
    assert get(health, "/readyz") == (503, {"status": "unavailable", "why": "no worker is here"})
    assert get(health, "/readyz", "HEAD") == (503, {})
    refused = ping(running_broker, "--ready")
    assert (refused.returncode, refused.stdout) == (6, "")
    assert refused.stderr == f"error: {running_broker.clients} answers, but no worker is here\n"
    assert ping(running_broker).returncode == 0
    with ScriptedLM() as lm, Client(running_broker.clients) as client:
        with running_pool(running_broker, targets=[PROGRAMS], lm=lm, processes=1, concurrency=1):
            assert get(health, "/readyz") == (200, {"status": "ok"})
            assert ping(running_broker, "--program", "qa", "--wait", "5").returncode == 0
            assert ping(running_broker, "--program", "qaa").returncode == 6
            lm.script(hang=True)
            jobs = [client.submit("qa", {"question": f"#job=h{n}"}) for n in range(5)]
            lm.wait_open("h0")
            assert get(health, "/readyz")[0] == 200, "busy is not down"
            assert client.stats()["ready"] is True
            lm.script(hang=False)
            lm.release()
            assert [job.result(PATIENCE_S).answer for job in jobs] == [
                expected_answer("answer", f"#job=h{n}") for n in range(5)
            ]
        wait_until(lambda: get(health, "/readyz")[0] == 503, 10.0, "the end of the pool")


def test_what_is_no_question_is_answered_or_closed(broker: tuple[RunningBroker, str]) -> None:
    running_broker, health = broker
    assert get(health, "/")[0] == 404
    assert get(health, "/readyz", "POST")[0] == 405
    host, port = health.split(":")
    for junk in (b"\r\n", b"x" * 20_000, b"GET\r\n\r\n"):
        with socket.create_connection((host, int(port)), 5) as peer:
            peer.sendall(junk)
            peer.shutdown(socket.SHUT_WR)
            while peer.recv(4_096):
                pass
    assert get(health, "/livez")[0] == 200
    assert running_broker.process.stderr().count("Traceback") == 0


@pytest.mark.parametrize("address", ["8080", "host:", "127.0.0.1:99999"])
def test_an_address_that_is_none_is_one_line(address: str) -> None:
    command = dspymq_command("broker", "--clients", "tcp://127.0.0.1:*", "--workers", "tcp://127.0.0.1:*")
    done = subprocess.run(
        [*command, "--health", address], env=clean_environ(), capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2
    assert "write HOST:PORT" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_pool_is_ready_when_it_has_a_broker_and_executors(broker: tuple[RunningBroker, str]) -> None:
    """Live all along; not ready without a broker, ready however busy, and not ready again."""
    running_broker, _ = broker
    pool_health = f"127.0.0.1:{free_ports(1)[0]}"
    with ScriptedLM() as lm:
        arguments = ["--health", pool_health]
        with running_pool(running_broker, *arguments, targets=[PROGRAMS], lm=lm, processes=1, concurrency=1):
            assert get(pool_health, "/livez")[0] == 200
            wait_until(lambda: get(pool_health, "/readyz")[0] == 200, 10.0, "the pool")
            with Client(running_broker.clients) as client:
                job = client.submit("qa", {"question": "#job=busy #hang"})
                lm.wait_open("busy")
                assert get(pool_health, "/readyz") == (200, {"status": "ok"})
                lm.release()
                job.result(PATIENCE_S)
            running_broker.process.kill()
            wait_until(lambda: get(pool_health, "/readyz")[0] == 503, 10.0, "the broker's end")
            assert get(pool_health, "/readyz")[1]["why"] == "no session with a broker"
            assert get(pool_health, "/livez")[0] == 200


@pytest.mark.timeout(150)
def test_while_a_pool_drains_nobody_is_told_to_come(broker: tuple[RunningBroker, str]) -> None:
    """It still answers what it has; the broker is ready again with the next pool."""
    running_broker, health = broker
    pool_health = f"127.0.0.1:{free_ports(1)[0]}"
    with (
        ScriptedLM() as lm,
        Client(running_broker.clients) as client,
        running_pool(running_broker, "--health", pool_health, "--grace", "60", targets=[PROGRAMS], lm=lm) as pool,
    ):
        job = client.submit("qa", {"question": "#job=drained #hang"})
        lm.wait_open("drained")
        pool.process.process.terminate()
        wait_until(lambda: get(health, "/readyz")[0] == 503, 10.0, "a drain")
        assert get(pool_health, "/readyz") == (503, {"status": "unavailable", "why": "the pool drains"})
        assert get(pool_health, "/livez")[0] == 200
        assert client.stats()["ready"] is False
        with running_pool(running_broker, targets=[PROGRAMS], lm=lm, name="next"):
            assert get(health, "/readyz")[0] == 200
        lm.release()
        assert job.result(PATIENCE_S).attempt == 1


@pytest.mark.timeout(150)
def test_a_pool_whose_programs_are_all_broken_serves_nobody(broker: tuple[RunningBroker, str], tmp_path: Path) -> None:
    """It waits for a reload. With the first that can be used, it is ready."""
    running_broker, health = broker
    pool_health = f"127.0.0.1:{free_ports(1)[0]}"
    module = tmp_path / "broken.py"
    module.write_text("import dspy\nqa = dspy.Predict('question -> ')\nraise RuntimeError('broken')\n")
    arguments = ["--health", pool_health, "--reload"]
    with running_pool(running_broker, *arguments, targets=["broken"], cwd=tmp_path, wait=False) as pool:
        wait_until(lambda: [one for one in pool.executors() if one.get("problem")], 40.0, "what is wrong, shown")
        assert get(health, "/readyz")[0] == 503
        assert get(pool_health, "/readyz")[0] == 503
        assert get(pool_health, "/livez")[0] == 200
        refused = ping(running_broker, "--ready")
        assert refused.returncode == 6
        module.write_text("import dspy\nqa = dspy.Predict('question -> answer')\n")
        wait_until(lambda: get(health, "/readyz")[0] == 200, 40.0, "the new version")
        assert get(pool_health, "/readyz")[0] == 200


@pytest.mark.soak
@pytest.mark.timeout(150)
def test_a_restarted_broker_is_ready_when_its_pool_is_back_and_not_before() -> None:
    clients, workers, broker_health, pool_health = (f"127.0.0.1:{port}" for port in free_ports(4))
    command = ["broker", "--clients", f"tcp://{clients}", "--workers", f"tcp://{workers}", "--health", broker_health]
    with ScriptedLM() as lm, running("broker", [*command, "--json"], clean_environ()) as first:
        running_broker = RunningBroker(first, json.loads(first.first_line()))
        quick = {"DSPYMQ_WORKER_STALL_MS": "1500", "DSPYMQ_WORKER_BEAT_MS": "300"}
        with running_pool(running_broker, "--health", pool_health, targets=[PROGRAMS], lm=lm, environ=quick) as pool:
            first.kill()
            wait_until(lambda: get(pool_health, "/readyz")[0] == 503, 10.0, "the broker's end")
            os.kill(pool.pid, signal.SIGSTOP)
            with running("broker", [*command, "--json"], clean_environ()) as second:
                second.first_line()
                assert get(broker_health, "/livez")[0] == 200
                assert get(broker_health, "/readyz") == (503, {"status": "unavailable", "why": "no worker is here"})
                os.kill(pool.pid, signal.SIGCONT)
                wait_until(lambda: get(broker_health, "/readyz")[0] == 200, 20.0, "the pool")
                wait_until(lambda: get(pool_health, "/readyz")[0] == 200, 10.0, "the pool, by itself")
                with Client(f"tcp://{clients}", timeout_s=PATIENCE_S) as client:
                    assert client.call("qa", question="back").answer == expected_answer("answer", "back")
                for pid in pool.executor_pids():
                    os.kill(pid, signal.SIGSTOP)
                wait_until(lambda: get(pool_health, "/readyz")[0] == 503, 20.0, "silent executors")
                wait_until(lambda: get(broker_health, "/readyz")[0] == 503, 10.0, "the broker's word")
                assert get(pool_health, "/readyz")[1]["why"] == "no executor takes jobs"
                wait_until(lambda: get(broker_health, "/readyz")[0] == 200, 40.0, "their replacement")


@pytest.mark.parametrize("address", ["8080", "192.0.2.1:8080"])
def test_a_pool_whose_health_cannot_be_asked_for_there_is_one_line(address: str) -> None:
    done = subprocess.run(
        dspymq_command("worker", "--health", address), env=clean_environ(), capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    assert [line for line in done.stderr.splitlines() if line.startswith("error: health: ")]
    assert "Traceback" not in done.stderr
