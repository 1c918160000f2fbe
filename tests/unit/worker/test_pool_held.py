"""What a pool holds when its broker comes back, and what the broker may not lose."""

from dspymq.protocol import Limits, encode
from dspymq.protocol import worker_messages as w
from dspymq.protocol.messages import Ping, Pong
from dspymq.worker.supervisor import effects as ef
from dspymq.worker.supervisor import events as ev
from tests.unit.worker.pool_rig import WELCOME, Rig


def test_nothing_is_said_before_the_programs_are_known() -> None:
    """A worker that offers nothing yet would make the broker refuse jobs that it can run in a second."""
    rig = Rig(processes=1)
    rig.do(ev.Start())
    rig.do(ev.SessionUp(WELCOME))
    assert rig.effects == []
    rig.ready("pool/1")
    assert [(r.held, r.more, r.slots) for r in rig.sent(w.Ready)] == [([], False, {"default": 4})]


def test_a_dispatch_before_synced_is_not_started() -> None:
    rig = Rig().running(sync=False)
    assert rig.dispatch("l1") == ""
    assert not rig.core.busy


def test_running_and_done_leases_are_reported_and_the_results_follow_the_sync() -> None:
    rig = Rig().running()
    executor = rig.start_job("running", timeout_ms=10_000)
    other = rig.start_job("done", want=["chunks"])
    rig.do(ev.SessionDown())
    rig.chunk(other, "done", 0)
    rig.finish(other, "done", chunks=1)
    assert rig.sent(w.Result) == []
    rig.now_ms += 1_000
    rig.do(ev.SessionUp(WELCOME))
    page = rig.sent(w.Ready)[0]
    assert page.held is not None
    assert [(h.lease, h.state, h.seq, h.left_ms) for h in page.held] == [
        ("running", "running", 0, 9_000),
        ("done", "done", 1, 59_000),
    ]
    assert next((h.ns, h.job, h.attempt, h.digest) for h in page.held) == ("a", "job-running", 1, "d" * 32)
    assert rig.sent(w.Result) == []
    rig.broker(w.Synced(keep=["running", "done"]))
    assert [r.lease for r in rig.sent(w.Result)] == ["done"]
    rig.finish(executor, "running")
    assert [r.lease for r in rig.sent(w.Result)] == ["running"]


def test_a_result_is_sent_again_until_it_is_acked() -> None:
    rig = Rig().running()
    rig.finish(rig.start_job("l1"), "l1")
    for _ in range(3):
        assert [h.state for h in rig.resync()] == ["done"]
        assert rig.effects == [ef.ToBroker(w.Result(lease="l1", attempt=1, code="OK"), b"out")]
    rig.broker(w.Ack(leases=["l1", "unknown"]))
    assert rig.resync() == []


def test_what_the_broker_does_not_keep_is_stopped_and_forgotten() -> None:
    rig = Rig().running()
    executor = rig.start_job("running", want=["chunks"])
    rig.finish(rig.start_job("done"), "done")
    rig.session_again()
    rig.broker(w.Synced(keep=[]))
    assert rig.told(w.Cancel) == [(executor, w.Cancel(lease="running", cause="fenced", grace_ms=5_000))]
    assert rig.sent(w.Result) == []
    # The broker does not count this lease any more, but until it has stopped it takes a slot.
    assert rig.last_ready().slots == {"default": 7}
    assert rig.chunk(executor, "running", 0) == []
    (told,) = rig.finish(executor, "running")
    assert isinstance(told, ef.ToBroker)
    assert isinstance(told.message, w.Ready)
    assert told.message.slots == {"default": 8}
    assert not rig.core.busy
    assert rig.resync() == []


def test_nothing_is_sent_of_a_dropped_lease_in_later_sessions() -> None:
    rig = Rig().running()
    executor = rig.start_job("running", want=["chunks", "started"])
    assert rig.resync(keep=[])
    assert rig.resync() == []
    assert rig.effects == []
    rig.gone(executor)
    assert rig.sent(w.Released) == []


