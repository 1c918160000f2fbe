"""Jobs over lost sessions, refusals, deadlines, cancels and results, each race as a list of events."""

import pytest

from dspymq import events as ev
from dspymq import exceptions
from dspymq.prediction import Prediction
from dspymq.protocol import client_messages as cm
from dspymq.protocol import messages as m
from dspymq.protocol.errors import ProtocolError
from dspymq.protocol.limits import Limits
from tests.unit.client.core_bench import EPOCH_2, Bench, live_bench, without_timeout

# Results and acks.


def test_result_ends_the_job_with_a_prediction():
    bench = live_bench()
    bench.submit()
    usage = m.Usage(calls=1, models={"lm": m.ModelUsage(input_tokens=3, output_tokens=4)})
    bench.result(outputs={"answer": "42"}, attempt=2, usage=usage, timings=m.Timings(run_ms=5), revision="r9")
    prediction = bench.ends()["j1"]
    assert isinstance(prediction, Prediction)
    assert (prediction.answer, prediction.attempt, prediction.job, prediction.revision) == ("42", 2, "j1", "r9")
    assert prediction.usage == usage
    assert prediction.timings is not None
    assert prediction.timings.run_ms == 5


def test_result_twice_ends_once_and_both_are_acked():
    bench = live_bench()
    bench.submit()
    bench.result()
    assert list(bench.ends()) == ["j1"]
    bench.result()
    assert bench.ends() == {}
    bench.pass_ms(20)
    assert bench.sent(cm.Ack) == [cm.Ack(jobs=["j1", "j1"])]


def test_acks_are_batched_in_time_and_in_number():
    bench = live_bench()
    for n in range(300):
        bench.submit(f"j{n}")
    for n in range(255):
        bench.result(f"j{n}")
        assert bench.sent(cm.Ack) == []
    bench.result("j255")
    assert [len(ack.jobs) for ack in bench.sent(cm.Ack)] == [256]
    bench.result("j256")
    bench.pass_ms(19)
    assert bench.sent(cm.Ack) == []
    bench.pass_ms(1)
    assert bench.sent(cm.Ack) == [cm.Ack(jobs=["j256"])]


def test_ack_that_was_not_sent_goes_to_the_next_session_of_the_same_broker():
    bench = live_bench()
    bench.submit("j1")
    bench.submit("j2")
    bench.result("j1")
    bench.feed(ev.LinkDown())
    bench.pass_ms(500)
    bench.live(session="s2")
    assert bench.sent_names() == ["submit", "ack"]


def test_ack_is_not_sent_to_another_broker():
    bench = live_bench()
    bench.submit("j1")
    bench.submit("j2")
    bench.result("j1")
    bench.feed(ev.LinkDown())
    bench.live(EPOCH_2, "s2")
    bench.pass_ms(500)
    assert [o for o in bench.all if isinstance(o, ev.Send) and isinstance(o.message, cm.Ack)] == []


def test_result_of_a_failure_is_the_error_of_its_code():
    bench = live_bench()
    bench.submit()
    fields = [{"field": "question", "problem": "missing", "message": "this input is required"}]
    details = {"fields": fields}
    bench.result(code="INVALID_ARGUMENT", reason="invalid_inputs", message="inputs do not fit", details=details)
    error = bench.ends()["j1"]
    assert isinstance(error, exceptions.InvalidArgument)
    assert (error.reason, error.job, error.fields) == ("invalid_inputs", "j1", {"question": "this input is required"})


def test_result_that_says_retryable_is_final_all_the_same():
    bench = live_bench()
    bench.submit()
    bench.result(code="RESOURCE_EXHAUSTED", reason="lm_rate_limited", retryable=True, retry_after_ms=900)
    error = bench.ends()["j1"]
    assert isinstance(error, exceptions.ResourceExhausted)
    assert (error.retryable, error.retry_after_ms) == (True, 900)
    bench.pass_ms(10_000)
    assert bench.sent(cm.Submit) == []


def test_error_then_result_ends_once_with_the_error():
    bench = live_bench()
    bench.submit()
    bench.refuse("NOT_FOUND", "unknown_program", job="j1")
    assert isinstance(bench.ends()["j1"], exceptions.NotFound)
    bench.result()
    assert bench.ends() == {}
    bench.pass_ms(20)
    assert bench.sent(cm.Ack) == [cm.Ack(jobs=["j1"])]


