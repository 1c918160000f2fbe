"""Jobs in the pool's core: each race is a list of events."""

import msgspec
import pytest

from dspymq.protocol import Limits, body
from dspymq.protocol import worker_messages as w
from dspymq.protocol.messages import Error, Ping
from dspymq.worker.supervisor import effects as ef
from dspymq.worker.supervisor import events as ev
from tests.unit.worker.pool_rig import WELCOME, Rig, error


def test_a_job_goes_to_the_executor_with_most_free_slots() -> None:
    rig = Rig().running()
    assert [rig.dispatch(f"l{n}") for n in range(8)] == ["pool/1", "pool/2"] * 4


def test_a_no_op_job_costs_one_message_to_the_broker() -> None:
    rig = Rig().running()
    executor = rig.dispatch("l1")
    rig.started(executor, "l1")
    assert rig.effects == []
    rig.finish(executor, "l1")
    assert [type(e) for e in rig.effects] == [ef.ToBroker]
    assert rig.effects[0] == ef.ToBroker(w.Result(lease="l1", attempt=1, code="OK"), b"out")
    rig.broker(w.Ack(leases=["l1"]))
    assert not rig.core.busy


def test_started_chunks_and_progress_go_on_only_if_wanted() -> None:
    rig = Rig().running()
    quiet = rig.dispatch("quiet")
    rig.started(quiet, "quiet")
    rig.chunk(quiet, "quiet", 0)
    assert rig.effects == []
    eager = rig.dispatch("eager", want=["started", "chunks", "progress"], window=8)
    rig.started(eager, "eager")
    assert len(rig.sent(w.Started)) == 1
    rig.chunk(eager, "eager", 0)
    assert rig.effects == [ef.ToBroker(w.Chunk(lease="eager", attempt=1, seq=0), b"text")]
    rig.executor(eager, w.Progress(lease="eager", attempt=1, done=1))
    assert len(rig.sent(w.Progress)) == 1


def test_no_free_slot_is_answered_at_once() -> None:
    rig = Rig(processes=1).running()
    for n in range(4):
        rig.dispatch(f"l{n}")
    assert rig.dispatch("l4") == ""
    assert rig.sent(w.Released) == [w.Released(lease="l4", started=False, cause="capacity")]


def test_a_dispatch_that_came_twice_runs_once() -> None:
    rig = Rig().running()
    assert rig.dispatch("l1")
    assert rig.dispatch("l1") == ""
    assert rig.effects == []


def test_an_executor_that_dies_between_dispatch_and_started_gives_the_job_back_unstarted() -> None:
    rig = Rig(processes=1).running()
    executor = rig.dispatch("l1")
    rig.gone(executor)
    details = {"executor": "pool/1", "exit_code": -9}
    assert rig.sent(w.Released) == [w.Released(lease="l1", started=False, cause="crash", details=details)]


def test_a_death_alone_convicts_and_a_death_together_does_not() -> None:
    rig = Rig(processes=1).running()
    executor = rig.start_job("l1")
    rig.gone(executor)
    assert [(r.started, r.cause, r.blame) for r in rig.sent(w.Released)] == [(True, "crash", "self")]
    rig.ready("pool/2")
    rig.start_job("l2")
    rig.start_job("l3")
    rig.dispatch("l4")
    rig.gone("pool/2", -11)
    assert [(r.lease, r.started, r.blame) for r in rig.sent(w.Released)] == [
        ("l2", True, "shared"),
        ("l3", True, "shared"),
        ("l4", False, "none"),
    ]


def test_slots_that_are_gone_are_told_before_the_jobs_that_are_given_back() -> None:
    """Else the broker fills slots that do not exist any more."""
    rig = Rig().running()
    executor = rig.start_job("l1")
    rig.gone(executor)
    kinds = [type(e.message) for e in rig.effects if isinstance(e, ef.ToBroker)]
    assert kinds == [w.Ready, w.Released, Ping]
    assert rig.sent(w.Ready)[0].slots == {"default": 4}
    assert rig.effects.index(ef.StartExecutor("pool/3", False)) == 1, "the replacement is started before all of that"


