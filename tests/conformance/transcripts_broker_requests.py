"""transcripts/broker-requests.json: requests and events (SPEC section 10)."""

from __future__ import annotations

from collections.abc import Iterator

from tests.conformance.vector_steps import Transcript, get, octets, put, question

QA = [{"name": "qa", "revision": "r1"}]


def transcripts() -> Iterator[Transcript]:
    """In the order of the rules."""
    yield from _form()
    yield from _programs_and_workers()
    yield from _jobs()
    yield from _drain()
    yield from _events()


def _form() -> Iterator[Transcript]:
    about = "Each request is answered once, by its rid, or refused."
    t = Transcript("requests", "R-10.1 R-2.20", about)
    c, w = t.client(), t.worker()
    methods = {"$has": ["programs.get", "jobs.list", "events.subscribe", "stats.get", "workers.drain"]}
    for peer in (c, w):
        peer.send("request", rid="1", method="jobs.eat")
        peer.refused("unknown_method", rid="1", details={"methods": methods})
        for rid, body, reason in (
            ("2", octets(b"\xc1"), "invalid_body"),
            ("3", octets([1]), "invalid_body"),
            ("4", {"params": [1]}, "invalid_body"),
            ("5", {"params": "name"}, "invalid_body"),
            ("6", {"params": {"name": 7}}, "invalid_params"),
            ("7", {"params": {}}, "invalid_params"),
            ("8", {"params": {"name": "qaa"}}, "unknown_program"),
            ("9", {"$zeros": 1024 * 1024 + 1}, "body_too_large"),
        ):
            peer.send("request", body, rid=rid, method="programs.get").refused(reason, rid=rid)
    for method in ("workers.list", "jobs.list", "jobs.get", "jobs.cancel", "events.subscribe", "workers.drain"):
        w.ask_refused(method, "not_allowed", job="j", worker="w")
    yield t
    about = "In bodies an empty array is an empty map, and a whole float an integer; unknown keys are ignored."
    t = Transcript("bodies-are-met-halfway", "R-2.21", about, fresh=True)
    c = t.client()
    for body in (octets([]), {"params": []}, {"params": {}}, {"params": {"later": 1}, "later": 2}, octets(b"")):
        c.send("request", body, rid="1", method="programs.list").expect("reply", {"result": {"programs": []}}, rid="1")
    c.ask("jobs.list", {"jobs": []}, limit=3.0)
    c.ask_refused("jobs.list", "invalid_params", limit=2.5)
    yield t


def _programs_and_workers() -> Iterator[Transcript]:
    about = "Programs and workers come back as their workers describe them; a ready without a body changes no words."
    t = Transcript("programs-and-workers", "R-2.20 R-2.22 R-10.1", about, fresh=True)
    c, w = t.client(), t.worker(slots=None)
    described = {"description": "Answers.", "inputs": {"type": "object"}, "outputs": None, "more": 1}
    w.ready(2, {"programs": {"qa": described}, "executors": [{"id": "w/1"}]}, held=[]).expect("synced")
    w.ready(3)
    rows = {"name": "qa", "revision": "r1", "revisions": ["r1"]}
    c.ask("programs.list", {"programs": [{**rows, "workers": 1, "description": "Answers."}]})
    c.ask("programs.get", {**described, **rows, "workers": ["w"]}, name="qa")
    c.ask_refused("programs.get", "unknown_program", name="qb")
    row = {"worker": "w", "name": "w", "state": "ready", "slots": {"default": 3}}
    more = {"programs": {"qa": ["r1"]}, "profiles": [], "executors": [{"id": "w/1"}]}
    c.ask("workers.list", {"workers": [{**row, **more, "heard_ms_ago": {"$from": [0, 5000]}}]})
    jobs = {"live": 1, "queued": 0, "queued_bytes": 0, "in_flight": 1, "kept": 0, "tombstones": 0}
    c.submit("j")
    w.dispatch("j")
    lanes = {"default": {"granted": 3, "used": 1}}
    c.ask("stats.get", {"epoch": get("epoch"), "clients": 1, "workers": 1, "jobs": jobs, "slots": lanes, "queues": []})
    w.result("j")
    c.done("j")
    yield t


