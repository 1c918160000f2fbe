"""Executors in the pool's core: starting, replacing, stalling, condemning, isolating."""

import itertools

from dspymq.protocol import worker_messages as w
from dspymq.protocol.messages import Bye
from dspymq.worker.supervisor import events as ev
from dspymq.worker.supervisor.core import EXIT_PROGRAMS
from tests.unit.worker.pool_rig import WELCOME, Rig, error


def test_all_executors_are_started_at_once() -> None:
    """Workers that were started one by one, 2 s each."""
    rig = Rig(processes=8)
    rig.do(ev.Start())
    assert rig.starts() == [f"pool/{n}" for n in range(1, 9)]


def test_a_dead_executor_is_replaced_in_the_same_event() -> None:
    rig = Rig().running()
    rig.wait(2_000, beating=("pool/1", "pool/2"))
    rig.gone("pool/1")
    assert rig.starts() == ["pool/3"]
    assert rig.sent(w.Ready)[0].slots == {"default": 4}
    rig.ready("pool/3")
    assert rig.sent(w.Ready)[0].slots == {"default": 8}


def test_a_lane_whose_executors_are_all_gone_has_no_slots_and_is_still_there() -> None:
    """A broker would take a lane that vanished for one that this worker cannot serve."""
    rig = Rig(processes=1).running()
    rig.gone("pool/1")
    assert rig.last_ready().slots == {"default": 0}


def test_changes_of_many_executors_are_gathered() -> None:
    rig = Rig(processes=16).running()
    rig.wait(1_000, beating=tuple(f"pool/{n}" for n in range(1, 17)))
    before = len(rig.history)
    for n in range(1, 17):
        rig.gone(f"pool/{n}")
    for n in range(17, 33):
        rig.ready(f"pool/{n}")
    rig.wait(300, beating=tuple(f"pool/{n}" for n in range(17, 33)))
    readies = [e for e in rig.history[before:] if isinstance(getattr(e, "message", None), w.Ready)]
    assert len(readies) <= 8
    assert rig.last_ready().slots == {"default": 64}


def test_a_tick_is_asked_for_when_an_update_waits() -> None:
    rig = Rig(processes=16).running()
    for n in range(1, 17):
        rig.gone(f"pool/{n}")
    due = rig.core.next_ms()
    assert due is not None
    assert due <= rig.now_ms + 100


def test_executors_that_die_before_they_are_ready_are_started_ever_more_slowly() -> None:
    rig = Rig(processes=1)
    rig.do(ev.Start())
    waits = []
    for n in range(1, 9):
        died_ms = rig.now_ms
        rig.gone(f"pool/{n}", 1)
        assert rig.starts() == []
        while not rig.starts():
            due = rig.core.next_ms()
            assert due is not None
            rig.now_ms = due
            rig.do(ev.Tick())
        waits.append(rig.now_ms - died_ms)
    assert waits == [200, 400, 800, 1_600, 3_200, 5_000, 5_000, 5_000]


def test_eight_that_die_together_are_one_failure() -> None:
    rig = Rig(processes=8)
    rig.do(ev.Start())
    for n in range(1, 9):
        rig.gone(f"pool/{n}", 1)
    rig.now_ms += 200
    rig.do(ev.Tick())
    assert len(rig.starts()) == 8


def test_executors_that_die_right_after_they_were_ready_back_off_too() -> None:
    rig = Rig(processes=1).running()
    rig.now_ms += 200
    rig.gone("pool/1")
    assert rig.starts() == []


def test_an_executor_that_died_of_a_job_is_replaced_without_a_pause() -> None:
    rig = Rig(processes=1).running()
    rig.gone(rig.start_job("l1"))
    assert rig.starts() == ["pool/2"]


def test_programs_that_cannot_be_loaded_end_the_pool_with_one_line() -> None:
    rig = Rig(processes=4)
    rig.do(ev.Start())
    rig.do(ev.ExecutorStarted("pool/1", 1))
    rig.executor("pool/1", error("programs_failed", "no module named app"))
    assert rig.exits() == [EXIT_PROGRAMS]
    rig.executor("pool/2", error("programs_failed", "no module named app"))
    assert rig.effects == []
    assert sum("no module named app" in text for text in rig.logs()) == 1


