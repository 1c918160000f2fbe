"""transcripts/broker-restart.json: who waits for whom when a broker has begun anew (SPEC section 8)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tests.conformance.vector_encodings import EPOCH, Fields
from tests.conformance.vector_forms import write
from tests.conformance.vector_ids import digest
from tests.conformance.vector_steps import Peer, Transcript, get, put, question

AGAIN = {"known_epoch": EPOCH}
"""A submit that another broker was sent before."""


def lease(number: int = 1) -> str:
    """A lease of that broker."""
    return f"{EPOCH}-{number:012d}"


def held(job: str = "j", number: int = 1, attempt: int = 1, state: str = "running", **more: Any) -> Fields:
    """What a worker reports of a job that `submit` has submitted."""
    entry = {"lease": lease(number), "ns": "anonymous", "job": job, "attempt": attempt, "state": state}
    return {**entry, "digest": digest("qa", None, None, write(question(job))), "left_ms": 60000, **more}


def reports(w: Peer, *entries: Fields, keep: list[int], slots: int = 1) -> Peer:
    """The worker's one page, and the leases that go on, for each of which attach comes."""
    w.ready(slots, held=list(entries)).expect("synced", keep=[lease(number) for number in keep])
    return w


def says(w: Peer, t: str, body: Any = None, number: int = 1, attempt: int = 1, **fields: Any) -> Peer:
    """A message under a lease of the broker before."""
    return w.send(t, body, lease=lease(number), attempt=attempt, **fields)


def ends(w: Peer, number: int = 1, attempt: int = 1, code: str = "OK", **fields: Any) -> Peer:
    """The attempt ends, and is acknowledged."""
    says(w, "result", {"outputs": {"by": number}} if code == "OK" else None, number, attempt, code=code, **fields)
    return w.expect("ack", leases=[lease(number)])


def transcripts() -> Iterator[Transcript]:
    """In the order of the rules."""
    yield from _restarts()
    yield from _waits()
    yield from _adopts()
    yield from _lanes()
    yield from _unclaimed()
    yield from _attach()
    yield from _same_broker()


def _restarts() -> Iterator[Transcript]:
    about = "The broker is killed with a job at work, and started again: the job goes on, whoever is back first."
    for first in ("client", "worker"):
        t = Transcript(f"restart-{first}-first", "R-8.1 R-8.3 R-8.10 R-8.11 R-3.32", about)
        c, w = t.client(), t.worker()
        c.submit("j", want=["chunks"])
        w.dispatch("j")
        t.add(restart_broker=True)
        fields = {"want": ["chunks"], "known_epoch": get("epoch")}

        def client(t: Transcript = t) -> Peer:
            again = t.peer("c2", "client").send("hello", name="c", features=["ack"])
            return again.expect("welcome", epoch={"$all": [{"$uuid7": True}, {"$greater": get("epoch")}]})

        def worker(t: Transcript = t) -> Peer:
            again = t.peer("w2", "worker")
            again.worker = "w"
            again.send("hello", name="w", features=["chunks"]).expect("welcome")
            again.resync(1, [again.held("j", seq=5, left_ms=60000)], ["j"])
            return again.expect("attach", lease=get("j.lease"))

        if first == "client":
            c2 = client().submit("j", **fields)
            w2 = worker()
        else:
            w2, c2 = worker(), client()
            c2.submit("j", **fields)
            w2.expect("attach", lease=get("j.lease"), want=["chunks"])
        w2.say("chunk", "j", {"fields": {"a": "xy"}}, seq=5, reset=True)
        c2.expect("chunk", {"fields": {"a": "xy"}}, job="j", attempt=1, seq=5, reset=True)
        w2.result("j", chunks=6)
        c2.done("j", attempt=1, chunks=6)
        yield t


