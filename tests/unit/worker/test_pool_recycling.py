"""Recycling in the pool's core: replaced first, drained after."""

from typing import Any

import pytest

from dspymq.protocol import worker_messages as w
from dspymq.protocol.messages import Bye
from dspymq.worker.supervisor import events as ev
from dspymq.worker.supervisor.executor import Memory
from tests.unit.worker.pool_rig import Rig

MIB = 1024 * 1024


def run_jobs(rig: Rig, count: int, label: str = "j") -> list[str]:
    """So many jobs, one after the other; who ran them."""
    ran = []
    for n in range(count):
        executor = rig.start_job(f"{label}{n}")
        rig.finish(executor, f"{label}{n}")
        ran.append(executor)
    return ran


def weigh(rig: Rig, **sizes: int) -> list[Any]:
    """Private MiB of pool/N, as eN=MIB; 100 MiB are shared."""
    named = {f"pool/{name[1:]}": Memory(100 * MIB, size * MIB) for name, size in sizes.items()}
    return rig.do(ev.Memory(named))


def test_an_executor_that_did_its_jobs_serves_until_its_replacement_is_ready() -> None:
    rig = Rig(processes=1, max_jobs_per_executor=5).running()
    # The rig's random numbers are 1: four of five.
    run_jobs(rig, 3)
    assert rig.starts() == []
    run_jobs(rig, 1, "last")
    assert rig.starts() == ["pool/2"]
    assert rig.last_ready().slots == {"default": 4}
    assert rig.start_job("meanwhile") == "pool/1"
    rig.ready("pool/2")
    assert rig.last_ready().slots == {"default": 5}, "what still runs keeps its slot"
    assert rig.shown()["pool/1"]["state"] == "retiring"
    assert rig.dispatch("next") == "pool/2"
    rig.finish("pool/1", "meanwhile")
    assert rig.told(Bye) == [("pool/1", Bye(reason="done"))]
    rig.gone("pool/1", 0)
    assert rig.starts() == []
    assert rig.last_ready().slots == {"default": 4}


def test_the_pool_never_promises_less_nor_more_than_it_has() -> None:
    rig = Rig(processes=4, max_jobs_per_executor=2).running()
    slots = []
    for n in range(200):
        executor = rig.start_job(f"j{n}")
        rig.finish(executor, f"j{n}")
        rig.wait(100, beating=tuple(rig.core._crew.executors))
        for name, one in list(rig.core._crew.executors.items()):
            if one.state.value == "starting":
                rig.ready(name)
            elif one.state.value == "leaving":
                rig.gone(name, 0)
        slots.append(rig.last_ready().slots["default"])
    assert set(slots) == {16}
    assert len(rig.core._crew.executors) <= 5


def test_not_all_are_replaced_at_once() -> None:
    rig = Rig(processes=8, max_age_ms=60_000).running()
    names = tuple(f"pool/{n}" for n in range(1, 9))
    rig.wait(60_000, beating=names, step_ms=1_000)
    assert rig.core._crew.executors.keys() >= set(names)
    assert len(rig.core._crew.executors) == 10, "two of eight at a time"


def test_limits_are_drawn_for_each() -> None:
    numbers = iter([0.0, 0.25, 0.5, 1.0])
    rig = Rig(processes=4, max_jobs_per_executor=100)
    rig.core._context.random = lambda: next(numbers)
    rig.running()
    assert [one.max_jobs for one in rig.core._crew.executors.values()] == [100, 95, 90, 80]


def test_age_needs_no_other_event() -> None:
    rig = Rig(processes=1, max_age_ms=10_000).running()
    due = rig.core.next_ms()
    assert due is not None
    rig.wait(7_900, beating=("pool/1",))
    assert rig.starts() == []
    rig.wait(200, beating=("pool/1",))
    assert rig.starts() == ["pool/2"]


def test_a_large_executor_is_replaced_a_very_large_one_killed_and_its_job_blamed() -> None:
    rig = Rig(processes=2, max_rss_bytes=500 * MIB).running()
    first = rig.start_job("a")
    second = rig.start_job("b")
    weigh(rig, e1=300, e2=300)
    assert rig.starts() == []
    weigh(rig, e1=450, e2=300)
    assert rig.starts() == ["pool/3"]
    assert rig.kills() == []
    weigh(rig, e1=450, e2=950)
    assert rig.kills() == ["pool/2"], "twice the soft limit"
    assert rig.starts() == ["pool/4"]
    rig.gone("pool/2")
    released = rig.sent(w.Released)[0]
    assert (released.cause, released.blame, released.started) == ("crash", "self", True)
    assert released.details is not None
    assert "kill_rss" in released.details["killed_for"]
    assert {first, second} == {"pool/1", "pool/2"}


