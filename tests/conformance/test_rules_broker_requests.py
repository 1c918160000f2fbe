"""The rules of requests and events, on a real broker."""

from __future__ import annotations

from typing import Any

import pytest

from tests.conformance.bare_peers import Broker, Client, Header, Peer, Worker


def ask(peer: Peer, method: str, **params: Any) -> Any:
    """The result of a request that is answered by a reply."""
    peer.send({"t": "request", "rid": method, "method": method}, {"params": params})
    return peer.expect_with_body("reply", rid=method)[1]["result"]


def refusal(peer: Peer, method: str, **params: Any) -> str:
    """The reason of a request that is refused."""
    peer.send({"t": "request", "rid": method, "method": method}, {"params": params})
    reason: str = peer.expect("error", rid=method)["reason"]
    return reason


def event(peer: Peer, kind: str, seq: int, **details: Any) -> Header:
    """The next message, which must be this event."""
    message, body = peer.expect_with_body("event", kind=kind, seq=seq)
    found = {name: body["event"].get(name) for name in details}
    assert found == details, body
    return message


def test_r_10_1_requests_are_answered_by_their_rid(broker: Broker) -> None:
    client, worker = Client(broker), Worker(broker)
    for peer, allowed in ((client, True), (worker, False)):
        peer.send({"t": "request", "rid": "1", "method": "jobs.eat"})
        error = peer.refused("UNIMPLEMENTED", "unknown_method", rid="1")
        assert {"programs.get", "programs.list", "stats.get", "workers.list"} <= set(error["details"]["methods"])
        peer.send({"t": "request", "rid": "2", "method": "workers.list"})
        if allowed:
            peer.expect("reply", rid="2")
        else:
            peer.refused("PERMISSION_DENIED", "not_allowed", rid="2")
        for rid, body, reason in (
            ("3", b"\xc1", "invalid_body"),
            ("4", {"params": [1]}, "invalid_body"),
            ("5", {"params": {"name": 7}}, "invalid_params"),
            ("6", {"params": {}, "x": bytes(1024 * 1024)}, "body_too_large"),
            ("7", {"params": {"name": "qaa"}}, "unknown_program"),
        ):
            peer.send({"t": "request", "rid": rid, "method": "programs.get"}, body)
            assert (peer.receive()[0]["reason"], rid) == (reason, rid)


def test_r_2_21_in_bodies_an_empty_array_is_an_empty_map(broker: Broker) -> None:
    client = Client(broker)
    for body in ([], {"params": []}, {"params": {}}, None):
        client.send({"t": "request", "rid": "1", "method": "programs.list"}, body)
        assert client.expect_with_body("reply", rid="1")[1] == {"result": {"programs": []}}


def test_section_11_6_descriptions_come_back_in_requests(broker: Broker) -> None:
    client, worker = Client(broker), Worker(broker, slots=None)
    schema = {"type": "object", "properties": {"question": {"type": "string"}}}
    described = {"programs": {"qa": {"description": "Answers.", "inputs": schema, "outputs": None, "more": 1}}}
    assert worker.ready(2, {**described, "executors": [{"id": "pool/1"}]}, held=[]) == []
    worker.ready(3)
    client.send({"t": "request", "rid": "1", "method": "programs.get"}, {"params": {"name": "qa"}})
    _, body = client.expect_with_body("reply", rid="1")
    expected = {**described["programs"]["qa"], "name": "qa", "revision": "r1", "revisions": ["r1"], "workers": ["w1"]}
    expected |= {"defined": [], "aliases": {}}
    assert body["result"] == expected
    client.send({"t": "request", "rid": "2", "method": "workers.list"})
    _, body = client.expect_with_body("reply", rid="2")
    row = body["result"]["workers"][0]
    assert (row["worker"], row["state"], row["slots"]) == ("w1", "ready", {"default": 3})
    assert row["executors"] == [{"id": "pool/1"}]


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"\x81\xa8programs\x81\xa2qa\xd6\xff\x00\x00\x00\x05", id="timestamp"),
        pytest.param(b"\x81\xa9executors\x91\x01", id="executors"),
        pytest.param(b"\x93\x01\x02\x03", id="array"),
        pytest.param(b"\xc1", id="junk"),
    ],
)
def test_r_11_16_a_worker_cannot_spoil_the_requests_of_clients(broker: Broker, body: bytes) -> None:
    client, worker = Client(broker), Worker(broker, slots=None)
    worker.ready(1, body)
    worker.refused("INVALID_ARGUMENT", "invalid_body")
    for method in ("workers.list", "programs.list", "stats.get"):
        ask(client, method)
    assert worker.ready(1, {"executors": []}, held=[]) == []


# -- jobs and workers --------------------------------------------------------------------------------------------------