def _waits() -> Iterator[Transcript]:
    about = "A job that was sent to another broker waits adopt_ms for a worker that has it, then it runs."
    t = Transcript("nobody-reports-it", "R-8.4", about, adopt_ms=400)
    c, w = t.client(), t.worker()
    c.submit("j", want=["accepted"], **AGAIN)
    c.expect("accepted", job="j", state="queued", attempt=0, duplicate=False, waiting=False)
    w.nothing()
    w.expect("dispatch", job="j", attempt=1, lease=put("j.lease"), after=250, within=3000)
    w.result("j")
    c.done("j")
    yield t
    about = "A job of this epoch, or one that was never sent before, does not wait."
    t = Transcript("no-reason-to-wait", "R-8.4", about, adopt_ms=60000)
    c, w = t.client(), t.worker(slots=2)
    c.submit("ours", known_epoch=get("epoch")).submit("new")
    w.dispatch("ours").dispatch("new").result("ours").result("new")
    c.done("ours").done("new")
    yield t
    about = "What may not run a second time, or is offered by nobody, ends."
    t = Transcript("nobody-reports-it-and-it-may-not-run", "R-8.4 R-6.29", about, adopt_ms=200)
    c, w = t.client(), t.worker(slots=2)
    c.submit("once", redeliver=False, **AGAIN)
    c.submit("fast", fail_fast=True, profile="nobody's", **AGAIN)
    c.submit("unheard", "unheard-of", **AGAIN)
    c.submit("unsure", known_epoch="unknown")
    c.nothing()
    c.any_order(
        {"t": "result", "job": "once", "code": "UNAVAILABLE", "reason": "worker_lost", "attempt": 0},
        {"t": "result", "job": "fast", "code": "UNAVAILABLE", "reason": "no_worker", "attempt": 0},
        {"t": "result", "job": "unheard", "code": "NOT_FOUND", "reason": "unknown_program", "attempt": 0},
    )
    w.dispatch("unsure").result("unsure")
    c.done("unsure")
    yield t
    about = "While it waits it can be cancelled, expires, is joined, and ends with its client."
    t = Transcript("waiting-is-being-queued", "R-8.4 R-5.15 R-7.2 R-7.6", about, adopt_ms=60000)
    c, d = t.client(), t.client("d")
    c.submit("cancelled", **AGAIN).send("cancel", job="cancelled")
    c.done("cancelled", "CANCELLED", attempt=0)
    c.submit("late", timeout_ms=100, **AGAIN).done("late", "DEADLINE_EXCEEDED", attempt=0)
    c.submit("left", **AGAIN).submit("joined", **AGAIN)
    d.submit("joined", want=["accepted"], **AGAIN)
    d.expect("accepted", job="joined", duplicate=True, state="queued")
    c.refused("superseded", job="joined")
    c.send("bye").nothing()
    d.submit("left").done("left", "CANCELLED", reason="client_gone")
    yield t
    about = "It is not refused for a program that nobody offers yet; other refusals stand."
    t = Transcript("not-judged-by-who-is-here", "R-8.4", about, adopt_ms=60000)
    c = t.client()
    t.worker()
    c.submit("j", "unheard-of", want=["accepted"], **AGAIN).expect(
        "accepted", job="j", waiting=True, missing=["program"]
    )
    c.submit("k", "unheard-of").refused("unknown_program", job="k")
    c.submit("r", "_reserved", **AGAIN).refused("unknown_program", job="r")
    yield t