def test_programs_that_fail_later_do_not_end_the_pool() -> None:
    rig = Rig(processes=1).running()
    rig.now_ms += 5_000
    rig.gone("pool/1")
    rig.executor("pool/2", error("programs_failed"))
    assert rig.exits() == []
    rig.gone("pool/2", 3)
    assert rig.starts() == []
    rig.wait(5_000)
    assert rig.starts() == ["pool/3"]


def test_a_thread_of_the_programs_makes_the_pool_spawn_with_one_warning() -> None:
    rig = Rig(processes=2)
    rig.do(ev.Start())
    assert [e.spawn for e in rig.effects if hasattr(e, "spawn")] == [False, False]
    for n in (1, 2):
        rig.do(ev.ExecutorStarted(f"pool/{n}", n))
        rig.executor(f"pool/{n}", error("threads_started", "importing app started 1 thread(s)"))
    rig.gone("pool/1", 3)
    assert [e.spawn for e in rig.effects if hasattr(e, "spawn")] == [True]
    rig.gone("pool/2", 3)
    assert [e.spawn for e in rig.effects if hasattr(e, "spawn")] == [True]
    assert sum("importing app started" in text for text in rig.logs()) == 1
    rig.ready("pool/3")
    assert rig.core.next_ms() is not None


def test_a_process_that_never_gets_ready_is_killed_and_started_again() -> None:
    rig = Rig(processes=1, start_timeout_ms=10_000)
    rig.do(ev.Start())
    rig.do(ev.ExecutorStarted("pool/1", 1))
    rig.wait(10_001)
    assert rig.kills() == ["pool/1"]
    assert rig.starts() == ["pool/2"]
    rig.gone("pool/1")
    assert rig.starts() == []


def test_programs_that_take_long_to_import_are_waited_for() -> None:
    rig = Rig(processes=1, start_timeout_ms=10_000)
    rig.do(ev.Start())
    rig.wait(30_000)
    assert rig.kills() == []
    assert [text for text in rig.logs() if "start_slow" in text]


def test_a_silent_executor_gets_no_jobs_and_is_shown_as_stalled() -> None:
    rig = Rig().running()
    busy = rig.start_job("l1")
    other = {"pool/1": "pool/2", "pool/2": "pool/1"}[busy]
    rig.wait(5_001, beating=(other,))
    assert rig.shown()[busy]["state"] == "stalled"
    # Four that are free, and the one that the broker knows to be taken.
    assert rig.last_ready().slots == {"default": 5}
    assert {rig.dispatch(f"m{n}") for n in range(4)} == {other}
    rig.beat(busy)
    assert rig.shown()[busy]["state"] == "ready"
    assert rig.last_ready().slots == {"default": 8}
    assert rig.dispatch("m4") == busy


def test_a_stalled_executor_is_killed_by_the_deadline_of_its_jobs_and_their_grace() -> None:
    rig = Rig(processes=1).running()
    executor = rig.start_job("l1", timeout_ms=8_000)
    rig.wait(12_900)
    assert rig.kills() == []
    rig.wait(200)
    assert rig.kills() == [executor]
    assert rig.starts() == ["pool/2"]
    rig.gone(executor)
    assert [(r.started, r.cause, r.blame) for r in rig.sent(w.Released)] == [(True, "stall", "self")]


def test_jobs_on_an_executor_whose_loop_hangs_share_the_blame() -> None:
    """Nobody can say which of them holds the loop: all look as if they ignored their cancel."""
    rig = Rig(processes=1).running()
    for n in range(3):
        rig.start_job(f"l{n}", timeout_ms=8_000)
    rig.wait(13_100)
    assert rig.kills() == ["pool/1"]
    rig.gone("pool/1")
    assert [r.blame for r in rig.sent(w.Released)] == ["shared"] * 3


def test_a_stalled_executor_without_jobs_is_replaced() -> None:
    rig = Rig(processes=1).running()
    rig.wait(10_001)
    assert rig.kills() == ["pool/1"]
    assert rig.starts() == ["pool/2"]
    rig.gone("pool/1")
    assert rig.starts() == []