def _jobs() -> Iterator[Transcript]:
    about = "Jobs are listed by state and program, and shown with what became of them."
    t = Transcript("jobs-listed", "R-10.1", about, fresh=True)
    c, d, w = t.client(), t.client("d"), t.worker()
    c.submit("a", priority=7, want=["started"])
    w.dispatch("a")
    d.submit("b")
    row = {"job": "a", "state": "dispatched", "program": "qa", "attempt": 1, "revision": "r1", "flow": "c"}
    ends = {"attached": True, "age_ms": {"$from": [0, 9000]}, "left_ms": {"$from": [9000, 60000]}, "code": None}
    other = {"job": "b", "state": "queued", "program": "qa", "attempt": 0, "revision": None, "flow": "d"}
    c.ask("jobs.list", {"jobs": [{**row, **ends, "reason": None}, other], "truncated": False})
    c.ask("jobs.list", {"jobs": [other]}, states=["queued"])
    c.ask("jobs.list", {"jobs": [row, other]}, program="qa")
    c.ask("jobs.list", {"jobs": []}, program="another")
    c.ask("jobs.list", {"jobs": [row], "truncated": True}, limit=1)
    c.ask_refused("jobs.list", "invalid_params", states=["asleep"])
    more = {"priority": 7, "lane": "default", "want": ["started"], "on_disconnect": "cancel", "redeliver": True}
    books = {"charged": 1, "refunds": 0, "convictions": 0, "isolate": False, "lease": get("a.lease"), "worker": "w"}
    d.ask("jobs.get", {**row, **more, **books, "profile": None, "usage": None, "late_usage": None}, job="a")
    d.send("request", {"params": {"job": "b"}}, rid="r2", method="jobs.cancel")
    d.any_order({"t": "reply", "rid": "r2"}, {"t": "result", "job": "b", "code": "CANCELLED"})
    c.ask_refused("jobs.get", "unknown_job", job="nobody's")
    c.ask_refused("jobs.get", "invalid_params")
    w.result("a", "UNKNOWN", reason="program_error", message="boom", usage={"calls": 2, "models": {}})
    c.done("a", "UNKNOWN")
    ended = {"state": "done", "code": "UNKNOWN", "reason": "program_error", "message": "boom", "left_ms": None}
    c.ask("jobs.get", {**ended, "lease": None, "worker": None, "usage": {"calls": 2}}, job="a")
    yield t
    about = "Any client may cancel by request; the attached one gets the result."
    t = Transcript("jobs-cancelled-by-request", "R-10.1 R-7.5", about)
    c, d, w = t.client(), t.client("d"), t.worker()
    c.submit("a")
    w.dispatch("a")
    c.submit("b")
    d.ask("jobs.cancel", {"job": "b", "state": "done", "code": "CANCELLED"}, job="b")
    c.done("b", "CANCELLED", reason="cancelled")
    d.ask("jobs.cancel", {"job": "a", "state": "cancelling"}, job="a")
    w.expect("cancel", lease=get("a.lease"), cause="cancel")
    w.result("a", "CANCELLED", reason="cancelled")
    c.done("a", "CANCELLED")
    d.ask("jobs.cancel", {"state": "done", "code": "CANCELLED"}, job="a")
    d.nothing()
    yield t
    about = "A retry runs the same content under a new id, for whoever attaches to it."
    t = Transcript("jobs-retried", "R-10.3", about)
    c, d, w = t.client(), t.client("d"), t.worker()
    c.submit("a", want=["started"])
    w.dispatch("a")
    d.ask_refused("jobs.retry", "not_finished", job="a")
    w.result("a", "UNKNOWN", reason="program_error")
    c.done("a", "UNKNOWN")
    row = {"job": "b", "program": "qa", "attempt": 1, "attached": False}
    d.ask("jobs.retry", row, job="a", new_job="b")
    w.dispatch("b", body=question("a"))
    d.ask_refused("jobs.retry", "id_conflict", job="a", new_job="b")
    d.ask("jobs.retry", {"job": put("made"), "state": "queued"}, job="a")
    d.send("attach", job="b").expect("accepted", job="b", state="dispatched")
    w.expect("attach")
    w.result("b", acked=False)
    w.any_order(
        {"t": "ack", "leases": [get("b.lease")]},
        {"t": "dispatch", "job": get("made"), "lease": put("made.lease")},
    )
    d.done("b")
    c.submit("b", body=question("a"), want=["accepted"]).expect("accepted", job="b", state="done", duplicate=True).done(
        "b"
    )
    w.result("made")
    d.send("attach", job=get("made")).expect("accepted", state="done").expect("result", job=get("made"), code="OK")
    c.send("ack", jobs=["b"])
    for new_job in ("b", "a"):
        c.ask_refused("jobs.retry", "id_conflict", job="a", new_job=new_job)
    for new_job in ("", "x" * 65, "é"):
        c.ask_refused("jobs.retry", "invalid_params", job="a", new_job=new_job)
    yield t
    about = "A drop forgets a job that is done: its tombstone stays."
    t = Transcript("jobs-dropped", "R-10.1 R-5.17", about)
    c, w = t.client(), t.worker()
    c.submit("a")
    w.dispatch("a")
    c.ask_refused("jobs.drop", "not_finished", job="a")
    w.result("a")
    c.done("a")
    c.ask("jobs.drop", {"job": "a"}, job="a")
    for method in ("jobs.get", "jobs.drop", "jobs.retry", "jobs.cancel"):
        c.ask_refused(method, "result_gone", job="a")
    c.submit("a").refused("result_gone", job="a")
    yield t
    about = "What a fenced attempt has used is kept beside the job's end."
    t = Transcript("late-usage", "R-7.7 R-6.6", about, grace_ms=100)
    c, w = t.client(), t.worker()
    c.submit("a")
    w.dispatch("a")
    c.send("cancel", job="a")
    w.expect("cancel", cause="cancel")
    c.done("a", "CANCELLED", usage=None)
    w.expect("cancel", cause="fenced")
    w.result("a", "CANCELLED", usage={"calls": 3, "models": {}})
    c.ask("jobs.get", {"usage": None, "late_usage": {"calls": 3, "models": {}}}, job="a")
    yield t


