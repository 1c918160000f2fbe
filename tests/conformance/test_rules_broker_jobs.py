"""The rules of jobs, deadlines and streams, proved on a real broker by peers that know only SPEC.md."""

from __future__ import annotations

import time

import pytest

from tests.conformance.bare_peers import PATIENCE_S, Broker, Client, Worker

# -- bodies, order, streams -------------------------------------------------------------------------------------------


def test_r_2_20_bodies_pass_unread_and_unchanged(broker: Broker) -> None:
    client, worker = Client(broker), Worker(broker)
    client.submit("j", body=b"\xc1 not msgpack", want=["chunks", "progress"])
    dispatch, body = worker.expect_with_body("dispatch", job="j")
    assert body == b"\xc1 not msgpack"
    for t, seq in (("chunk", {"seq": 0}), ("progress", {})):
        worker.say(t, dispatch, b"\xc1 " + t.encode(), **seq)
        assert client.expect_with_body(t, job="j")[1] == b"\xc1 " + t.encode()
    worker.finish(dispatch, body=b"\xc1 out")
    assert client.result("j")[1] == b"\xc1 out"


def test_r_2_2_an_empty_body_is_none(broker: Broker) -> None:
    client, worker = Client(broker), Worker(broker)
    client.submit("j", body=b"")
    dispatch, body = worker.expect_with_body("dispatch", job="j")
    assert body is None
    client.send({"t": "submit", "job": "j", "program": "qa", "timeout_ms": 60_000, "want": ["accepted"]})
    client.expect("accepted", job="j", duplicate=True)
    worker.expect("attach")
    worker.finish(dispatch, body=b"")
    assert client.result("j")[1] is None


def test_r_4_4_accepted_then_started_chunks_progress_then_the_one_result(broker: Broker) -> None:
    client, worker = Client(broker), Worker(broker)
    client.submit("j", want=["accepted", "started", "chunks", "progress"], trace={"a": "b"})
    dispatch = worker.dispatch("j", want=["accepted", "started", "chunks", "progress"], trace={"a": "b"})
    worker.say("started", dispatch, revision="r1", worker="pool/1")
    worker.say("chunk", dispatch, {"fields": {"answer": "4"}}, seq=0)
    worker.say("progress", dispatch, done=1, total=2, note="half")
    worker.say("chunk", dispatch, {"fields": {"answer": "2"}}, seq=1, reset=True)
    worker.finish(dispatch, chunks=2, revision="r1", usage={"calls": 1, "models": {}}, timings={"run_ms": 5})
    worker.say("chunk", dispatch, seq=2)
    client.expect("accepted", job="j", state="queued", attempt=0, duplicate=None, waiting=None)
    client.expect("started", job="j", attempt=1, revision="r1", worker="pool/1")
    chunk, body = client.expect_with_body("chunk", job="j", attempt=1, seq=0)
    assert (chunk.get("reset", False), body) == (False, {"fields": {"answer": "4"}})
    client.expect("progress", job="j", attempt=1, done=1, total=2, note="half")
    client.expect("chunk", job="j", seq=1, reset=True)
    result, body = client.result("j", attempt=1, chunks=2, revision="r1", usage={"calls": 1, "models": {}})
    assert (sorted(result["timings"]), result["timings"]["run_ms"]) == (["queued_ms", "run_ms"], 5)
    assert body == {"outputs": {"answer": "j"}}
    client.hears_nothing_else()


def test_r_4_7_and_4_8_what_is_not_wanted_is_not_sent(broker: Broker) -> None:
    client, worker = Client(broker), Worker(broker)
    client.submit("j")
    dispatch = worker.dispatch("j", want=None)
    worker.say("started", dispatch, revision="r1", worker="pool/1")
    worker.say("chunk", dispatch, seq=0)
    worker.say("progress", dispatch)
    worker.hears_nothing_else()
    client.hears_nothing_else()
    worker.finish(dispatch)
    client.result("j")


def test_r_4_6_an_unknown_want_is_refused(broker: Broker) -> None:
    client = Client(broker)
    client.submit("j", want=["thoughts"])
    client.refused("INVALID_ARGUMENT", "bad_header", job="j")


