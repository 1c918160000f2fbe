"""A program that fails every job is not run for a while, and only that program."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from dspymq import exceptions
from tests.faults.system import System, running_system
from tests.processes import clean_environ, dspymq_command, wait_until

FAILURES = 5
OPEN_S = 1.5
SETTINGS = {
    "DSPYMQ_BROKER_CIRCUIT_FAILURES": str(FAILURES),
    "DSPYMQ_BROKER_CIRCUIT_OPEN_MS": str(int(OPEN_S * 1000)),
}


def fails(system: System, number: int, mark: Path) -> exceptions.DspymqError:
    with pytest.raises(exceptions.DspymqError) as caught:
        system.client.call("moody", question=f"question {number}", broken=str(mark))
    return caught.value


def status(system: System) -> str:
    command = dspymq_command("status", "--broker", system.broker.clients)
    return subprocess.run(command, env=clean_environ(), capture_output=True, text=True, check=True).stdout


def test_a_program_that_fails_every_job_is_not_run_for_a_while_and_only_that(tmp_path: Path) -> None:
    mark = tmp_path / "broken"
    mark.touch()
    with running_system(broker_environ=SETTINGS) as system, system.client.subscribe("circuit") as subscription:
        events = iter(subscription)
        for number in range(FAILURES):
            assert fails(system, number, mark).reason == "program_error"
        assert next(events).kind == "circuit.opened"
        asked = system.lm.requests
        refused = [fails(system, 100 + number, mark) for number in range(20)]
        assert {(error.code, error.reason, error.retryable) for error in refused} == {
            ("UNAVAILABLE", "circuit_open", True)
        }
        assert all(0 < (error.retry_after_ms or 0) <= OPEN_S * 1000 for error in refused)
        assert system.lm.requests == asked, "what is refused reaches no model"
        assert f"failed {FAILURES} times in a row" in status(system)
        system.still_serves()

        mark.unlink()

        def is_answered() -> bool:
            try:
                system.client.call("moody", question="and now?", broken=str(mark))
            except exceptions.Unavailable:
                return False
            return True

        wait_until(is_answered, 20.0, "the success that closes the circuit")
        assert next(events).kind == "circuit.closed"
        assert system.client.stats()["circuits"] == []
        assert "circuit_opened program=moody" in system.broker.process.stderr()
        assert "question" not in system.broker.process.stderr()