def test_a_result_before_a_death_is_a_result() -> None:
    rig = Rig(processes=1).running()
    executor = rig.start_job("l1")
    rig.finish(executor, "l1")
    assert len(rig.sent(w.Result)) == 1
    rig.gone(executor)
    assert rig.sent(w.Released) == []


def test_a_cancel_after_the_result_changes_nothing() -> None:
    rig = Rig().running()
    executor = rig.start_job("l1")
    rig.finish(executor, "l1")
    rig.broker(w.Cancel(lease="l1", cause="cancel", grace_ms=5_000))
    assert rig.effects == []


def test_a_result_after_the_cancel_is_the_result() -> None:
    rig = Rig().running()
    executor = rig.start_job("l1")
    rig.broker(w.Cancel(lease="l1", cause="cancel", grace_ms=5_000))
    assert rig.told(w.Cancel) == [(executor, w.Cancel(lease="l1", cause="cancel", grace_ms=5_000))]
    rig.finish(executor, "l1", code="CANCELLED", reason="cancelled")
    assert rig.sent(w.Result)[0].code == "CANCELLED"
    rig.wait(20_000, beating=("pool/1", "pool/2"))
    assert rig.kills() == []


def test_a_repeated_cancel_does_not_give_more_time() -> None:
    rig = Rig(processes=1).running()
    rig.start_job("l1")
    for _ in range(3):
        rig.broker(w.Cancel(lease="l1", cause="cancel", grace_ms=5_000))
        rig.wait(1_500, beating=("pool/1",))
    assert rig.kills() == []
    rig.wait(600, beating=("pool/1",))
    assert rig.kills() == ["pool/1"]


def test_an_ack_of_a_job_that_still_runs_changes_nothing() -> None:
    rig = Rig().running()
    executor = rig.start_job("l1")
    rig.broker(w.Ack(leases=["l1"]))
    assert [h.lease for h in rig.resync()] == ["l1"]
    rig.finish(executor, "l1")
    assert [r.lease for r in rig.sent(w.Result)] == ["l1"]


def test_who_had_not_started_is_no_company_in_a_death() -> None:
    rig = Rig(processes=1).running()
    rig.start_job("l1")
    rig.dispatch("l2")
    rig.gone("pool/1")
    assert [(r.lease, r.started, r.blame) for r in rig.sent(w.Released)] == [
        ("l1", True, "self"),
        ("l2", False, "none"),
    ]


def test_the_deadline_is_kept_without_a_broker_and_a_cancel_then_changes_nothing() -> None:
    rig = Rig().running()
    executor = rig.start_job("l1", timeout_ms=2_000)
    rig.do(ev.SessionDown())
    rig.wait(2_001, beating=("pool/1", "pool/2"))
    assert rig.told(w.Cancel) == [(executor, w.Cancel(lease="l1", cause="deadline", grace_ms=5_000))]
    rig.broker(w.Cancel(lease="l1", cause="deadline", grace_ms=5_000))
    assert rig.effects == []
    rig.finish(executor, "l1", code="DEADLINE_EXCEEDED", reason="deadline")
    assert rig.sent(w.Result) == []
    rig.resync()
    assert rig.sent(w.Result)[0].code == "DEADLINE_EXCEEDED"


def test_a_cancel_for_an_unknown_lease_is_no_matter() -> None:
    rig = Rig().running()
    assert rig.broker(w.Cancel(lease="never", cause="cancel", grace_ms=0)) == []


def test_a_result_that_is_too_large_ends_the_job_here() -> None:
    rig = Rig().running()
    rig.do(ev.SessionUp(msgspec.structs.replace(WELCOME, limits=Limits(max_body_bytes=10))))
    rig.broker(w.Synced())
    executor = rig.start_job("l1")
    rig.finish(executor, "l1", b"x" * 11, chunks=3)
    sent = rig.sent(w.Result)[0]
    assert (sent.code, sent.reason, sent.chunks) == ("RESOURCE_EXHAUSTED", "result_too_large", 3)
    assert next(e.body for e in rig.effects if isinstance(e, ef.ToBroker)) == b""