def test_r_9_10_credit_reaches_the_attempt_that_it_names_and_no_other(broker: Broker) -> None:
    client, other, worker = Client(broker), Client(broker, "other"), Worker(broker)
    client.submit("j", want=["chunks"], window=4)
    dispatch = worker.dispatch("j", window=4)
    for sender, attempt, upto in ((other, 1, 7), (client, 2, 8), (client, 1, 9)):
        sender.send({"t": "credit", "job": "j", "attempt": attempt, "upto": upto})
        sender.hears_nothing_else()
    worker.expect("credit", lease=dispatch["lease"], attempt=1, upto=9)


# -- duplicates, attach, retention ------------------------------------------------------------------------------------


def test_r_5_7_a_submit_that_is_sent_again_makes_no_second_job_whatever_else_changed(broker: Broker) -> None:
    client, worker = Client(broker), Worker(broker)
    client.submit("j", body=b"same")
    dispatch = worker.dispatch("j")
    client.submit("j", body=b"same", want=["accepted", "chunks"], window=3, priority=9, timeout_ms=5, lane="other")
    client.expect("accepted", job="j", duplicate=True, attempt=1, state="dispatched")
    worker.expect("attach", lease=dispatch["lease"], want=["accepted", "chunks"], window=3)
    worker.hears_nothing_else()
    worker.finish(dispatch)
    client.result("j")
    client.hears_nothing_else()


@pytest.mark.parametrize("change", [{"program": "qb"}, {"revision": "r1"}, {"profile": "p"}, {"body": b"other"}])
def test_r_5_2_and_5_8_another_content_under_a_known_id_is_a_conflict_in_every_state(
    broker: Broker, change: dict[str, object]
) -> None:
    client, worker = Client(broker), Worker(broker, slots=0)
    sent: dict[str, object] = {"job": "j", "body": b"body"}
    client.submit(**sent)
    for state in ("queued", "dispatched", "done", "gone"):
        if state == "dispatched":
            worker.ready(1)
            dispatch = worker.dispatch("j")
        elif state == "done":
            worker.finish(dispatch)
            client.result("j")
        elif state == "gone":
            client.send({"t": "ack", "jobs": ["j"]})
        client.submit(**{**sent, **change})
        client.refused("ALREADY_EXISTS", "id_conflict", job="j", retryable=None)


def test_r_5_16_to_5_18_a_result_is_replayed_until_its_ack_and_never_run_again(broker: Broker) -> None:
    client, worker = Client(broker), Worker(broker)
    client.submit("j")
    dispatch = worker.dispatch("j")
    client.send({"t": "ack", "jobs": ["j", "unknown"]})
    client.hears_nothing_else()
    worker.finish(dispatch, usage={"calls": 3, "models": {}})
    worker.acked(dispatch)
    first = client.result("j")
    client.submit("j", want=["accepted"])
    client.expect("accepted", job="j", state="done", duplicate=True)
    assert client.result("j") == first
    client.send({"t": "ack", "jobs": ["j"]})
    client.submit("j")
    client.refused("FAILED_PRECONDITION", "result_gone", job="j")
    client.send({"t": "attach", "job": "j"})
    client.refused("FAILED_PRECONDITION", "result_gone", job="j")
    worker.hears_nothing_else()


def test_r_5_16_a_result_that_nobody_acknowledges_is_kept_for_retain_ms() -> None:
    with Broker(retain_ms=200) as broker:
        client, worker = Client(broker), Worker(broker)
        client.submit("j")
        worker.finish(worker.dispatch("j"))
        client.result("j")
        end = time.monotonic() + PATIENCE_S
        while True:
            client.submit("j")
            answer = client.receive()[0]
            if answer["t"] == "error":
                break
            assert (answer["t"], time.monotonic() < end) == ("result", True)
        assert answer["reason"] == "result_gone"