def test_a_limit_below_what_the_programs_take_is_said_once_and_recycles_nothing() -> None:
    """Each replacement would be as large."""
    rig = Rig(processes=1, max_rss_bytes=100 * MIB, kill_rss_bytes=110 * MIB).running()
    for _ in range(3):
        weigh(rig, e1=50)
    assert rig.starts() == rig.kills() == []
    assert sum("max_rss_too_low" in text for text in rig.logs()) == 1
    run_jobs(rig, 1)
    weigh(rig, e1=50)
    assert rig.kills() == ["pool/1"], "with a job behind it nobody can tell"


def test_a_replacement_that_dies_is_tried_again_and_the_old_one_serves() -> None:
    rig = Rig(processes=1, max_jobs_per_executor=1).running()
    run_jobs(rig, 1)
    rig.gone("pool/2", 1)
    assert rig.start_job("x") == "pool/1"
    rig.wait(300, beating=("pool/1",))
    assert "pool/3" in rig.core._crew.executors
    rig.ready("pool/3")
    assert rig.shown()["pool/1"]["state"] == "retiring"


def test_a_worn_executor_that_dies_is_not_replaced_twice() -> None:
    rig = Rig(processes=1, max_jobs_per_executor=1).running()
    run_jobs(rig, 1)
    assert rig.starts() == ["pool/2"]
    rig.gone("pool/1")
    assert rig.starts() == []
    rig.ready("pool/2")
    assert rig.last_ready().slots == {"default": 4}


def test_a_stop_starts_no_replacement() -> None:
    rig = Rig(processes=1, max_jobs_per_executor=1).running()
    executor = rig.start_job("j")
    rig.do(ev.Shutdown())
    rig.finish(executor, "j")
    assert rig.starts() == []


def test_jobs_and_memory_are_shown_and_told_only_when_they_changed() -> None:
    rig = Rig(processes=1).running()
    weigh(rig, e1=50)
    assert rig.shown()["pool/1"]["private_bytes"] == 50 * MIB
    assert rig.shown()["pool/1"]["shared_bytes"] == 100 * MIB
    run_jobs(rig, 2)
    weigh(rig, e1=60)
    assert rig.sent(w.Ready) == [], "not every time"
    rig.wait(10_000, beating=("pool/1",))
    weigh(rig, e1=60)
    assert (rig.shown()["pool/1"]["jobs"], rig.shown()["pool/1"]["private_bytes"]) == (2, 60 * MIB)
    rig.wait(10_000, beating=("pool/1",))
    weigh(rig, e1=61)
    assert rig.sent(w.Ready) == []


@pytest.mark.parametrize("processes", [1, 4])
def test_a_condemned_executor_stays_condemned(processes: int) -> None:
    rig = Rig(processes=processes, max_jobs_per_executor=1, grace_ms=30_000).running()
    executor = rig.start_job("deaf")
    rig.start_job("other")
    rig.broker(w.Cancel(lease="deaf", cause="cancel", grace_ms=1_000))
    rig.wait(1_001, beating=tuple(rig.core._crew.executors))
    assert rig.shown()[executor]["state"] in ("condemned", "leaving", "ready")
    assert rig.core._crew.executors[executor].worn == ""


def test_an_executor_that_runs_out_of_files_is_replaced() -> None:
    """Without any it fails every job that needs its LM, at once, and so gets the next one."""
    rig = Rig(processes=1).running()
    rig.do(ev.Memory({"pool/1": Memory(MIB, MIB, files_left=3)}))
    assert rig.starts() == [], "one that had no job would only be followed by one that has as few"
    rig.do(ev.Memory({"pool/1": Memory(MIB, MIB, files_left=100)}))
    run_jobs(rig, 1)
    assert rig.starts() == []
    rig.do(ev.Memory({"pool/1": Memory(MIB, MIB, files_left=3)}))
    assert rig.starts() == ["pool/2"]
    rig.ready("pool/2")
    assert rig.told(Bye) == [("pool/1", Bye(reason="done"))]
