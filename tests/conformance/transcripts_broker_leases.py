"""transcripts/broker-leases.json: leases, held and synced, refunds, losses, blame (SPEC section 6)."""

from __future__ import annotations

from collections.abc import Iterator

from tests.conformance.vector_encodings import LEASE
from tests.conformance.vector_steps import Peer, Transcript, get, put

QA = [{"name": "qa", "revision": "r1"}]


def transcripts() -> Iterator[Transcript]:
    """In the order of the rules."""
    yield from _leases()
    yield from _not_ready()
    yield from _held()
    yield from _sessions()
    yield from _refunds()
    yield from _losses()
    yield from _blame()
    yield from _redeliver()


def _leases() -> Iterator[Transcript]:
    about = "A lease is the epoch and a counter, later ones are greater, and attempts count from 1."
    t = Transcript("leases-and-attempts", "R-6.1 R-6.3 R-6.24", about)
    c, w = t.client(), t.worker()
    c.submit("j")
    first = {"$all": [put("first.lease"), {"$begins": get("epoch")}]}
    w.expect("dispatch", job="j", attempt=1, lease=first)
    w.released("first", started=True)
    second = {"$all": [put("second.lease"), {"$begins": get("epoch")}, {"$greater": get("first.lease")}]}
    w.expect("dispatch", job="j", attempt=2, lease=second)
    w.released("second", started=True)
    w.expect("dispatch", job="j", attempt=3, lease={"$greater": get("second.lease")})
    yield t
    about = "There are never more leases than slots; fewer slots take nothing away."
    t = Transcript("no-more-leases-than-slots", "R-6.5 R-11.5", about)
    c, w = t.client(), t.worker(slots=2)
    for n in range(4):
        c.submit(f"j{n}")
    w.dispatch("j0").dispatch("j1").nothing()
    w.ready(1).nothing()
    w.result("j0").nothing()
    w.ready(3).dispatch("j2").dispatch("j3").nothing()
    for job in ("j1", "j2", "j3"):
        w.result(job)
    for n in range(4):
        c.done(f"j{n}")
    yield t
    about = "The lease is checked, not who sends: another worker's result ends nothing, and is acknowledged."
    t = Transcript("another-workers-lease", "R-6.4 R-6.6", about)
    c, w, other = t.client(), t.worker(), t.worker("w2", slots=0)
    c.submit("j")
    w.dispatch("j")
    other.say("result", "j", {"outputs": {}}, code="OK").acked("j")
    other.released("j", started=True)
    other.nothing()
    c.nothing()
    w.result("j")
    c.done("j")
    yield t


def _not_ready() -> Iterator[Transcript]:
    about = "Before its first ready a worker may not speak of leases."
    t = Transcript("not-ready", "R-6.22", about)
    w = t.worker(slots=None)
    for kind, more in (
        ("result", {"code": "OK"}),
        ("started", {"revision": "r1", "worker": "w"}),
        ("chunk", {"seq": 0}),
        ("progress", {}),
        ("tool_call", {"call": 0, "name": "f", "timeout_ms": 1}),
    ):
        w.send(kind, lease=LEASE, attempt=1, **more).refused("not_ready", lease=LEASE, retryable=True)
    w.send("released", lease=LEASE, started=False, cause="drain").refused("not_ready", lease=LEASE)
    w.send("ping", n=1).expect("pong", n=1)
    w.ask("programs.list")
    yield t