def test_r_5_17_tombstones_are_bounded_and_the_oldest_id_is_new_again() -> None:
    with Broker(tombstones=2) as broker:
        client, worker = Client(broker), Worker(broker)
        for job in ("a", "b", "c"):
            client.submit(job)
            worker.finish(worker.dispatch(job))
            worker.expect("ack")
            client.result(job)
            client.send({"t": "ack", "jobs": [job]})
        client.submit("b")
        client.refused("FAILED_PRECONDITION", "result_gone")
        client.submit("a")
        worker.dispatch("a")


def test_r_5_9_and_5_13_a_second_session_takes_over_and_the_first_is_told(broker: Broker) -> None:
    first, second, worker = Client(broker, "one"), Client(broker, "two"), Worker(broker)
    first.submit("j", want=["chunks"])
    dispatch = worker.dispatch("j")
    second.send({"t": "attach", "job": "j"})
    second.expect("accepted", job="j", state="dispatched", attempt=1, duplicate=True)
    first.refused("ABORTED", "superseded", job="j", retryable=None)
    worker.expect("attach", lease=dispatch["lease"], want=None, window=None)
    worker.say("chunk", dispatch, seq=0)
    worker.finish(dispatch)
    second.result("j")
    first.hears_nothing_else()


def test_r_5_12_attach_to_a_job_that_is_done_or_unknown() -> None:
    with Broker(adopt_ms=0) as broker:
        first, second, worker = Client(broker, "one"), Client(broker, "two"), Worker(broker)
        second.send({"t": "attach", "job": "j"})
        second.refused("NOT_FOUND", "unknown_job", job="j")
        first.submit("j")
        worker.finish(worker.dispatch("j"))
        first.result("j")
        second.send({"t": "attach", "job": "j", "want": ["chunks"]})
        second.expect("accepted", job="j", state="done")
        second.result("j")
        first.hears_nothing_else()


def test_r_5_15_a_bye_cancels_at_once_what_is_not_to_be_kept(broker: Broker) -> None:
    client, worker = Client(broker), Worker(broker, slots=3)
    client.submit("gone")
    client.submit("kept", on_disconnect="keep")
    gone, kept = worker.dispatch("gone"), worker.dispatch("kept")
    client.send({"t": "bye"})
    worker.expect("cancel", lease=gone["lease"], cause="cancel")
    worker.finish(kept)
    worker.acked(kept)
    again = Client(broker)
    again.submit("kept")
    again.result("kept")


def test_r_5_15_silence_cancels_after_orphan_ms_unless_somebody_attaches() -> None:
    with Broker(client_ping_ms=200, orphan_ms=200) as broker:
        client, worker = Client(broker), Worker(broker, slots=2)
        client.submit("gone")
        client.submit("saved")
        gone, saved = worker.dispatch("gone"), worker.dispatch("saved")
        client.close()
        again = Client(broker)
        again.submit("saved")
        worker.expect("attach", lease=saved["lease"])
        end = time.monotonic() + PATIENCE_S
        while not worker.socket.poll(20):
            assert time.monotonic() < end
            again.hears_nothing_else()
        worker.expect("cancel", lease=gone["lease"], cause="cancel")
        worker.finish(saved)
        again.result("saved")


# -- cancel and deadlines ---------------------------------------------------------------------------------------------


def test_r_5_6_and_7_6_a_queued_job_is_cancelled_at_once(broker: Broker) -> None:
    client = Client(broker)
    client.submit("j")
    client.send({"t": "cancel", "job": "j"})
    result, body = client.result("j", code="CANCELLED", reason="cancelled", attempt=0, revision=None, chunks=None)
    assert (body, list(result["timings"])) == (None, ["queued_ms"])


def test_r_7_5_and_7_6_cancel_asks_the_worker_and_is_answered_by_its_one_result(broker: Broker) -> None:
    client, worker = Client(broker), Worker(broker)
    client.submit("j", want=["chunks"])
    dispatch = worker.dispatch("j")
    client.send({"t": "cancel", "job": "j"})
    assert worker.expect("cancel", lease=dispatch["lease"], cause="cancel")["grace_ms"] == 5_000
    client.send({"t": "cancel", "job": "j"})
    worker.expect("cancel", lease=dispatch["lease"], cause="cancel")
    worker.say("chunk", dispatch, seq=0)
    worker.finish(dispatch, "CANCELLED", reason="cancelled", usage={"calls": 2, "models": {}})
    client.result("j", "CANCELLED", reason="cancelled", usage={"calls": 2, "models": {}})
    client.send({"t": "cancel", "job": "j"})
    client.result("j", "CANCELLED")


