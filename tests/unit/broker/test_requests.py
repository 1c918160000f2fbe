"""Requests and events (SPEC section 10)."""

from __future__ import annotations

from typing import Any

import pytest

from dspymq.broker.core import events as ev
from dspymq.protocol import body as bodies
from dspymq.protocol import client_messages as c
from dspymq.protocol import worker_messages as w
from dspymq.protocol.messages import Bye, Error, Reply, Request, Usage
from tests.unit.broker.harness import CoreHarness, ready

C, W = b"client", b"worker"


def serving(**settings: Any) -> CoreHarness:
    h = CoreHarness(**settings)
    h.join_client(C, "alice")
    h.join_worker(W, slots=1)
    h.sent.clear()
    return h


def ask(h: CoreHarness, method: str, peer: Any = C, **params: Any) -> Any:
    """The result of a request, or the Error that answered it."""
    message = Request(rid="r1", method=method)
    body = bodies.encode(params=params)
    if peer in (W,):
        h.worker(peer, message, body)
    else:
        h.client(peer, message, body)
    answer, answer_body = next((m, b) for m, b in h.sent[peer] if isinstance(m, Reply | Error))
    h.sent[peer] = [(m, b) for m, b in h.sent[peer] if m is not answer]
    assert answer.rid == "r1"
    return answer if isinstance(answer, Error) else bodies.decode(answer_body)["result"]


def test_programs() -> None:
    h = serving()
    description = bodies.encode(programs={"qa": {"description": "answers", "inputs": {"type": "object"}}})
    h.worker(W, ready("w1", 1), description)
    (row,) = ask(h, "programs.list")["programs"]
    assert (row["name"], row["revision"], row["description"]) == ("qa", "r1", "answers")
    assert ask(h, "programs.get", name="qa")["inputs"] == {"type": "object"}
    error = ask(h, "programs.get", name="qaa")
    assert (error.reason, error.details) == ("unknown_program", {"close_matches": ["qa"]})


def test_workers_and_stats() -> None:
    h = serving()
    h.submit(C, "j1")
    (row,) = ask(h, "workers.list")["workers"]
    assert (row["worker"], row["state"], row["slots"], row["in_flight"]) == (
        "w1",
        "ready",
        {"default": 1},
        {"default": 1},
    )
    h.submit(C, "j2")
    stats = ask(h, "stats.get")
    assert stats["jobs"]["queued"] == 1
    assert stats["slots"] == {"default": {"granted": 1, "used": 1}}
    assert stats["counts"]["submitted"] == 2


def test_drain_and_undrain() -> None:
    h = serving()
    assert ask(h, "workers.drain", worker="w1", grace_ms=5_000)["state"] == "draining"
    assert h.one(W, w.Drain).grace_ms == 5_000
    h.submit(C, "j1")
    assert h.take(W, w.Dispatch) == []
    assert ask(h, "workers.undrain", worker="w1")["state"] == "ready"
    assert h.one(W, w.Dispatch).job == "j1"
    assert ask(h, "workers.drain", worker="nobody").reason == "unknown_worker"


def test_a_drained_worker_stays_drained_when_it_reconnects() -> None:
    h = serving()
    ask(h, "workers.drain", worker="w1")
    h.event(ev.WorkerUnreachable(W))
    h.join_worker(b"again", "w1")
    h.submit(C, "j1")
    assert h.take(b"again", w.Dispatch) == []


def test_jobs_list_and_get() -> None:
    h = serving()
    h.submit(C, "running", want=["chunks"])
    h.submit(C, "waiting", priority=7)
    rows = ask(h, "jobs.list")["jobs"]
    assert [(row["job"], row["state"]) for row in rows] == [("running", "dispatched"), ("waiting", "queued")]
    assert [row["job"] for row in ask(h, "jobs.list", states=["queued"])["jobs"]] == ["waiting"]
    assert ask(h, "jobs.list", limit=1)["truncated"]
    assert ask(h, "jobs.list", states=["nope"]).reason == "invalid_params"
    found = ask(h, "jobs.get", job="running")
    assert (found["worker"], found["attempt"], found["attached"], found["flow"]) == ("w1", 1, True, "alice")
    assert ask(h, "jobs.get", job="nope").reason == "unknown_job"


def test_late_usage_is_kept() -> None:
    h = serving(grace_ms=1_000)
    h.submit(C, "j1")
    dispatch = h.one(W, w.Dispatch)
    h.client(C, c.Cancel(job="j1"))
    h.wait(3_000, heard=(C, W))
    h.finish(W, dispatch, "CANCELLED", usage=Usage(calls=3))
    assert ask(h, "jobs.get", job="j1")["late_usage"]["calls"] == 3


def test_anybody_of_the_principal_may_cancel_by_request() -> None:
    h = serving()
    h.submit(C, "j1")
    h.join_client(b"operator", "operator")
    assert ask(h, "jobs.cancel", b"operator", job="j1")["state"] == "cancelling"
    assert h.one(W, w.Cancel).cause == "cancel"