def test_a_dropped_lease_that_ignores_its_cancel_condemns_its_executor() -> None:
    rig = Rig(processes=1).running()
    executor = rig.start_job("running")
    rig.session_again()
    rig.broker(w.Synced(keep=[]))
    rig.wait(5_001, beating=("pool/1",))
    assert rig.kills() == [executor]
    rig.gone(executor)
    assert rig.sent(w.Released) == []


def test_450_leases_go_in_three_pages_and_each_waits_for_its_answer() -> None:
    rig = Rig(processes=1)
    rig.slots_of = {"default": 450}
    rig.running()
    for n in range(450):
        rig.dispatch(f"l{n:03}")
    rig.session_again()
    pages = []
    while True:
        pages.append(rig.sent(w.Ready)[0])
        held = pages[-1].held
        assert held is not None
        rig.broker(w.Synced(keep=[entry.lease for entry in held]))
        if not pages[-1].more:
            break
    assert [len(page.held or []) for page in pages] == [200, 200, 50]
    assert [page.more for page in pages] == [True, True, False]
    assert {entry.lease for page in pages for entry in page.held or []} == {f"l{n:03}" for n in range(450)}


def test_a_page_keeps_the_header_limit_whatever_the_ids() -> None:
    rig = Rig(processes=1)
    rig.slots_of = {"default": 300}
    rig.running()
    for n in range(300):
        rig.dispatch(f"{n:064}", job="j" * 64, ns="é" * 64, digest="d" * 64)
    limit = Limits().max_header_bytes
    rig.session_again()
    reported = 0
    while True:
        page = rig.sent(w.Ready)[0]
        assert len(encode(page)[1]) <= limit
        reported += len(page.held or [])
        rig.broker(w.Synced(keep=[entry.lease for entry in page.held or []]))
        if not page.more:
            break
    assert reported == 300


def test_a_session_that_is_lost_between_two_pages_begins_anew() -> None:
    rig = Rig(processes=1)
    rig.slots_of = {"default": 250}
    rig.running()
    for n in range(250):
        rig.dispatch(f"l{n}")
    rig.session_again()
    assert rig.sent(w.Ready)[0].more
    assert len(rig.resync()) == 250
    assert rig.core.busy


def test_a_lease_that_ends_after_its_page_was_sent_is_settled_after_the_sync() -> None:
    rig = Rig(processes=1).running()
    executor = rig.start_job("l1")
    crashed = rig.start_job("l2")
    rig.session_again()
    rig.finish(executor, "l1")
    rig.gone(crashed)
    assert rig.sent(w.Result) == rig.sent(w.Released) == []
    rig.broker(w.Synced(keep=["l1", "l2"]))
    assert [r.lease for r in rig.sent(w.Result)] == ["l1"]
    assert [(r.lease, r.blame) for r in rig.sent(w.Released)] == [("l2", "self")]


def test_a_crash_during_an_outage_is_not_mistaken_for_a_job_never_received() -> None:
    """Absent from held would mean: never received, refunded; a job with side effects would run twice."""
    rig = Rig(processes=1).running()
    executor = rig.start_job("l1")
    rig.do(ev.SessionDown())
    rig.gone(executor)
    assert [(h.lease, h.state) for h in rig.resync()] == [("l1", "running")]
    assert [(r.started, r.cause, r.blame) for r in rig.sent(w.Released)] == [(True, "crash", "self")]


def test_released_is_held_until_a_pong_proves_that_it_was_heard() -> None:
    rig = Rig(processes=1).running()
    rig.gone(rig.start_job("l1"))
    assert len(rig.sent(Ping)) == 1
    assert [h.lease for h in rig.resync()] == ["l1"]
    assert len(rig.sent(w.Released)) == 1
    rig.pong()
    assert rig.resync() == []


def test_what_was_given_back_unstarted_is_not_held() -> None:
    """Another broker would adopt it, and charge for an attempt that never began; absence is a refund."""
    rig = Rig(processes=1).running()
    for n in range(5):
        rig.dispatch(f"l{n}")
    assert [(r.lease, r.started) for r in rig.sent(w.Released)] == [("l4", False)]
    assert [one.lease for one in rig.resync()] == ["l0", "l1", "l2", "l3"]
    assert rig.sent(w.Released) == []