def _held() -> Iterator[Transcript]:
    about = (
        "Pages of held are answered one by one; nothing is dispatched before the last; what none named is taken back."
    )
    t = Transcript("pages-of-held", "R-6.13 R-6.14 R-6.17 R-6.18", about)
    c, w = t.client(), t.worker(slots=4)
    for job in ("kept", "done", "never", "ran"):
        c.submit(job)
        w.dispatch(job)
    w.say("started", "ran", revision="r1", worker="w")
    w.nothing()
    w.lost()
    c.submit("waits")
    again = t.worker("w2", "w", slots=None)
    again.resync(5, [again.held("kept")], ["kept"], more=True)
    again.nothing()
    again.resync(5, [again.held("done", state="done")], ["done"])
    again.any_order(
        {"t": "dispatch", "job": "waits", "attempt": 1, "lease": put("waits.lease")},
        {"t": "dispatch", "job": "never", "attempt": 2, "lease": put("never.lease")},
        {"t": "dispatch", "job": "ran", "attempt": 2, "lease": put("ran.lease")},
    )
    for label, attempt in (("done", 1), ("kept", 1), ("never", 2), ("ran", 2), ("waits", 1)):
        again.result(label, attempt=attempt)
        c.done(label, attempt=attempt)
    yield t
    about = "A first ready without held is an empty last page; later ones without held report nothing."
    t = Transcript("ready-without-held", "R-6.14", about)
    c, w = t.client(), t.peer("w", "worker")
    w.hello("w", features=[])
    w.ready(1).expect("synced", keep=[])
    c.submit("j")
    w.dispatch("j")
    w.ready(1).nothing()
    w.result("j")
    c.done("j")
    yield t
    about = "A report in the middle of a session, as after a stop of the worker's own, begins anew."
    t = Transcript("a-report-within-a-session", "R-6.14 R-6.17 R-6.18", about)
    c, w = t.client(), t.worker(slots=2)
    c.submit("a").submit("b")
    w.dispatch("a").dispatch("b")
    w.resync(2, [w.held("a")], ["a"], more=True)
    w.nothing()
    w.resync(2, [], [])
    w.dispatch("b", attempt=2)
    w.result("a").result("b", attempt=2)
    c.done("a").done("b", attempt=2)
    yield t


def _sessions() -> Iterator[Transcript]:
    about = "A new session of a worker ends the one before, and goes on with what it reports."
    t = Transcript("a-new-session-of-a-worker", "R-6.21 R-6.23", about)
    c, w = t.client(), t.worker()
    c.submit("j", want=["chunks"])
    w.dispatch("j")
    again = t.worker("w2", "w", slots=None)
    again.resync(1, [again.held("j", seq=3)], ["j"])
    w.send("ping").refused("no_session")
    again.say("chunk", "j", {"fields": {}}, seq=3, reset=True)
    c.expect("chunk", job="j", attempt=1, seq=3, reset=True)
    again.result("j", chunks=4)
    c.done("j", attempt=1, chunks=4)
    yield t
    about = "A session is one worker's."
    t = Transcript("one-worker-for-a-session", "R-6.21", about)
    w = t.worker()
    w.send("ready", worker="another", slots={"default": 1}, programs=QA).refused("bad_header")
    w.ready(1).nothing()
    yield t
    about = "What ran elsewhere in the meantime is not in keep; its late result is acknowledged and changes nothing."
    t = Transcript("a-worker-comes-back-too-late", "R-6.6 R-6.14 R-6.23", about, worker_ping_ms=100)
    c, w = t.client(), t.worker()
    c.submit("j")
    w.dispatch("j", "first")
    w.lost()
    t.wait(600)
    other = t.worker("w2")
    other.dispatch("j", "second", attempt=2)
    again = t.worker("w3", "w", slots=None)
    again.resync(0, [again.held("first", "j", state="done")], [])
    again.say("result", "first", {"outputs": {}}, code="OK").acked("first")
    other.result("second", attempt=2)
    c.expect("result", {"outputs": {"answer": "second"}}, job="j", attempt=2, code="OK")
    yield t