def test_bad_body_of_a_result_is_an_internal_error():
    bench = live_bench()
    bench.submit()
    bench.feed(ev.Received(cm.Result(job="j1", attempt=1, code="OK"), b"\xc1"))
    assert isinstance(bench.ends()["j1"], exceptions.Internal)


def test_garbled_message_fails_the_job_that_it_names():
    bench = live_bench()
    bench.submit("j1")
    bench.submit("j2")
    bench.feed(ev.Garbled(ProtocolError("bad_header", "no code", job="j1")))
    assert isinstance(bench.ends()["j1"], exceptions.Internal)
    bench.feed(ev.Garbled(ProtocolError("unknown_type", "no message has t = 'new'", job="j2")))
    bench.feed(ev.Garbled(ProtocolError("bad_frames", "what is this")))
    assert bench.ends() == {}


# Sending again.


def test_new_session_sends_every_open_job_again_alike():
    bench = live_bench()
    bench.submit("j1", priority=7, want=["chunks"], window=3, body=b"bytes")
    first = bench.of(ev.Send)[0]
    bench.submit("j2")
    bench.submit("j3")
    bench.result("j2")
    bench.now_ms += 10_000
    bench.feed(ev.LinkDown())
    bench.live(session="s2")
    again = bench.of(ev.Send)
    assert [send.message.job for send in again if isinstance(send.message, cm.Submit)] == ["j1", "j3"]
    assert again[0].body == first.body == b"bytes"
    assert isinstance(again[0].message, cm.Submit)
    assert isinstance(first.message, cm.Submit)
    assert again[0].message.timeout_ms == 50_000
    expected = without_timeout(first.message)
    assert without_timeout(again[0].message) == cm.Submit(**{**_fields(expected), "known_epoch": "epoch-1"})


def _fields(message):
    return {name: getattr(message, name) for name in message.__struct_fields__}


def test_job_made_while_there_is_no_session_is_sent_as_new():
    bench = live_bench()
    bench.submit("j1")
    bench.feed(ev.LinkDown())
    bench.submit("j2")
    bench.live(EPOCH_2, "s2")
    assert [(s.job, s.known_epoch) for s in bench.sent(cm.Submit)] == [("j1", "epoch-1"), ("j2", None)]


def test_resumed_job_says_that_its_epoch_is_unknown():
    bench = live_bench()
    bench.submit(resume=True)
    assert bench.sent(cm.Submit)[0].known_epoch == "unknown"


def test_superseded_ends_the_job_and_it_is_never_sent_again():
    bench = live_bench()
    bench.submit()
    bench.refuse("ABORTED", "superseded", job="j1")
    error = bench.ends()["j1"]
    assert isinstance(error, exceptions.Aborted)
    assert error.reason == "superseded"
    bench.submit("j2")
    bench.feed(ev.LinkDown())
    bench.live(session="s2")
    assert [s.job for s in bench.sent(cm.Submit)] == ["j2"]


@pytest.mark.parametrize(
    ("code", "reason", "kind"),
    [
        ("ALREADY_EXISTS", "id_conflict", exceptions.AlreadyExists),
        ("FAILED_PRECONDITION", "result_gone", exceptions.FailedPrecondition),
        ("FAILED_PRECONDITION", "wrong_endpoint", exceptions.FailedPrecondition),
        ("RESOURCE_EXHAUSTED", "body_too_large", exceptions.ResourceExhausted),
        ("UNAVAILABLE", "no_worker", exceptions.Unavailable),
        ("SOMETHING_NEW", "of_tomorrow", exceptions.DspymqError),
    ],
)
def test_final_refusals_end_the_job(code, reason, kind):
    bench = live_bench()
    bench.submit()
    bench.refuse(code, reason, job="j1", retryable=reason == "no_worker")
    assert type(bench.ends()["j1"]) is kind
    assert bench.ends()["j1"].code == code