def test_a_pong_from_before_does_not_prove_it() -> None:
    rig = Rig(processes=1).running()
    rig.gone(rig.start_job("l1"))
    rig.broker(Pong(n=0))
    assert [h.lease for h in rig.resync()] == ["l1"]


def test_a_pong_for_another_ping_does_not_prove_what_was_not_even_sent() -> None:
    rig = Rig(processes=1).running()
    executor = rig.start_job("l1")
    rig.session_again()
    rig.gone(executor)
    rig.broker(Pong(n=0))
    rig.broker(w.Synced(keep=["l1"]))
    assert [r.lease for r in rig.sent(w.Released)] == ["l1"]


def test_streams_begin_anew_after_a_session_was_lost() -> None:
    rig = Rig().running()
    executor = rig.start_job("l1", want=["chunks", "started"], window=7)
    rig.chunk(executor, "l1", 0)
    rig.do(ev.SessionDown())
    rig.chunk(executor, "l1", 1)
    rig.do(ev.SessionUp(WELCOME))
    rig.broker(w.Synced(keep=["l1"]))
    assert rig.told(w.Attach) == [(executor, w.Attach(lease="l1", want=["chunks", "started"], window=7))]
    assert len(rig.sent(w.Started)) == 1
    assert rig.chunk(executor, "l1", 2) == []
    assert len(rig.chunk(executor, "l1", 3, reset=True)) == 1


def test_after_a_stall_of_its_own_nothing_that_waited_is_started() -> None:
    """A dispatch that waited in the socket runs elsewhere since; its cancel would come after it."""
    rig = Rig().running()
    rig.start_job("l1")
    rig.now_ms += 30_000
    rig.do(ev.OwnStall())
    assert rig.dispatch("stale") == ""
    rig.broker(w.Cancel(lease="l1", cause="cancel", grace_ms=0))
    assert [message.lease for _, message in rig.told(w.Cancel)] == ["l1"]
    rig.do(ev.SessionUp(WELCOME))
    assert [h.lease for h in rig.sent(w.Ready)[0].held or []] == ["l1"]
    assert rig.dispatch("early") == ""
    rig.broker(w.Synced(keep=["l1"]))
    assert rig.dispatch("fresh") != ""


def test_executors_are_not_blamed_for_a_stall_of_the_supervisor() -> None:
    rig = Rig().running()
    rig.now_ms += 30_000
    rig.do(ev.OwnStall())
    rig.do(ev.Tick())
    assert rig.kills() == []
    assert not [text for text in rig.logs() if "stalled" in text]


def test_a_synced_that_nobody_waits_for_changes_nothing() -> None:
    rig = Rig().running()
    executor = rig.start_job("l1")
    assert rig.broker(w.Synced(keep=[])) == []
    rig.finish(executor, "l1")
    assert len(rig.sent(w.Result)) == 1


def test_what_was_fenced_is_not_reported_to_the_next_session() -> None:
    """Another broker would take its end, a cancellation that nobody asked for, for the job's."""
    rig = Rig(processes=1).running()
    executor = rig.start_job("fenced")
    rig.start_job("ended")
    rig.start_job("kept")
    for lease in ("fenced", "ended"):
        rig.broker(w.Cancel(lease=lease, cause="fenced", grace_ms=0))
    rig.do(ev.SessionDown())
    rig.finish(executor, "ended", code="CANCELLED", reason="cancelled")
    assert [entry.lease for entry in rig.resync()] == ["kept"]
    assert rig.sent(w.Result) == []
    assert rig.last_ready().slots == {"default": 3}, "the one that is still being stopped takes its slot away"
    rig.finish(executor, "fenced", code="CANCELLED", reason="cancelled")
    assert rig.sent(w.Result) == []
    assert rig.last_ready().slots == {"default": 4}
