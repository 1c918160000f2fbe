"""Logs: quiet while all is well, an incident can be read from them alone, and no payload or secret is in them."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dspymq import exceptions
from tests.faults.system import PATIENCE_S, PROGRAMS, System, running_system
from tests.lm import expected_answer
from tests.processes import Process, wait_until

Line = dict[str, Any]

OF_A_BUSY_MACHINE = {
    "broker_stalled",
    "broker.down",
    "broker.up",
    "executor.recovered",
    "executor.stalled",
    "pool.own_stall",
    "worker.away",
    "worker.ready",
}
"""What may be said while all is well but slow."""


def lines_of(process: Process) -> list[Line]:
    """What a process and its executors have logged: every line is JSON."""
    return [json.loads(line) for line in process.stderr().splitlines()]


def events(lines: list[Line], event: str, **fields: str) -> list[dict[str, str]]:
    """The fields of the lines of this event whose fields are these."""
    found = [line.get("fields", {}) for line in lines if line.get("event") == event]
    return [one for one in found if all(one.get(name) == value for name, value in fields.items())]


def the_one(lines: list[Line], event: str, **fields: str) -> dict[str, str]:
    found = events(lines, event, **fields)
    assert len(found) == 1, f"{event} {fields}: {found}"
    return found[0]


def wait_for_end(system: System, job: str) -> list[Line]:
    """The broker's lines, once the job's end is among them."""
    return wait_until(
        lambda: lines if events(lines := lines_of(system.broker.process), "job.done", job=job) else None,
        10.0,
        "job.done",
    )


@pytest.fixture(scope="module")
def system() -> Iterator[System]:
    with running_system(processes=2, concurrency=2) as made:
        yield made


def test_while_all_is_well_nothing_is_said_of_a_job(system: System) -> None:
    processes = (system.broker.process, system.pool.process)
    before = [len(lines_of(process)) for process in processes]
    for n in range(30):
        assert system.ask(f"quiet {n}") == expected_answer("answer", f"quiet {n}")
    with pytest.raises(exceptions.DspymqError):
        system.client.call("qa", answer="no such input")
    new = [line for process, count in zip(processes, before, strict=True) for line in lines_of(process)[count:]]
    assert [line for line in new if line.get("event") not in OF_A_BUSY_MACHINE] == []


def test_an_incident_can_be_read_from_the_logs_alone(system: System) -> None:
    """At INFO: which executor ended, of what, which jobs it had, where they ran again, and how they ended."""
    jobs = [system.client.submit("qa", {"question": f"#job=incident{n} #hang"}, watch=["started"]) for n in range(4)]
    for n in range(4):
        system.lm.wait_open(f"incident{n}")
    wait_until(lambda: all(job.worker for job in jobs), 10.0, "started")
    victim = jobs[0].worker
    assert victim is not None
    pid = system.pool.pid_of(victim)
    hit = [n for n, job in enumerate(jobs) if job.worker == victim]
    system.lm.script(hang=False)
    for n in range(4):
        system.lm.script(f"incident{n}", hang=False)
    os.kill(pid, signal.SIGKILL)
    for n in hit:
        assert jobs[n].result(PATIENCE_S).attempt == 2
    system.lm.release()
    for job in jobs:
        job.result(PATIENCE_S)
    told = [read_incident(system, pid, jobs[n].id) for n in hit]
    for one in told:
        assert one["executor"] == victim
        assert one["signal"] == "SIGKILL"
        assert one["cause"] == "crash"
        assert one["blame"] == "shared"
        assert one["again"] != victim
        assert one["end"] == "OK"
    spoken = system.broker.process.stderr() + system.pool.process.stderr()
    for n in set(range(4)) - set(hit):
        assert jobs[n].id not in spoken


def read_incident(system: System, pid: int, job: str) -> dict[str, str]:
    """What an operator finds out with the logs of broker and pool, a pid, and a client's job id."""
    broker, pool = wait_for_end(system, job), lines_of(system.pool.process)
    died = the_one(pool, "executor.died", pid=str(pid))
    had = the_one(pool, "lease.lost", executor=died["executor"], job=job)
    assert had["attempt"] == "1"
    lost = the_one(broker, "attempt.lost", lease=had["lease"])
    assert (lost["job"], lost["attempt"], lost["executor"]) == (job, "1", died["executor"])
    assert lost["exit_code"] == died["exit"]
    the_one(broker, "job.requeued", job=job, attempt="1")
    again = the_one(broker, "job.dispatched", job=job, attempt="2")
    assert again["worker"] == lost["worker"]
    assert events(broker, "worker.ready", name="pool", worker=again["worker"])
    taken = the_one(pool, "lease.taken", lease=again["lease"])
    assert (taken["job"], taken["attempt"]) == (job, "2")
    assert int(taken["pid"])
    end = the_one(broker, "job.done", job=job, attempt="2")
    return {
        "executor": died["executor"],
        "signal": died["signal"],
        "cause": lost["cause"],
        "blame": lost["blame"],
        "again": taken["executor"],
        "end": end["code"],
    }