def _refunds() -> Iterator[Transcript]:
    about = "What was not started is given to another worker, or to this one again after its next ready."
    t = Transcript("refund", "R-6.9", about)
    c, w = t.client(), t.worker()
    c.submit("j")
    w.dispatch("j", "first").released("first", started=False, cause="capacity")
    w.nothing()
    w.ready(1).dispatch("j", "second", attempt=2).released("second", started=False, cause="drain")
    w.nothing()
    other = t.worker("w2")
    other.dispatch("j", "third", attempt=3).result("third", attempt=3)
    c.done("j", attempt=3)
    yield t
    about = "Four refunds of a job are free; each later one is charged like a lost attempt."
    t = Transcript("refunds-that-are-charged", "R-6.9 R-6.24", about)
    c, w = t.client(), t.worker()
    c.submit("j")
    for attempt in range(1, 8):
        label = f"a{attempt}"
        w.dispatch("j", label, attempt=attempt).released(label, started=False, cause="capacity")
        if attempt < 7:
            w.ready(1)
    c.done("j", "UNAVAILABLE", reason="worker_lost", attempt=7)
    yield t
    about = "A job avoids everybody who gave it back, until they say ready again."
    t = Transcript("refunds-by-two-workers", "R-6.9", about)
    c, w, x = t.client(), t.worker(), t.worker("x", slots=0)
    c.submit("j")
    w.dispatch("j", "a").released("a", started=False, cause="capacity")
    x.ready(1).dispatch("j", "b", attempt=2).released("b", started=False, cause="capacity")
    x.nothing()
    w.nothing()
    w.ready(1).dispatch("j", "d", attempt=3).result("d", attempt=3)
    c.done("j", attempt=3)
    yield t
    about = "A refunded job is the first in its queue."
    t = Transcript("refunded-jobs-go-first", "R-6.9 R-11.2", about)
    c, w = t.client(), t.worker()
    for job in ("a", "b", "c1"):
        c.submit(job)
    w.dispatch("a")
    w.ready(0).released("a", started=False, cause="capacity")
    w.nothing()
    w.ready(1).dispatch("a", attempt=2)
    yield t
    about = "Who says that nothing has started after it had said so is not believed: the attempt is charged."
    t = Transcript("released-after-started", "R-5.4 R-6.9 R-6.24", about, max_attempts=1)
    c, w = t.client(), t.worker()
    c.submit("j")
    w.dispatch("j").say("started", "j", revision="r1", worker="w")
    w.released("j", started=False)
    c.done("j", "UNAVAILABLE", reason="worker_lost")
    yield t


def _losses() -> Iterator[Transcript]:
    about = "Lost workers use up the attempts of a job; nobody is blamed."
    t = Transcript("lost-workers", "R-6.23 R-6.24 R-6.27", about, worker_ping_ms=100)
    c = t.client()
    c.submit("j")
    for n in range(1, 4):
        w = t.worker(f"w{n}")
        w.dispatch("j", f"a{n}", attempt=n, isolate=False)
        if n == 2:
            w.silent()
            t.wait(500)
        else:
            w.lost()
            t.wait(500)
    c.done("j", "UNAVAILABLE", reason="worker_lost", attempt=3, retryable=True)
    yield t
    about = "A broken connection alone loses no worker."
    t = Transcript("back-in-time", "R-6.23", about)
    c, w, other = t.client(), t.worker(), t.worker("w2", slots=0)
    c.submit("j")
    w.dispatch("j").lost()
    again = t.worker("w3", "w", slots=None)
    again.resync(1, [again.held("j")], ["j"])
    other.ready(1).nothing()
    again.result("j")
    c.done("j", attempt=1)
    yield t


def _blame() -> Iterator[Transcript]:
    about = "Two convictions make a job poison; they cost it no attempts, and it runs isolated after the first."
    t = Transcript("poison", "R-6.25 R-6.24", about)
    c, w = t.client(), t.worker()
    c.submit("j")
    w.dispatch("j", "a", isolate=False).released("a", started=True, blame="none", cause="drain")
    w.dispatch("j", "b", attempt=2, isolate=False).released("b", started=True, blame="self")
    w.dispatch("j", "d", attempt=3, isolate=True).released("d", started=True, blame="self")
    c.done("j", "ABORTED", reason="poison", retryable=False, attempt=3)
    yield t
    about = "A job that may be at fault runs isolated from then on, and its attempt is charged."
    t = Transcript("shared-blame", "R-6.25 R-6.24", about, max_attempts=2)
    c, w = t.client(), t.worker()
    c.submit("j")
    w.dispatch("j", "a").released("a", started=True, blame="shared")
    w.dispatch("j", "b", attempt=2, isolate=True).released("b", started=True, blame="none", cause="stall")
    c.done("j", "UNAVAILABLE", reason="worker_lost", attempt=2)
    yield t


def _redeliver() -> Iterator[Transcript]:
    about = "With redeliver: false a job runs at most once; what was refunded did not run."
    t = Transcript("redeliver-false", "R-6.29", about)
    c, w = t.client(), t.worker()

    def once(job: str) -> Peer:
        c.submit(job, redeliver=False)
        return w.dispatch(job)

    once("refunded").released("refunded", started=False, cause="capacity")
    w.ready(1).dispatch("refunded", attempt=2).result("refunded", attempt=2)
    c.done("refunded")
    once("crashed").released("crashed", started=True)
    c.done("crashed", "UNAVAILABLE", reason="worker_lost", attempt=1)
    once("lost").send("bye").nothing()
    c.done("lost", "UNAVAILABLE", reason="worker_lost", attempt=1)
    yield t
