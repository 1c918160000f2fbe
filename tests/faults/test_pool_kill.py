"""How soon a killed executor's job is at its LM again, and a crowd of executors on few CPUs."""

import os
import re
import signal
import statistics
import time
from collections.abc import Iterator

import pytest

from tests.faults.system import PATIENCE_S, System, running_system
from tests.processes import wait_until


@pytest.fixture(scope="module")
def system() -> Iterator[System]:
    with running_system(processes=2, concurrency=4) as made:
        yield made


@pytest.mark.parametrize("company", [0, 3])
def test_a_killed_executors_job_is_at_its_lm_again_in_a_moment(system: System, company: int) -> None:
    took_ms = []
    for n in range(5):
        names = [f"kill-{company}-{n}-{k}" for k in range(company + 1)]
        system.pool.wait_ready(2)
        pids = set(system.pool.executor_pids())
        jobs = [system.client.submit("qa", {"question": f"#job={name} #hang"}, watch=["started"]) for name in names]
        for name in names:
            system.lm.wait_open(name)
        wait_until(lambda jobs=jobs: all(job.worker for job in jobs), 10.0, "started")
        assert jobs[0].worker is not None
        victim = system.pool.pid_of(jobs[0].worker)
        assert victim in pids
        for name in names:
            system.lm.script(name, hang=False)
        began_s = time.monotonic()
        os.kill(victim, signal.SIGKILL)
        system.lm.wait_for(lambda names=names: system.lm.job(names[0]).requests == 2, PATIENCE_S)
        took_ms.append((time.monotonic() - began_s) * 1000)
        system.lm.release()
        assert jobs[0].result(PATIENCE_S).attempt == 2
        for job in jobs[1:]:
            job.result(PATIENCE_S)
    print(f"from SIGKILL to the second LM request, beside {company}: median {statistics.median(took_ms):.0f} ms, "
          f"longest {max(took_ms):.0f} ms")  # fmt: skip
    assert statistics.median(took_ms) < 2_000


@pytest.mark.soak
@pytest.mark.timeout(300)
def test_32_executors_on_few_cpus_trip_no_timeout() -> None:
    """Started together, and all at work: none is called stalled, late or dead."""
    began_s = time.monotonic()
    with running_system(processes=32, concurrency=4) as system:
        print(f"32 executors ready after {time.monotonic() - began_s:.1f} s")
        pids = set(system.pool.executor_pids())
        jobs = [system.client.submit("qa", {"question": f"q {n}"}, timeout_s=120) for n in range(1_500)]
        began_s = time.monotonic()
        assert {job.result(120).attempt for job in jobs} == {1}
        print(f"1,500 calls over 32 executors in {time.monotonic() - began_s:.1f} s")
        assert set(system.pool.executor_pids()) == pids
        found = re.findall(
            r"executor\.(?:stalled|died|start_timeout|condemned)\S*|own_stall", system.pool.process.stderr()
        )
        assert found == []
        memory = [row for row in system.pool.executors() if row.get("private_bytes")]
        if memory:
            private = statistics.median(row["private_bytes"] for row in memory) / 1024 / 1024
            print(f"private memory of an executor: median {private:.0f} MiB")