def test_a_job_that_ignores_its_cancel_costs_the_process_its_life_not_its_neighbours() -> None:
    rig = Rig(processes=1, grace_ms=30_000).running()
    for lease in ("deaf", "good"):
        rig.start_job(lease)
    rig.broker(w.Cancel(lease="deaf", cause="cancel", grace_ms=2_000))
    rig.wait(2_001, beating=("pool/1",))
    assert rig.starts() == ["pool/2"], "the replacement starts at once"
    assert rig.kills() == []
    assert rig.shown()["pool/1"]["state"] == "condemned"
    rig.ready("pool/2")
    assert rig.dispatch("new") == "pool/2"
    rig.finish("pool/1", "good")
    assert [r.lease for r in rig.sent(w.Result)] == ["good"]
    assert rig.kills() == ["pool/1"], "only the deaf job is left"
    rig.gone("pool/1")
    assert [(r.lease, r.cause, r.blame) for r in rig.sent(w.Released)] == [("deaf", "stall", "self")]


def test_neighbours_of_a_deaf_job_have_the_grace_and_are_not_convicted() -> None:
    rig = Rig(processes=1, grace_ms=10_000).running()
    for lease in ("deaf", "good"):
        rig.start_job(lease)
    rig.broker(w.Cancel(lease="deaf", cause="cancel", grace_ms=2_000))
    rig.wait(11_900, beating=("pool/1",))
    assert rig.kills() == []
    rig.wait(200, beating=("pool/1",))
    assert rig.kills() == ["pool/1"]
    rig.gone("pool/1")
    assert [(r.lease, r.started, r.blame) for r in rig.sent(w.Released)] == [
        ("deaf", True, "self"),
        ("good", True, "none"),
    ]


def test_neighbours_of_a_job_that_holds_the_gil_do_not_wait_for_the_whole_grace() -> None:
    rig = Rig(processes=1, grace_ms=30_000, stall_ms=4_000).running()
    for lease in ("deaf", "good"):
        rig.start_job(lease)
    rig.broker(w.Cancel(lease="deaf", cause="cancel", grace_ms=2_000))
    rig.wait(3_900)
    assert rig.shown()["pool/1"]["state"] == "condemned"
    assert rig.kills() == []
    rig.wait(200)
    assert rig.kills() == ["pool/1"], "in a silent process nobody gets on"


def test_a_condemned_executor_whose_jobs_end_after_all_is_told_to_exit() -> None:
    rig = Rig(processes=1).running()
    rig.start_job("deaf")
    rig.start_job("other")
    rig.broker(w.Cancel(lease="deaf", cause="cancel", grace_ms=1_000))
    rig.wait(1_001, beating=("pool/1",))
    rig.finish("pool/1", "deaf", code="CANCELLED")
    assert [r.lease for r in rig.sent(w.Result)] == ["deaf"]
    rig.finish("pool/1", "other")
    assert rig.told(Bye) == [("pool/1", Bye(reason="done"))]
    rig.wait(2_001)
    assert rig.kills() == ["pool/1"], "it did not go"


def test_a_fenced_cancel_without_grace_is_not_a_death_sentence_at_once() -> None:
    rig = Rig(processes=1).running()
    rig.start_job("l1")
    rig.broker(w.Cancel(lease="l1", cause="fenced", grace_ms=0))
    assert rig.kills() == rig.starts() == []
    rig.wait(1_001, beating=("pool/1",))
    assert rig.kills() == ["pool/1"]


def test_an_isolated_job_runs_alone_in_an_extra_executor_that_ends_after_it() -> None:
    rig = Rig(processes=1).running()
    assert rig.dispatch("alone", isolate=True) == ""
    assert rig.starts() == ["pool/2"]
    rig.ready("pool/2")
    assert [(name, m.lease) for name, m in rig.told(w.Dispatch)] == [("pool/2", "alone")]
    assert rig.shown()["pool/2"]["state"] == "isolated"
    assert rig.last_ready().slots == {"default": 4}, "its slot is one of the pool's"
    assert rig.dispatch("other") == "pool/1", "nobody joins it"
    rig.started("pool/2", "alone")
    rig.finish("pool/2", "alone")
    assert rig.told(Bye) == [("pool/2", Bye(reason="done"))]
    rig.gone("pool/2", 0)
    assert rig.starts() == []
    assert not [text for text in rig.logs() if "died" in text]