def test_a_result_that_the_broker_refuses_for_its_header_comes_again_without_details() -> None:
    rig = Rig().running()
    executor = rig.start_job("l1")
    rig.finish(executor, "l1", b"", code="INVALID_ARGUMENT", reason="invalid_inputs", details={"fields": ["x"] * 9})
    refusal = Error(code="RESOURCE_EXHAUSTED", reason="header_too_large", lease="l1")
    rig.broker(refusal)
    assert [(r.code, r.details) for r in rig.sent(w.Result)] == [("RESOURCE_EXHAUSTED", None)]
    rig.broker(refusal)
    assert rig.sent(w.Result) == []


def test_what_an_executor_gives_back_is_given_back() -> None:
    rig = Rig().running()
    executor = rig.dispatch("l1")
    rig.executor(executor, w.Released(lease="l1", started=False, cause="capacity"))
    assert rig.sent(w.Released) == [w.Released(lease="l1", started=False, cause="capacity")]
    assert rig.dispatch("l2")


def test_credit_tool_results_and_attach_reach_the_executor_of_their_lease() -> None:
    rig = Rig().running()
    executor = rig.start_job("l1", want=["chunks"], window=4)
    credit = w.Credit(lease="l1", attempt=1, upto=9)
    rig.broker(credit)
    assert rig.told(w.Credit) == [(executor, credit)]
    rig.broker(w.Attach(lease="l1", want=["chunks", "started"], window=2))
    assert rig.told(w.Attach) == [(executor, w.Attach(lease="l1", want=["chunks", "started"], window=2))]
    assert len(rig.sent(w.Started)) == 1


def test_after_an_attach_nothing_of_the_old_stream_goes_on() -> None:
    rig = Rig().running()
    executor = rig.start_job("l1", want=["chunks"])
    rig.broker(w.Attach(lease="l1", want=["chunks"]))
    assert rig.chunk(executor, "l1", 3) == []
    assert len(rig.chunk(executor, "l1", 4, reset=True)) == 1
    assert len(rig.chunk(executor, "l1", 5)) == 1


def test_a_broker_that_does_not_read_gets_a_reset_instead_of_a_backlog() -> None:
    rig = Rig().running()
    executor = rig.start_job("l1", want=["chunks"], window=100)
    rig.do(ev.Congested(True))
    assert rig.chunk(executor, "l1", 0) == []
    rig.do(ev.Congested(False))
    assert [name for name, _ in rig.told(w.Attach)] == [executor]
    assert rig.chunk(executor, "l1", 1) == []
    assert len(rig.chunk(executor, "l1", 2, reset=True)) == 1


@pytest.mark.parametrize("kind", [w.Started, w.Chunk, w.Result])
def test_messages_of_a_lease_that_an_executor_does_not_have_are_dropped(kind: type) -> None:
    rig = Rig().running()
    other = {"pool/1": "pool/2", "pool/2": "pool/1"}[rig.start_job("l1", want=["started", "chunks"])]
    message = {
        w.Started: w.Started(lease="l1", attempt=1, revision="r", worker="x"),
        w.Chunk: w.Chunk(lease="l1", attempt=1, seq=0),
        w.Result: w.Result(lease="l1", attempt=1, code="OK"),
    }[kind]
    assert rig.executor(other, message) == []


def test_the_embedded_lm_is_asked_for_and_answered() -> None:
    rig = Rig().running()
    rig.executor("pool/1", w.Request(rid="1", method="local_lm.url"))
    assert rig.effects == [ef.AskLocalLm("pool/1", "1")]
    rig.executor("pool/1", w.Request(rid="2", method="local_lm.url"), body.encode(params={"again": True}))
    assert rig.effects == [ef.AskLocalLm("pool/1", "2", again=True)]
    rig.do(ev.LocalLmAnswer("pool/1", "1", "http://127.0.0.1:1"))
    assert [message.rid for _, message in rig.told(w.Reply)] == ["1"]
    rig.do(ev.LocalLmAnswer("pool/1", "2", None, "not installed"))
    assert [(m.rid, m.reason, m.message) for _, m in rig.told(Error)] == [("2", "lm_unavailable", "not installed")]
    rig.executor("pool/1", w.Request(rid="3", method="other"))
    assert [(m.rid, m.reason) for _, m in rig.told(Error)] == [("3", "unknown_method")]


def test_an_error_of_the_broker_is_only_told() -> None:
    rig = Rig().running()
    rig.broker(error("not_ready"))
    assert [type(e) for e in rig.effects] == [ef.Log]