def test_queue_full_waits_as_long_as_it_says_and_sends_again():
    bench = live_bench()
    bench.submit(timeout_ms=60_000)
    bench.refuse("RESOURCE_EXHAUSTED", "queue_full", job="j1", retryable=True, retry_after_ms=1_000)
    assert bench.outputs == []
    bench.pass_ms(999)
    assert bench.sent(cm.Submit) == []
    bench.pass_ms(1)
    again = bench.sent(cm.Submit)[0]
    assert (again.timeout_ms, again.known_epoch) == (59_000, None)
    bench.result()
    assert isinstance(bench.ends()["j1"], Prediction)


def test_queue_full_is_given_up_when_waiting_would_pass_the_deadline():
    bench = live_bench()
    bench.submit(timeout_ms=900)
    bench.refuse("RESOURCE_EXHAUSTED", "queue_full", job="j1", retryable=True, retry_after_ms=1_000)
    error = bench.ends()["j1"]
    assert isinstance(error, exceptions.ResourceExhausted)
    assert error.retry_after_ms == 1_000


def test_refusals_without_a_time_back_off():
    bench = live_bench()
    bench.submit(timeout_ms=600_000)
    waits = []
    for _ in range(8):
        bench.refuse("UNAVAILABLE", "shutdown", job="j1", retryable=True)
        began = bench.now_ms
        while not bench.sent(cm.Submit):
            bench.pass_ms(10)
        waits.append(bench.now_ms - began)
    assert waits[0] == 50
    assert waits == sorted(waits)
    assert waits[-1] == 2_500


def test_refusal_keeps_what_an_earlier_broker_knows():
    bench = live_bench()
    bench.submit()
    bench.feed(ev.LinkDown())
    bench.live(EPOCH_2, "s2")
    bench.refuse("RESOURCE_EXHAUSTED", "queue_full", job="j1", retryable=True, retry_after_ms=1_000)
    bench.pass_ms(1_000)
    assert bench.sent(cm.Submit)[0].known_epoch == "epoch-1"


def test_wait_after_a_refusal_outlasts_a_new_session():
    bench = live_bench()
    bench.submit()
    bench.refuse("RESOURCE_EXHAUSTED", "queue_full", job="j1", retryable=True, retry_after_ms=5_000)
    bench.feed(ev.LinkDown())
    bench.live(session="s2")
    assert bench.sent(cm.Submit) == []
    bench.pass_ms(5_000)
    assert len(bench.sent(cm.Submit)) == 1


def test_wait_that_ends_without_a_session_sends_with_the_next():
    bench = live_bench()
    bench.submit()
    bench.refuse("RESOURCE_EXHAUSTED", "queue_full", job="j1", retryable=True, retry_after_ms=500)
    bench.feed(ev.LinkDown())
    bench.pass_ms(600)
    assert bench.sent(cm.Submit) == []
    bench.live(session="s2")
    assert len(bench.sent(cm.Submit)) == 1


def test_body_over_the_limit_is_refused_here():
    bench = Bench()
    bench.submit(body=b"x" * 11)
    bench.live(limits=Limits(max_body_bytes=10))
    assert bench.sent(cm.Submit) == []
    error = bench.ends()["j1"]
    assert isinstance(error, exceptions.ResourceExhausted)
    assert (error.reason, error.job) == ("body_too_large", "j1")
    bench.submit("j2", body=b"x" * 10)
    assert [s.job for s in bench.sent(cm.Submit)] == ["j2"]


# Deadlines.


def test_deadline_waits_a_little_for_the_brokers_own_answer():
    bench = live_bench()
    bench.submit(timeout_ms=5_000)
    bench.pass_ms(11_999)
    assert bench.ends() == {}
    bench.result(code="DEADLINE_EXCEEDED", reason="deadline", usage=m.Usage(calls=3))
    error = bench.ends()["j1"]
    assert isinstance(error, exceptions.DeadlineExceeded)
    assert error.usage is not None
    assert error.usage.calls == 3


def test_deadline_without_an_answer_ends_here_and_cancels():
    bench = live_bench()
    bench.submit(timeout_ms=5_000)
    bench.pass_ms(12_000)
    assert isinstance(bench.ends()["j1"], exceptions.DeadlineExceeded)
    assert bench.ends()["j1"].job == "j1"
    assert bench.sent(cm.Cancel) == [cm.Cancel(job="j1")]
    bench.result(code="CANCELLED")
    assert bench.ends() == {}