def test_a_death_in_isolation_convicts() -> None:
    rig = Rig(processes=1).running()
    rig.dispatch("alone", isolate=True)
    rig.ready("pool/2")
    rig.started("pool/2", "alone")
    rig.gone("pool/2", -11)
    assert [(r.lease, r.blame) for r in rig.sent(w.Released)] == [("alone", "self")]


def test_at_most_as_many_are_isolated_as_there_are_processes_and_the_rest_waits_unstarted() -> None:
    rig = Rig(processes=2).running()
    started = []
    for n in range(5):
        rig.dispatch(f"i{n}", isolate=True, timeout_ms=60_000)
        started += rig.starts()
    assert started == ["pool/3", "pool/4"]
    order = []
    for n in itertools.count(3):
        if n > 7:
            break
        rig.now_ms += 1_000
        rig.ready(f"pool/{n}")
        lease = rig.told(w.Dispatch)[0][1]
        order.append((lease.lease, lease.timeout_ms))
        rig.started(f"pool/{n}", lease.lease)
        rig.finish(f"pool/{n}", lease.lease)
        rig.gone(f"pool/{n}", 0)
    assert [lease for lease, _ in order] == [f"i{n}" for n in range(5)]
    assert order[0][1] == 59_000
    assert order[4][1] == 55_000


def test_waiting_isolated_jobs_can_be_cancelled_and_expire() -> None:
    rig = Rig(processes=1).running()
    rig.dispatch("i0", isolate=True)
    rig.dispatch("i1", isolate=True)
    rig.dispatch("i2", isolate=True, timeout_ms=1_000)
    rig.broker(w.Cancel(lease="i1", cause="cancel", grace_ms=5_000))
    assert [(r.lease, r.code) for r in rig.sent(w.Result)] == [("i1", "CANCELLED")]
    rig.wait(1_001, beating=("pool/1",))
    assert [(r.lease, r.code) for r in rig.sent(w.Result)] == [("i2", "DEADLINE_EXCEEDED")]
    rig.ready("pool/2")
    assert [m.lease for _, m in rig.told(w.Dispatch)] == ["i0"]


def test_an_isolated_executor_that_is_not_needed_any_more_leaves() -> None:
    rig = Rig(processes=1).running()
    rig.dispatch("i0", isolate=True)
    rig.broker(w.Cancel(lease="i0", cause="cancel", grace_ms=5_000))
    rig.ready("pool/2")
    assert rig.told(Bye) == [("pool/2", Bye(reason="done"))]


def test_an_isolated_executor_that_cannot_start_gives_its_job_back() -> None:
    rig = Rig(processes=1).running()
    rig.dispatch("i0", isolate=True)
    rig.gone("pool/2", 1)
    assert [(r.lease, r.started, r.blame) for r in rig.sent(w.Released)] == [("i0", False, "none")]


def test_waiting_isolated_jobs_are_held() -> None:
    rig = Rig(processes=1).running()
    rig.dispatch("i0", isolate=True)
    assert [h.lease for h in rig.resync()] == ["i0"]
    rig.session_again()
    rig.broker(w.Synced(keep=[]))
    assert not rig.core.busy


def test_the_pool_is_shown_with_its_processes() -> None:
    rig = Rig(processes=2, wall_offset_ms=5)
    rig.do(ev.Start())
    rig.do(ev.SessionUp(WELCOME))
    rig.ready("pool/1", pid=77)
    assert rig.shown() == {
        "pool/1": {
            "id": "pool/1", "pid": 77, "state": "ready", "slots": {"default": 4}, "in_flight": 0,
            "started_at_ms": 1_000_005, "jobs": 0,
        },
        "pool/2": {
            "id": "pool/2", "pid": None, "state": "starting", "slots": {}, "in_flight": 0,
            "started_at_ms": 1_000_005, "jobs": 0,
        },
    }  # fmt: skip