def _adopts() -> Iterator[Transcript]:
    about = "A lease of another broker goes on if its job waits and the digests agree; attach says what is wanted."
    for state in ("running", "done"):
        t = Transcript(f"adopt-{state}", "R-8.5 R-8.7 R-8.8 R-6.14 R-6.19", about)
        c, w = t.client(), t.worker(slots=None)
        c.submit("j", want=["started", "chunks"], window=7, **AGAIN)
        reports(w, held(attempt=2, state=state), keep=[1])
        w.expect("attach", lease=lease(), want=["started", "chunks"], window=7)
        w.nothing()
        ends(w, attempt=2)
        c.expect("result", {"outputs": {"by": 1}}, job="j", attempt=2, code="OK")
        yield t
    about = "Another content under the same id is not adopted."
    t = Transcript("another-content-is-dropped", "R-8.5", about, adopt_ms=200)
    c, w = t.client(), t.worker(slots=None)
    c.submit("j", body=question("something else"), **AGAIN)
    reports(w, held(), held("bad", 2, digest="no hexadecimal"), keep=[])
    w.dispatch("j").result("j")
    c.done("j", attempt=1)
    yield t
    about = "Of several holders the greatest lease wins, in whatever order they come; the others are fenced or dropped."
    for first, second in ((1, 2), (2, 1)):
        t = Transcript(f"the-greatest-lease-wins-{first}-{second}", "R-8.5 R-8.10", about)
        c, w, x = t.client(), t.worker(slots=None), t.worker("x", slots=None)
        c.submit("j", **AGAIN)
        reports(w, held(number=first, attempt=first), keep=[first]).expect("attach", lease=lease(first))
        if second > first:
            reports(x, held(number=second, attempt=second), keep=[second]).expect("attach", lease=lease(second))
            w.expect("cancel", lease=lease(first), cause="fenced", grace_ms=0)
        else:
            reports(x, held(number=second, attempt=second), keep=[])
        ends(x if first == 2 else w, 1, 1)
        c.nothing()
        ends(w if first == 2 else x, 2, 2)
        c.expect("result", {"outputs": {"by": 2}}, job="j", attempt=2, code="OK")
        yield t
    about = "A job that this broker has dispatched since is greater: the old lease is dropped."
    t = Transcript("dispatched-since", "R-8.5 R-6.1", about)
    c, w, x = t.client(), t.worker(), t.worker("x", slots=None)
    c.submit("j")
    w.dispatch("j")
    reports(x, held(), keep=[])
    w.result("j")
    c.done("j")
    yield t
    about = "A broker that has dispatched a job of a broker later than itself gives way to that one's greater lease."
    t = Transcript("greater-than-our-own", "R-8.5 R-8.7", about)
    c, w, x = t.client(), t.worker(), t.worker("x", slots=None)
    greater = "ffffffff-ffff-7fff-bfff-ffffffffffff-000000000001"
    c.submit("j")
    w.dispatch("j")
    x.ready(1, held=[held(lease=greater)]).expect("synced", keep=[greater])
    w.expect("cancel", lease=get("j.lease"), cause="fenced")
    x.expect("attach", lease=greater)
    w.result("j", "CANCELLED")
    c.nothing()
    x.send("result", {"outputs": {}}, lease=greater, attempt=1, code="OK").expect("ack", leases=[greater])
    c.done("j", attempt=1)
    yield t
    about = "What is being stopped, is done, or is gone is not adopted."
    t = Transcript("too-late-to-adopt", "R-8.5 R-5.4", about)
    c, w, x = t.client(), t.worker(), t.worker("x", slots=None)
    for job in ("gone", "done"):
        c.submit(job)
        w.dispatch(job).result(job)
        c.done(job)
    c.send("ack", jobs=["gone"])
    c.submit("stopping")
    w.dispatch("stopping")
    c.send("cancel", job="stopping")
    w.expect("cancel", cause="cancel")
    reports(x, held("gone", 1), held("done", 2, state="done"), held("stopping", 3), keep=[])
    w.result("stopping", "CANCELLED", reason="cancelled")
    c.done("stopping", "CANCELLED")
    yield t
    about = "An adopted attempt takes a slot and is charged; the next one counts on from it, after adopt_ms."
    t = Transcript("adopted-attempts-count", "R-8.4 R-8.8 R-6.5 R-6.24", about, max_attempts=2, adopt_ms=1500)
    c, w = t.client(), t.worker(slots=None)
    c.submit("j", **AGAIN).submit("next")
    reports(w, held(attempt=4), keep=[1]).expect("attach", lease=lease()).nothing()
    says(w, "released", None, 1, None, started=True, cause="crash")
    w.dispatch("next").result("next")
    c.done("next")
    w.dispatch("j", attempt=5).released("j", started=True)
    c.done("j", "UNAVAILABLE", reason="worker_lost", attempt=5)
    yield t


def _lanes() -> Iterator[Transcript]:
    about = "An adopted lease takes a slot of its lane."
    t = Transcript("adopted-in-its-lane", "R-8.8 R-6.5", about)
    c, w = t.client(), t.peer("w", "worker").hello("w")
    slots = {"default": 1, "batch": 1}
    offers = [{"name": "qa", "revision": "r1"}]
    w.send("ready", worker="w", slots=slots, programs=offers, held=[held(lane="batch")])
    w.expect("synced", keep=[lease()]).expect("attach")
    c.submit("long", lane="batch").nothing()
    w.nothing()
    c.submit("short")
    w.dispatch("short", lane="default")
    says(w, "result", code="UNKNOWN")
    w.any_order({"t": "ack", "leases": [lease()]}, {"t": "dispatch", "job": "long", "lane": "batch"})
    yield t