def test_deadline_without_a_session_ends_at_once():
    bench = live_bench()
    bench.submit(timeout_ms=5_000)
    bench.feed(ev.LinkDown("connection lost"))
    bench.pass_ms(5_000)
    error = bench.ends()["j1"]
    assert isinstance(error, exceptions.DeadlineExceeded)
    assert "no welcome" in error.message


def test_job_that_reached_no_broker_ends_as_unreachable_naming_all_addresses():
    bench = Bench(addresses=["tcp://a:1", "tcp://b:2"])
    bench.submit(timeout_ms=5_000)
    bench.feed(ev.LinkDown("connection refused"))
    bench.pass_ms(5_000)
    error = bench.ends()["j1"]
    assert isinstance(error, exceptions.BrokerUnreachable)
    assert "tcp://a:1, tcp://b:2" in str(error)
    assert "\n" not in str(error)


def test_connect_timeout_ends_what_was_never_sent():
    bench = Bench(connect_timeout_ms=2_000)
    bench.submit()
    bench.feed(ev.AskBroker("r1", "stats.get", b"", 10_000))
    bench.pass_ms(1_999)
    assert bench.ends() == {}
    bench.pass_ms(1)
    assert isinstance(bench.ends()["j1"], exceptions.BrokerUnreachable)
    assert isinstance(bench.of(ev.Answered)[0].value, exceptions.BrokerUnreachable)


def test_connect_timeout_does_not_touch_what_was_sent():
    bench = Bench(connect_timeout_ms=2_000)
    bench.submit(timeout_ms=10_000)
    bench.live()
    bench.feed(ev.LinkDown())
    bench.pass_ms(9_999)
    assert bench.ends() == {}
    bench.pass_ms(1)
    assert isinstance(bench.ends()["j1"], exceptions.DeadlineExceeded)


# Cancel.


def test_cancel_is_sent_once_and_ends_with_the_result():
    bench = live_bench()
    bench.submit()
    bench.feed(ev.CancelJob("j1"))
    assert bench.sent(cm.Cancel) == [cm.Cancel(job="j1")]
    assert bench.feed(ev.CancelJob("j1")) == []
    bench.result(code="CANCELLED", reason="cancelled", usage=m.Usage(calls=1))
    error = bench.ends()["j1"]
    assert isinstance(error, exceptions.Cancelled)
    assert error.usage is not None


def test_cancel_races_result_and_the_result_wins():
    bench = live_bench()
    bench.submit()
    bench.feed(ev.CancelJob("j1"))
    bench.result(outputs={"answer": "done"})
    assert bench.ends()["j1"].answer == "done"
    bench.refuse("NOT_FOUND", "unknown_job", job="j1")
    assert bench.outputs == []


def test_cancel_after_the_result_does_nothing():
    bench = live_bench()
    bench.submit()
    bench.result()
    assert bench.feed(ev.CancelJob("j1")) == []


def test_cancel_before_it_was_sent_ends_at_once():
    bench = Bench()
    bench.submit()
    bench.feed(ev.CancelJob("j1"))
    assert isinstance(bench.ends()["j1"], exceptions.Cancelled)
    bench.live()
    assert bench.sent(cm.Submit) == []


def test_cancel_without_a_session_is_sent_with_the_next():
    bench = live_bench()
    bench.submit()
    bench.feed(ev.LinkDown())
    bench.feed(ev.CancelJob("j1"))
    assert bench.ends() == {}
    bench.live(session="s2")
    assert bench.sent_names() == ["submit", "cancel"]


def test_cancel_that_nobody_confirms_ends_in_the_end():
    bench = live_bench()
    bench.submit(timeout_ms=600_000)
    bench.feed(ev.LinkDown())
    bench.feed(ev.CancelJob("j1"))
    bench.pass_ms(10_000)
    assert isinstance(bench.ends()["j1"], exceptions.Cancelled)


def test_cancel_that_the_broker_does_not_confirm_is_not_sent_again():
    bench = live_bench()
    bench.submit(timeout_ms=600_000)
    bench.feed(ev.CancelJob("j1"))
    bench.pass_ms(9_000)
    bench.receive(m.Pong())
    bench.pass_ms(8_000)
    assert isinstance(bench.ends()["j1"], exceptions.Cancelled)
    assert bench.sent(cm.Cancel) == []


