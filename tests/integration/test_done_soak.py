"""Two minutes of idleness at default settings, in real time: the idleness is what is tested."""

import json
import time
from pathlib import Path

import pytest

from dspymq import Client
from tests.faults.system import PROGRAMS
from tests.lm import ScriptedLM, expected_answer
from tests.processes import running_broker, running_pool, wait_until

IDLE_S = 120


@pytest.mark.soak
@pytest.mark.timeout(IDLE_S + 60)
def test_a_worker_does_not_exit_because_it_is_idle() -> None:
    """Same processes, the next call answered, no line in any log, next to no time of the CPU."""
    with (
        ScriptedLM() as lm,
        running_broker() as broker,
        running_pool(broker, targets=[PROGRAMS], lm=lm, processes=2) as pool,
        Client(broker.clients, name="idle") as client,
    ):
        assert client.call("qa", question="before").answer == expected_answer("answer", "before")
        sessions = [broker.process, pool.process]
        # The pool tells of its executors' states for a moment after the call.
        wait_until(lambda: not any(one["in_flight"] for one in pool.executors()), 10.0, "idleness")
        pids = [sorted(process.members()) for process in sessions]
        executors = sorted(pool.executor_pids())
        logs = [process.stderr() for process in sessions]
        cpu_s = sum(map(cpu, itertools_chain(pids)))
        time.sleep(IDLE_S)
        assert [sorted(process.members()) for process in sessions] == pids
        assert sum(map(cpu, itertools_chain(pids))) - cpu_s < 0.1 * IDLE_S
        assert [process.stderr() for process in sessions] == logs
        assert client.call("qa", question="after").answer == expected_answer("answer", "after")
        assert sorted(pool.executor_pids()) == executors
        assert {json.loads(line)["level"] for log in logs for line in log.splitlines()} == {"info"}


def itertools_chain(lists: list[list[int]]) -> list[int]:
    return [one for many in lists for one in many]


def cpu(pid: int) -> float:
    """Seconds of the CPU that a process has used."""
    import os

    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
