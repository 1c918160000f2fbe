"""What a pool says of executors that end and of the jobs that they had."""

from tests.unit.worker.pool_rig import Rig


def test_the_death_of_an_executor_and_its_jobs_are_told() -> None:
    rig = Rig(processes=1).running()
    executor = rig.start_job("l1", attempt=1)
    rig.dispatch("l2")
    assert not [line for line in rig.logs() if "l1" in line]
    rig.gone(executor, -9)
    died, first, second = [line for line in rig.logs() if "died" in line or "lost" in line]
    assert died == "executor.died executor=pool/1 pid=101 exit=-9 signal=SIGKILL in_flight=2"
    assert first == (
        "lease.lost job='job-l1' lease=l1 attempt=1 executor=pool/1 pid=101 cause=crash blame=self started=True"
    )
    assert second == (
        "lease.lost job='job-l2' lease=l2 attempt=1 executor=pool/1 pid=101 cause=crash blame=none started=False"
    )


def test_where_a_job_runs_again_is_told() -> None:
    rig = Rig(processes=1).running()
    rig.dispatch("l1", attempt=1)
    assert not [line for line in rig.logs() if line.startswith("lease.taken")]
    rig.dispatch("l2", attempt=2)
    (line,) = [line for line in rig.logs() if line.startswith("lease.taken")]
    assert line == "lease.taken job='job-l2' lease=l2 attempt=2 executor=pool/1 pid=101 isolated=False"