def test_section_10_2_jobs_are_listed_shown_cancelled_and_dropped(broker: Broker) -> None:
    client, other, worker = Client(broker), Client(broker, "other"), Worker(broker)
    client.submit("a", priority=9)
    client.submit("b")
    dispatch = worker.dispatch("a")
    listed = ask(other, "jobs.list")
    assert ([row["job"] for row in listed["jobs"]], listed["truncated"]) == (["a", "b"], False)
    assert [row["job"] for row in ask(other, "jobs.list", states=["queued"])["jobs"]] == ["b"]
    assert ask(other, "jobs.list", limit=1)["truncated"]
    shown = ask(other, "jobs.get", job="a")
    assert (shown["state"], shown["worker"], shown["lease"], shown["priority"]) == (
        "dispatched",
        "w1",
        dispatch["lease"],
        9,
    )
    assert refusal(other, "jobs.drop", job="a") == "not_finished"
    assert refusal(other, "jobs.get", job="nope") == "unknown_job"
    assert refusal(other, "jobs.list", states=["asleep"]) == "invalid_params"
    assert ask(other, "jobs.cancel", job="b")["code"] == "CANCELLED"
    client.result("b", "CANCELLED", reason="cancelled")
    assert ask(other, "jobs.drop", job="b") == {"job": "b"}
    assert refusal(other, "jobs.get", job="b") == "result_gone"
    ask(other, "jobs.cancel", job="a")
    worker.expect("cancel", lease=dispatch["lease"], cause="cancel")


def test_section_10_2_a_retry_runs_the_same_content_under_a_new_id(broker: Broker) -> None:
    client, worker = Client(broker), Worker(broker)
    client.submit("a")
    first, body = worker.expect_with_body("dispatch", job="a")
    worker.finish(first, "UNKNOWN", reason="program_error")
    worker.acked(first)
    client.result("a", "UNKNOWN")
    assert ask(client, "jobs.retry", job="a", new_job="a2")["attached"] is False
    second, body_again = worker.expect_with_body("dispatch", job="a2", digest=first["digest"])
    assert body_again == body
    assert refusal(client, "jobs.retry", job="a", new_job="a2") == "id_conflict"
    worker.finish(second)
    worker.acked(second)
    client.send({"t": "attach", "job": "a2"})
    client.expect("accepted", job="a2", state="done")
    client.result("a2")
    made = ask(client, "jobs.retry", job="a")["job"]
    worker.dispatch(made, attempt=1)


@pytest.mark.parametrize("new_job", ["x" * 65, "caf\u00e9", "gone"])
def test_r_2_12_and_5_17_the_id_of_a_retry_is_an_id_that_is_new(broker: Broker, new_job: str) -> None:
    client, worker = Client(broker), Worker(broker)
    for job in ("gone", "a"):
        client.submit(job)
        dispatch = worker.dispatch(job)
        worker.finish(dispatch)
        worker.acked(dispatch)
        client.result(job)
    client.send({"t": "ack", "jobs": ["gone"]})
    assert refusal(client, "jobs.retry", job="a", new_job=new_job) in ("invalid_params", "id_conflict", "result_gone")


def test_r_6_30_a_drained_worker_gets_no_jobs_until_it_is_undrained(broker: Broker) -> None:
    client, worker = Client(broker), Worker(broker, slots=2)
    client.submit("a")
    dispatch = worker.dispatch("a")
    assert ask(client, "workers.drain", worker="w1", grace_ms=5)["state"] == "draining"
    worker.expect("drain", grace_ms=5)
    client.submit("b")
    worker.hears_nothing_else()
    worker.release(dispatch, started=True, cause="drain")
    worker.ready(2)
    worker.hears_nothing_else()
    ask(client, "workers.undrain", worker="w1")
    assert {worker.dispatch()["job"], worker.dispatch()["job"]} == {"a", "b"}
    client.send({"t": "request", "rid": "1", "method": "workers.drain"}, {"params": {"worker": "w2"}})
    assert client.refused("NOT_FOUND", "unknown_worker")["details"] == {"workers": ["w1"]}


# -- events ------------------------------------------------------------------------------------------------------------


def test_r_10_4_and_10_5_events_come_in_order_until_the_subscription_ends(broker: Broker) -> None:
    client, watcher = Client(broker), Client(broker, "watcher")
    subscribed = ask(watcher, "events.subscribe", kinds=["job", "worker.ready"])
    sub = subscribed["sub"]
    assert "job.done" in subscribed["kinds"]
    assert "client.left" not in subscribed["kinds"]
    worker = Worker(broker)
    client.submit("a")
    dispatch = worker.dispatch("a")
    worker.finish(dispatch)
    worker.acked(dispatch)
    client.result("a")
    assert event(watcher, "worker.ready", 0, worker="w1")["sub"] == sub
    event(watcher, "job.submitted", 1, job="a", program="qa", flow="client")
    event(watcher, "job.dispatched", 2, job="a", attempt=1, worker="w1")
    done = event(watcher, "job.done", 3, job="a", attempt=1, code="OK")
    assert done["at_ms"] > 1_700_000_000_000
    assert refusal(client, "events.unsubscribe", sub=sub) == "invalid_params"
    assert ask(watcher, "events.unsubscribe", sub=sub) == {"sub": sub}
    client.submit("b")
    worker.dispatch("b")
    watcher.hears_nothing_else()


def test_r_10_5_subscriptions_are_bounded_and_kinds_are_known(broker: Broker) -> None:
    client = Client(broker)
    assert refusal(client, "events.subscribe", kinds=["weather"]) == "invalid_params"
    for _ in range(16):
        ask(client, "events.subscribe", kinds=["worker"])
    assert refusal(client, "events.subscribe") == "invalid_params"