def test_r_7_5_a_cancelled_result_gets_the_reason_of_the_stop(broker: Broker) -> None:
    client, worker = Client(broker), Worker(broker)
    client.submit("j")
    dispatch = worker.dispatch("j")
    client.send({"t": "bye"})
    worker.expect("cancel", cause="cancel")
    worker.finish(dispatch, "CANCELLED", reason="cancelled", usage={"calls": 1, "models": {}})
    worker.acked(dispatch)
    again = Client(broker)
    again.submit("j")
    again.result("j", "CANCELLED", reason="client_gone", usage={"calls": 1, "models": {}})


def test_r_7_5_on_cancel_a_result_that_was_earlier_wins(broker: Broker) -> None:
    client, worker = Client(broker), Worker(broker)
    client.submit("j")
    dispatch = worker.dispatch("j")
    client.send({"t": "cancel", "job": "j"})
    worker.expect("cancel")
    worker.finish(dispatch)
    assert client.result("j", "OK")[1] == {"outputs": {"answer": "j"}}


def test_r_7_6_only_the_attached_client_cancels(broker: Broker) -> None:
    client, other = Client(broker), Client(broker, "other")
    client.submit("j")
    client.hears_nothing_else()
    other.send({"t": "cancel", "job": "j"})
    other.refused("FAILED_PRECONDITION", "not_attached", job="j")
    other.send({"t": "cancel", "job": "unknown"})
    other.refused("NOT_FOUND", "unknown_job", job="unknown")


def test_r_7_1_and_7_2_a_deadline_in_the_queue(broker: Broker) -> None:
    client = Client(broker)
    client.submit("long", timeout_ms=client.welcome["limits"]["max_timeout_ms"] + 1)
    client.refused("INVALID_ARGUMENT", "bad_header", job="long")
    begun = time.monotonic()
    client.submit("j", timeout_ms=150)
    client.submit("j", timeout_ms=60_000)
    result, _ = client.result("j", "DEADLINE_EXCEEDED", reason="deadline", attempt=0, retryable=True)
    assert 0.14 <= time.monotonic() - begun < 2.0
    assert result["timings"]["queued_ms"] >= 150


def test_r_7_3_a_deadline_in_flight_waits_for_the_usage_and_overrules_the_code(broker: Broker) -> None:
    client, worker = Client(broker), Worker(broker)
    client.submit("j", timeout_ms=150)
    dispatch = worker.dispatch("j")
    assert 0 < dispatch["timeout_ms"] <= 150
    worker.expect("cancel", lease=dispatch["lease"], cause="deadline")
    client.hears_nothing_else()
    worker.finish(dispatch, "OK", usage={"calls": 1, "models": {}})
    _, body = client.result("j", "DEADLINE_EXCEEDED", reason="deadline", usage={"calls": 1, "models": {}})
    assert body is None


def test_r_7_7_and_7_10_and_6_6_an_ignored_cancel_ends_the_job_but_not_its_slot() -> None:
    with Broker(grace_ms=100) as broker:
        client, worker = Client(broker), Worker(broker)
        client.submit("j")
        client.submit("next")
        dispatch = worker.dispatch("j")
        client.send({"t": "cancel", "job": "j"})
        worker.expect("cancel", cause="cancel")
        client.result("j", "CANCELLED", reason="cancelled", usage=None)
        worker.expect("cancel", lease=dispatch["lease"], cause="fenced", grace_ms=0)
        worker.hears_nothing_else()
        worker.finish(dispatch)
        messages = {message["t"]: message for message in (worker.receive()[0], worker.receive()[0])}
        assert messages["ack"]["leases"] == [dispatch["lease"]]
        assert messages["dispatch"]["job"] == "next"
        client.hears_nothing_else()