def _unclaimed() -> Iterator[Transcript]:
    about = "A job that only a worker has told of is kept for the client, with its result."
    t = Transcript("finished-before-anybody-asked", "R-8.6 R-8.11", about)
    w = t.worker(slots=None)
    reports(w, held(state="done"), keep=[1]).expect("attach", lease=lease(), want=[], window=None)
    ends(w)
    c = t.client()
    c.submit("j", body=question("another")).refused("id_conflict", job="j")
    c.submit("j", **AGAIN).expect("result", {"outputs": {"by": 1}}, job="j", code="OK", attempt=1)
    c.send("ack", jobs=["j"])
    c.submit("j", **AGAIN).refused("result_gone")
    yield t
    about = "The submit brings the inputs and the timeout: the job can expire, and run again if its worker is lost."
    t = Transcript("the-client-comes-second", "R-8.6 R-8.7", about, adopt_ms=500)
    c, w = t.client(), t.worker(slots=None)
    reports(w, held(), held("late", 2), keep=[1, 2], slots=2)
    w.expect("attach", lease=lease(1), want=[]).expect("attach", lease=lease(2), want=[])
    c.submit("j", want=["accepted", "chunks"], timeout_ms=60000, **AGAIN)
    c.expect("accepted", job="j", state="running", attempt=1, duplicate=True)
    w.expect("attach", lease=lease(1), want=["accepted", "chunks"])
    c.submit("late", timeout_ms=150, **AGAIN)
    w.expect("attach", lease=lease(2)).expect("cancel", lease=lease(2), cause="deadline", within=3000)
    ends(w, 2, code="CANCELLED")
    c.done("late", "DEADLINE_EXCEEDED")
    w.send("bye").nothing()
    other = t.worker("w2")
    other.dispatch("j", attempt=2, body=question("j")).result("j", attempt=2)
    c.done("j", attempt=2)
    yield t
    about = "Without room within the bounds on jobs it is dropped."
    t = Transcript("no-room-for-what-nobody-asked-for", "R-8.5 R-11.6", about, limits={"max_jobs": 1})
    c, w = t.client(), t.worker(slots=None)
    c.submit("a", want=["accepted"]).expect("accepted", job="a")
    reports(w, held(), keep=[])
    w.dispatch("a").result("a")
    c.done("a")
    yield t
    about = "If nobody asks for it within orphan_ms it is cancelled."
    t = Transcript("nobody-asks-for-it", "R-8.6", about, orphan_ms=300)
    w = t.worker(slots=None)
    reports(w, held(), keep=[1]).expect("attach")
    w.expect("cancel", lease=lease(), cause="cancel", after=200, within=3000)
    ends(w, code="CANCELLED", reason="cancelled")
    t.client().submit("j", **AGAIN).done("j", "CANCELLED")
    yield t
    about = "If its worker is lost before anybody has asked it vanishes, and the id is new."
    t = Transcript("it-vanishes-with-its-worker", "R-8.6", about)
    w = t.worker(slots=None)
    reports(w, held(), keep=[1]).expect("attach")
    w.send("bye").nothing()
    c = t.client()
    c.submit("j", body=question("another content"), want=["accepted"])
    c.expect("accepted", job="j", duplicate=False, state="queued", attempt=0)
    t.worker("w2").dispatch("j", attempt=1)
    yield t


def _attach() -> Iterator[Transcript]:
    about = "attach joins a job without its inputs; if its worker is then lost it cannot run again."
    t = Transcript("attach-to-an-unclaimed-job", "R-8.6", about)
    c, w = t.client(), t.worker(slots=None)
    t.worker("w2")
    reports(w, held(), keep=[1]).expect("attach")
    c.send("attach", job="j", want=["chunks"]).expect("accepted", job="j", state="running", attempt=1)
    w.expect("attach", lease=lease(), want=["chunks"])
    w.send("bye").nothing()
    c.done("j", "UNAVAILABLE", reason="worker_lost", attempt=1)
    yield t
    about = "Right after its start a broker does not say that it does not know a job: a worker may still report it."
    t = Transcript("adopting", "R-8.9 R-5.12", about, adopt_ms=500)
    c = t.client()
    c.send("attach", job="j").refused("adopting", job="j", retryable=True)
    t.wait(700)
    c.send("attach", job="j").refused("unknown_job", job="j", retryable=False)
    yield t


def _same_broker() -> Iterator[Transcript]:
    about = "A worker that was lost and comes back to the same broker goes on with what nobody else has begun."
    t = Transcript("lost-and-back", "R-8.5 R-6.19", about, worker_ping_ms=100)
    c, w = t.client(), t.worker()
    c.submit("j")
    w.dispatch("j").lost()
    t.wait(500)
    again = t.worker("w2", "w", slots=None)
    again.resync(1, [again.held("j")], ["j"]).expect("attach", lease=get("j.lease"))
    again.result("j")
    c.done("j", attempt=1)
    yield t