def test_retry_runs_the_same_content_under_a_new_id() -> None:
    h = serving()
    h.submit(C, "j1", body=b"inputs")
    assert ask(h, "jobs.retry", job="j1").reason == "not_finished"
    h.finish(W, h.one(W, w.Dispatch), "UNKNOWN", b"", reason="program_error")
    row = ask(h, "jobs.retry", job="j1")
    assert row["job"] != "j1"
    dispatch, body = next((m, b) for m, b in h.sent[W] if isinstance(m, w.Dispatch))
    assert (dispatch.job, body) == (row["job"], b"inputs")
    h.finish(W, dispatch)
    h.take(C, c.Result)
    h.client(C, c.Attach(job=row["job"]))
    assert h.one(C, c.Result).code == "OK"


def test_drop_forgets_a_finished_job() -> None:
    h = serving()
    h.submit(C, "j1")
    assert ask(h, "jobs.drop", job="j1").reason == "not_finished"
    h.finish(W, h.one(W, w.Dispatch))
    ask(h, "jobs.drop", job="j1")
    assert ask(h, "jobs.get", job="j1").reason == "result_gone"


def test_unknown_methods_name_the_known_ones() -> None:
    h = serving()
    error = ask(h, "jobs.explode")
    assert (error.code, error.reason) == ("UNIMPLEMENTED", "unknown_method")
    assert "jobs.list" in (error.details or {})["methods"]


def test_a_worker_may_ask_only_little() -> None:
    h = serving()
    assert ask(h, "programs.list", W)["programs"]
    assert ask(h, "jobs.list", W).code == "PERMISSION_DENIED"


def test_params_that_are_no_map() -> None:
    h = serving()
    h.client(C, Request(rid="r1", method="stats.get"), b"\xc1")
    assert h.one(C, Error).reason == "invalid_body"


def events_of(h: CoreHarness, peer: bytes) -> list[tuple[int, str, Any]]:
    found = [(m.seq, m.kind, bodies.decode(b)["event"]) for m, b in h.sent.get(peer, []) if isinstance(m, c.Event)]
    h.take(peer, c.Event)
    return found


def test_events_tell_what_happens_in_order() -> None:
    h = serving()
    sub = ask(h, "events.subscribe", kinds=["job"])["sub"]
    h.submit(C, "j1")
    h.finish(W, h.one(W, w.Dispatch))
    kinds = events_of(h, C)
    assert [(seq, kind) for seq, kind, _ in kinds] == [(0, "job.submitted"), (1, "job.dispatched"), (2, "job.done")]
    assert kinds[2][2]["code"] == "OK"
    ask(h, "events.unsubscribe", sub=sub)
    h.submit(C, "j2")
    assert events_of(h, C) == []
    assert not h.core.context.has_listeners


def test_a_returned_attempt_is_told_like_a_lost_one() -> None:
    h = serving()
    ask(h, "events.subscribe", kinds=["job.requeued"])
    h.submit(C, "j1")
    lease = h.one(W, w.Dispatch).lease
    h.worker(W, w.Released(lease=lease, started=False, cause="capacity"))
    assert [(kind, body["job"], body["attempt"]) for _, kind, body in events_of(h, C)] == [("job.requeued", "j1", 1)]


def test_events_of_workers_and_clients() -> None:
    h = serving()
    ask(h, "events.subscribe", kinds=["worker.lost", "worker.away", "client"])
    h.join_client(b"bob", "bob")
    h.client(b"bob", Bye())
    h.event(ev.WorkerUnreachable(W))
    h.wait(4_000, heard=(C,))
    assert [kind for _, kind, _ in events_of(h, C)] == ["client.joined", "client.left", "worker.away", "worker.lost"]


def test_subscriptions_end_with_their_session_and_are_checked() -> None:
    h = serving()
    ask(h, "events.subscribe")
    assert ask(h, "events.subscribe", kinds=["jobs"]).reason == "invalid_params"
    assert ask(h, "events.unsubscribe", sub="e99").reason == "invalid_params"
    one_shot = ev.OneShot(b"r", (b"",))
    assert ask(h, "events.subscribe", one_shot).reason == "one_shot_only"
    h.client(C, Bye())
    assert not h.core.context.has_listeners


@pytest.mark.parametrize("method", ["jobs.get", "jobs.cancel", "jobs.retry", "jobs.drop", "programs.get"])
def test_a_missing_param_is_named(method: str) -> None:
    error = ask(serving(), method)
    assert error.reason == "invalid_params"
    assert "params." in error.message


def test_event_times_are_unix_times() -> None:
    h = serving()
    ask(h, "events.subscribe", kinds=["job"])
    h.now_ms += 5_000
    h.submit(C, "j1")
    began_ms = int("019000000000", 16)
    assert h.take(C, c.Event)[0].at_ms == began_ms + 5_000


def test_what_a_worker_says_of_its_language_models_is_told_once_a_change() -> None:
    h = CoreHarness()
    h.join_client(C)
    h.join_worker(W)
    ask(h, "events.subscribe", kinds=["worker.lm"])

    def says(*rows: dict[str, Any]) -> None:
        h.event(ev.WorkerMessage(W, ready("w1", 1), bodies.encode(executors=[{"id": "e"}, *rows])))

    throttled = {"id": "lm big", "lm": {"profile": "big", "state": "throttled"}}
    says(throttled)
    says(throttled)
    says({"id": "lm big", "lm": {"profile": "big", "state": "open"}}, {"id": "odd", "lm": 7})
    says()
    told = [(body["worker"], body["profile"], body["state"]) for _, _, body in events_of(h, C)]
    assert told == [("w1", "big", "throttled"), ("w1", "big", "open"), ("w1", "big", "free")]
