"""Draining a pool, and its end."""

from dspymq.protocol import worker_messages as w
from dspymq.protocol.messages import Bye
from dspymq.worker.supervisor import events as ev
from dspymq.worker.supervisor.core import EXIT_DRAINED, EXIT_FORCED
from tests.unit.worker.pool_rig import Rig


def test_an_idle_pool_ends_as_soon_as_no_dispatch_can_be_on_its_way() -> None:
    """A dispatch that crossed a bye would be lost with it, and charged to its job."""
    rig = Rig().running()
    rig.do(ev.Shutdown())
    assert rig.sent(w.Ready)[0].slots == {"default": 0}
    assert rig.exits() == []
    rig.dispatch("crossed")
    assert rig.sent(w.Released) == [w.Released(lease="crossed", started=False, cause="drain")]
    assert rig.exits() == []
    rig.pong()
    assert rig.sent(Bye) == [Bye(reason="shutdown")]
    assert rig.exits() == [EXIT_DRAINED]


def test_an_idle_pool_without_a_broker_ends_at_once() -> None:
    rig = Rig().running()
    rig.do(ev.SessionDown())
    rig.do(ev.Shutdown())
    assert rig.exits() == [EXIT_DRAINED]


def test_a_pool_that_is_still_starting_ends_at_once() -> None:
    rig = Rig()
    rig.do(ev.Start())
    rig.do(ev.Shutdown())
    assert rig.exits() == [EXIT_DRAINED]


def test_jobs_are_finished_and_their_results_acked_before_the_end() -> None:
    rig = Rig().running()
    executor = rig.start_job("l1")
    rig.do(ev.Shutdown())
    rig.pong()
    assert rig.exits() == []
    rig.finish(executor, "l1")
    assert [r.lease for r in rig.sent(w.Result)] == ["l1"]
    assert rig.exits() == []
    rig.broker(w.Ack(leases=["l1"]))
    assert rig.exits() == [EXIT_DRAINED]


def test_what_is_not_started_is_given_back_at_once() -> None:
    rig = Rig(processes=1).running()
    rig.dispatch("i0", isolate=True)
    rig.do(ev.Shutdown())
    assert rig.sent(w.Released) == [w.Released(lease="i0", started=False, cause="drain")]


def test_at_the_end_of_the_grace_the_rest_is_given_back_without_blame() -> None:
    rig = Rig(grace_ms=3_000).running()
    executor = rig.start_job("l1")
    rig.do(ev.Shutdown())
    rig.pong()
    rig.wait(3_001, beating=("pool/1", "pool/2"))
    assert rig.kills() == [executor]
    assert rig.starts() == []
    rig.gone(executor)
    assert [(r.lease, r.started, r.cause, r.blame) for r in rig.sent(w.Released)] == [("l1", True, "drain", "none")]
    rig.pong()
    assert rig.exits() == [EXIT_DRAINED]


def test_nothing_is_replaced_during_a_shutdown() -> None:
    rig = Rig().running()
    executor = rig.start_job("l1")
    rig.do(ev.Shutdown())
    rig.gone(executor)
    assert rig.starts() == []


def test_results_that_no_broker_takes_are_kept_for_the_grace_and_then_lost() -> None:
    rig = Rig(grace_ms=3_000).running()
    rig.finish(rig.start_job("l1"), "l1")
    rig.do(ev.SessionDown())
    rig.do(ev.Shutdown())
    rig.wait(2_900, beating=("pool/1", "pool/2"))
    assert rig.exits() == []
    rig.wait(200)
    assert rig.exits() == [EXIT_FORCED]
    assert [text for text in rig.logs() if "lost=1" in text]


def test_a_broker_that_comes_back_within_the_grace_gets_the_results() -> None:
    rig = Rig(grace_ms=3_000).running()
    rig.finish(rig.start_job("l1"), "l1")
    rig.do(ev.SessionDown())
    rig.do(ev.Shutdown())
    assert [h.lease for h in rig.resync()] == ["l1"]
    assert [r.lease for r in rig.sent(w.Result)] == ["l1"]
    rig.broker(w.Ack(leases=["l1"]))
    rig.pong()
    assert rig.exits() == [EXIT_DRAINED]


def test_a_broker_that_never_acks_does_not_keep_the_pool() -> None:
    rig = Rig(grace_ms=3_000).running()
    rig.finish(rig.start_job("l1"), "l1")
    rig.do(ev.Shutdown())
    rig.wait(5_100, beating=("pool/1", "pool/2"))
    assert rig.exits() == [EXIT_FORCED]


def test_stop_now_says_bye_and_ends() -> None:
    rig = Rig().running()
    rig.start_job("l1")
    rig.do(ev.Shutdown())
    rig.do(ev.StopNow())
    assert rig.sent(Bye) == [Bye(reason="shutdown")]
    assert rig.exits() == [EXIT_FORCED]
    assert rig.do(ev.Tick()) == []
    assert rig.core.next_ms() is None


def test_a_drain_of_the_broker_gives_back_and_stays_connected() -> None:
    rig = Rig().running()
    executor = rig.start_job("l1")
    rig.dispatch("i0", isolate=True)
    rig.broker(w.Drain(grace_ms=2_000))
    assert [r.lease for r in rig.sent(w.Released)] == ["i0"]
    rig.wait(2_001, beating=("pool/1", "pool/2"))
    assert rig.kills() == [executor]
    assert len(rig.starts()) == 1, "a drained pool is whole"
    rig.gone(executor)
    assert [(r.lease, r.cause, r.blame) for r in rig.sent(w.Released)] == [("l1", "drain", "none")]
    assert rig.exits() == []


def test_a_dispatch_after_a_drain_ends_it() -> None:
    rig = Rig().running()
    rig.broker(w.Drain(grace_ms=2_000))
    assert rig.dispatch("l1")
    rig.wait(3_000, beating=("pool/1", "pool/2"))
    assert rig.kills() == []


def test_a_pool_never_ends_because_it_is_idle_or_alone() -> None:
    """Workers that exited because a client went away, or after 90 s of idleness, or after each success."""
    rig = Rig().running()
    rig.wait(200_000, beating=("pool/1", "pool/2"), step_ms=1_000)
    rig.do(ev.SessionDown())
    rig.wait(200_000, beating=("pool/1", "pool/2"), step_ms=1_000)
    for n in range(20):
        rig.finish(rig.start_job(f"l{n}"), f"l{n}") if n else rig.resync()
    assert not [e for e in rig.history if type(e).__name__ == "Exit"]