def test_cancel_while_a_refused_job_waits_ends_at_once():
    bench = live_bench()
    bench.submit()
    bench.refuse("RESOURCE_EXHAUSTED", "queue_full", job="j1", retryable=True, retry_after_ms=1_000)
    bench.feed(ev.CancelJob("j1"))
    assert isinstance(bench.ends()["j1"], exceptions.Cancelled)
    bench.pass_ms(10_000)
    assert bench.sent(cm.Submit) == []


def test_cancel_crosses_a_refusal_for_now():
    bench = live_bench()
    bench.submit()
    bench.feed(ev.CancelJob("j1"))
    bench.refuse("RESOURCE_EXHAUSTED", "queue_full", job="j1", retryable=True, retry_after_ms=1_000)
    assert isinstance(bench.ends()["j1"], exceptions.Cancelled)
    assert bench.refuse("NOT_FOUND", "unknown_job", job="j1") == []


def test_cancel_of_one_that_somebody_else_has_ends_it():
    bench = live_bench()
    bench.submit()
    bench.feed(ev.CancelJob("j1"))
    bench.refuse("FAILED_PRECONDITION", "not_attached", job="j1")
    assert isinstance(bench.ends()["j1"], exceptions.FailedPrecondition)


# Attach.


def attach(bench, job="j1", timeout_ms=60_000):
    bench.feed(ev.OpenJob(cm.Attach(job=job, want=["chunks"], window=4), b"", timeout_ms))


def test_attach_gets_the_result_and_is_sent_again_as_attach():
    bench = live_bench()
    attach(bench)
    assert bench.sent(cm.Attach) == [cm.Attach(job="j1", want=["chunks"], window=4)]
    bench.receive(cm.Accepted(job="j1", state="running", attempt=1))
    bench.feed(ev.LinkDown())
    bench.live(EPOCH_2, "s2")
    bench.refuse("UNAVAILABLE", "adopting", job="j1", retryable=True, retry_after_ms=100)
    bench.pass_ms(100)
    assert bench.sent_names() == ["attach"]
    bench.result()
    assert isinstance(bench.ends()["j1"], Prediction)


def test_attach_that_waited_too_long_leaves_the_job_alone():
    bench = live_bench(deadline_slack_ms=2_000)
    attach(bench, timeout_ms=1_000)
    bench.pass_ms(2_999)
    assert bench.ends() == {}
    bench.pass_ms(1)
    assert isinstance(bench.ends()["j1"], exceptions.DeadlineExceeded)
    assert bench.sent(cm.Cancel) == []


def test_attach_that_is_cancelled_before_it_was_sent_cancels_the_job_all_the_same():
    bench = Bench()
    attach(bench)
    bench.feed(ev.CancelJob("j1"))
    assert bench.ends() == {}
    bench.live()
    assert bench.sent_names() == ["attach", "cancel"]
    bench.refuse("UNAVAILABLE", "adopting", job="j1", retryable=True, retry_after_ms=100)
    bench.pass_ms(100)
    assert bench.sent_names() == ["attach", "cancel"]


def test_news_reach_the_handle_and_unknown_ones_do_not():
    bench = live_bench()
    bench.submit(want=["accepted", "started", "progress"])
    for message in (
        cm.Accepted(job="j1", state="queued", attempt=0, waiting=True, missing=["program"]),
        cm.Started(job="j1", attempt=1, revision="r", worker="w"),
        cm.Progress(job="j1", attempt=1, done=1, total=2),
    ):
        bench.receive(message)
        assert bench.of(ev.JobUpdated) == [ev.JobUpdated("j1", message)]
    assert bench.receive(cm.Progress(job="nobody", attempt=1)) == []


def test_messages_that_a_client_has_no_use_for_are_ignored():
    bench = live_bench()
    bench.submit()
    assert bench.receive(cm.Submit(job="j1", program="p", timeout_ms=1)) == []


def test_thousands_of_ended_jobs_leave_no_timers():
    bench = live_bench()
    for n in range(5_000):
        bench.submit(f"j{n}")
        bench.result(f"j{n}")
    bench.pass_ms(100)
    assert len(bench.core.jobs) == 0
    assert len(bench.core._timers._heap) < 200