def _drain() -> Iterator[Transcript]:
    about = "A drained worker gets nothing until it is undrained, also over a lost connection; what it has goes on."
    t = Transcript("drain", "R-10.1 R-6.30", about)
    c, w = t.client(), t.worker(slots=2)
    c.submit("a")
    w.dispatch("a")
    c.ask("workers.drain", {"worker": "w", "state": "draining"}, worker="w", grace_ms=1234)
    w.expect("drain", grace_ms=1234)
    c.submit("b").nothing()
    w.ready(2).nothing()
    w.lost()
    again = t.worker("w2", "w", slots=None)
    again.resync(2, [again.held("a")], ["a"]).nothing()
    again.result("a").nothing()
    c.done("a")
    c.ask_refused("workers.drain", "unknown_worker", worker="nobody")
    c.ask("workers.undrain", {"worker": "w", "state": "ready"}, worker="w")
    again.dispatch("b").result("b")
    c.done("b")
    yield t


def _events() -> Iterator[Transcript]:
    about = "Events come in order, counted from 0, from the subscription until its end."
    t = Transcript("events-of-jobs", "R-10.4 R-10.5", about, fresh=True)
    c, d, w = t.client(), t.client("d"), t.worker()
    c.ask("events.subscribe", {"sub": put("sub"), "kinds": {"$has": ["job.done", "job.submitted"]}}, kinds=["job"])
    d.submit("a")
    w.dispatch("a")
    told = {"sub": get("sub"), "at_ms": {"$from": [1, (1 << 53) - 1]}}
    c.expect("event", {"event": {"job": "a", "program": "qa", "flow": "d"}}, seq=0, kind="job.submitted", **told)
    told_of = {"job": "a", "attempt": 1, "worker": "w", "program": "qa"}
    c.expect("event", {"event": told_of}, seq=1, kind="job.dispatched", **told)
    w.result("a")
    d.done("a")
    ended = {"job": "a", "attempt": 1, "code": "OK", "reason": None, "flow": "d"}
    c.expect("event", {"event": ended}, seq=2, kind="job.done", **told)
    c.ask("events.unsubscribe", {"sub": get("sub")}, sub=get("sub"))
    d.submit("b")
    w.dispatch("b").result("b")
    d.done("b")
    c.nothing()
    c.ask_refused("events.unsubscribe", "invalid_params", sub=get("sub"))
    yield t
    about = "Events of workers and clients; two subscriptions of a session count for themselves."
    t = Transcript("events-of-workers-and-clients", "R-10.4 R-10.5", about, worker_ping_ms=100)
    c = t.client()
    c.ask("events.subscribe", {"sub": put("one")}, kinds=["worker.ready", "worker.lost"])
    c.ask("events.subscribe", {"sub": put("two")}, kinds=["client"])
    w = t.worker(slots=3)
    told = {"event": {"worker": "w", "slots": {"default": 3}}}
    c.expect("event", told, sub=get("one"), seq=0, kind="worker.ready")
    d = t.client("d")
    joined = {"event": {"name": "d", "lang": ""}}
    c.expect("event", joined, sub=get("two"), seq=0, kind="client.joined")
    d.send("bye")
    c.expect("event", {"event": {"name": "d"}}, sub=get("two"), seq=1, kind="client.left")
    w.send("bye")
    c.expect("event", {"event": {"worker": "w", "leases": 0}}, sub=get("one"), seq=1, kind="worker.lost")
    yield t
    about = "Kinds and numbers of subscriptions are bounded; a one-shot client has none; they end with their session."
    t = Transcript("subscriptions", "R-10.5", about)
    c, o = t.client(), t.one_shot()
    c.ask_refused("events.subscribe", "invalid_params", kinds=["jobs"])
    c.ask_refused("events.subscribe", "invalid_params", kinds="job")
    o.ask_refused("events.subscribe", "one_shot_only")
    for _ in range(16):
        c.ask("events.subscribe", kinds=["job.requeued"])
    c.ask_refused("events.subscribe", "invalid_params")
    c.send("bye").nothing()
    c.hello("c")
    c.ask("events.subscribe", kinds=["job.requeued"])
    yield t