def test_a_poisonous_job_is_followed_to_its_end(system: System, tmp_path: Path) -> None:
    job = system.client.submit("abort", {"mark": str(tmp_path / "mark"), "code": 9})
    with pytest.raises(exceptions.Aborted):
        job.result(PATIENCE_S)
    lines = wait_for_end(system, job.id)
    assert [one["attempt"] for one in events(lines, "attempt.lost", job=job.id, blame="self", exit_code="9")] == [
        "1",
        "2",
    ]
    end = the_one(lines, "job.done", job=job.id)
    assert (end["code"], end["reason"], end["attempt"]) == ("ABORTED", "poison", "2")
    assert [one["level"] for one in lines if one.get("fields", {}) == end] == ["warning"]
    died = events(lines_of(system.pool.process), "executor.died", exit="9")
    assert len(died) == 2


@pytest.mark.soak
def test_a_lost_pool_and_its_jobs_are_followed() -> None:
    with running_system(processes=1, concurrency=2) as system:
        job = system.client.submit("qa", {"question": "#job=away #hang"}, redeliver=False)
        system.lm.wait_open("away")
        worker = events(lines_of(system.broker.process), "worker.ready")[0]["worker"]
        system.pool.process.kill()
        with pytest.raises(exceptions.Unavailable):
            job.result(PATIENCE_S)
        lines = wait_for_end(system, job.id)
        assert the_one(lines, "worker.lost", worker=worker)["leases"] == "1"
        assert the_one(lines, "attempt.lost", worker=worker, job=job.id)["cause"] == "worker_lost"
        assert the_one(lines, "job.done", job=job.id)["reason"] == "worker_lost"


SECRETS = {
    name: f"{name}-Zq7xW{number}k"
    for number, name in enumerate(("input", "output", "chunk", "tool-argument", "tool-answer", "error", "lm-error"))
}
API_KEY = "sk-Zq7xW-secret-key"


def test_no_payload_and_no_secret_is_in_the_logs_at_any_level() -> None:
    """Also not at DEBUG, where every job is followed."""
    level = {"DSPYMQ_LOG_LEVEL": "debug"}
    pool_environ = {**level, "DSPYMQ_LM_API_KEY": API_KEY}
    targets = ["tests.faults.log_programs", PROGRAMS]
    with running_system(
        processes=1, concurrency=4, targets=targets, broker_environ=level, pool_environ=pool_environ
    ) as system:
        client = system.client.with_options(timeout_s=PATIENCE_S)
        secret = SECRETS
        answer = f"#answer.answer={secret['output']} {secret['input']}"
        client.call("qa", question=answer)
        assert (
            secret["chunk"]
            in client.submit("qa", {"question": f"#answer.answer={secret['chunk']}"}, stream=True).result().answer
        )
        with pytest.raises(exceptions.ProgramError, match=secret["error"]):
            client.call("raises", text=secret["error"])
        with pytest.raises(exceptions.InvalidArgument):
            client.call("refuses", count=secret["input"])
        with pytest.raises(exceptions.InvalidArgument):
            client.call("qa", nonsense=secret["input"])
        assert client.call("gossip", text=secret["input"]).text == secret["input"]
        with pytest.raises(exceptions.DspymqError):
            client.call("qa", question=f"{secret['input']} #garbage")
        with pytest.raises(exceptions.DspymqError):
            client.call("qa", question=f"{secret['input']} #status=401 #code={secret['lm-error']}")
        job = client.submit("qa", {"question": "in detail"})
        job.result(PATIENCE_S)
        lines = wait_for_end(system, job.id)
        assert the_one(lines, "job.submitted", job=job.id)["program"] == "qa"
        assert the_one(lines, "job.dispatched", job=job.id)["attempt"] == "1"
        assert the_one(lines, "job.done", job=job.id)["code"] == "OK"
        call_a_tool(system, secret["tool-argument"], secret["tool-answer"])
        logs = {process.name: process.stderr() for process in (system.broker.process, system.pool.process)}
        assert "library.line" in logs["pool"], "what libraries say is said to have been said"
        assert events(lines_of(system.pool.process), "job_failed", program="raises")[0]["lease"]
        for name, text in logs.items():
            for what, value in {**secret, "key": API_KEY}.items():
                found = [line for line in text.splitlines() if value in line]
                assert not found, f"{what} is in the log of the {name}: {found[0][:600]}"


def call_a_tool(system: System, argument: str, answer: str) -> None:
    def look_up(word: str) -> str:
        """Look a word up."""
        if len(seen) == 1:
            seen.append(word)
            raise ValueError(f"no {word}")
        seen.append(word)
        return answer

    seen: list[str] = []
    question = f"#tools=look_up,look_up #args.look_up={json.dumps({'word': argument})}"
    system.client.with_options(timeout_s=PATIENCE_S).submit("agent", {"question": question}, tools=[look_up]).result()
    assert seen == [argument, argument]
