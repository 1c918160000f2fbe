"""transcripts/broker-queues.json: flows, priorities, bounds, who can run what, revisions (SPEC section 11)."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from tests.conformance.vector_steps import Peer, Transcript, get, put


def transcripts() -> Iterator[Transcript]:
    """In the order of the rules."""
    yield from _order()
    yield from _workers()
    yield from _bounds()
    yield from _nobody()
    yield from _revisions()
    yield from _circuits()


def served(w: Peer, *jobs: str) -> None:
    """The worker, with one slot, is given these jobs in this order, and ends each at once."""
    w.dispatch(jobs[0])
    for job, following in itertools.pairwise(jobs):
        w.result(job, acked=False)
        fields = {"job": following, "lease": put(f"{following}.lease")}
        w.any_order({"t": "ack", "leases": [get(f"{job}.lease")]}, {"t": "dispatch", **fields})
    w.result(jobs[-1])


def _order() -> Iterator[Transcript]:
    about = "Priority orders the jobs of a flow, then age does."
    t = Transcript("priorities", "R-11.2", about)
    c = t.client()
    jobs = {"a": 4, "b": 0, "d": 9, "e": None, "f": 9}
    for job, priority in jobs.items():
        c.submit(job, **({} if priority is None else {"priority": priority}))
    w = t.worker()
    served(w, "d", "f", "a", "e", "b")
    for job in ("d", "f", "a", "e", "b"):
        c.done(job)
    yield t
    about = "The flow with the fewest slots is next, whatever the priority of others; a flow is the name in hello."
    t = Transcript("flows", "R-11.1 R-11.2", about)
    many, also, few = t.client("many"), t.client("also", flow="many"), t.client("few")
    for n in range(3):
        many.submit(f"m{n}", priority=9)
    also.submit("m3", priority=9)
    few.submit("f0", priority=0).submit("f1", priority=0)
    w = t.worker()
    served(w, "m0", "f0", "m1", "f1", "m2", "m3")
    many.done("m0").done("m1").done("m2")
    few.done("f0").done("f1")
    also.done("m3")
    yield t


def _workers() -> Iterator[Transcript]:
    about = "The worker that uses the smallest share of its slots is next."
    t = Transcript("least-loaded-first", "R-11.4", about, fresh=True)
    c, small, large = t.client(), t.worker("small", slots=2), t.worker("large", slots=4)
    c.submit("a").submit("b").submit("d")
    counts = {"in_flight": {"default": 1}}, {"in_flight": {"default": 2}}
    c.ask("workers.list", {"workers": [{"worker": "small", **counts[0]}, {"worker": "large", **counts[1]}]})
    small.expect("dispatch")
    for _ in range(2):
        large.expect("dispatch")
    yield t
    about = "Jobs of an affinity go to the worker that took the last of them, as long as it has a free slot."
    t = Transcript("affinity", "R-11.4", about)
    c, w = t.client(), t.worker("w", slots=2)
    c.submit("a", affinity="cache-7")
    w.dispatch("a")
    other = t.worker("other", slots=9)
    c.submit("b", affinity="cache-7")
    w.dispatch("b")
    c.submit("d", affinity="cache-7")
    other.dispatch("d")
    w.result("a")
    c.done("a").submit("e", affinity="cache-7")
    other.dispatch("e")
    yield t
    about = "A job goes only where its program, revision, profile, lane and features are offered."
    t = Transcript("what-a-job-needs", "R-11.3 R-11.11", about)
    c = t.client()
    plain = t.worker("plain", features=[])
    for job, fields, missing in (
        ("profile", {"profile": "big"}, ["profile"]),
        ("lane", {"lane": "batch"}, ["lane"]),
        ("revision", {"revision": "r2"}, ["revision"]),
        ("features", {"want": ["accepted", "chunks"]}, ["features"]),
    ):
        c.submit(job, **{"want": ["accepted"], **fields})
        c.expect("accepted", job=job, state="queued", waiting=True, missing=missing)
    plain.nothing()
    rich = t.peer("rich", "worker").hello("rich", features=["chunks"])
    offers = [{"name": "qa", "revision": "r2"}]
    rich.send("ready", worker="rich", slots={"default": 9, "batch": 1}, programs=offers, profiles=["big"], held=[])
    rich.expect("synced")
    rich.any_order(*({"t": "dispatch", "job": job} for job in ("profile", "lane", "revision", "features")))
    yield t


def _bounds() -> Iterator[Transcript]:
    about = "A bound on jobs is answered by queue_full and a time to come back; what is there already is not refused."
    t = Transcript("bounds-on-jobs", "R-11.6", about, limits={"max_jobs": 2}, queue_retry_ms=77)
    c, d, w = t.client(), t.client("d"), t.worker(slots=0)
    c.submit("a").submit("b")
    d.submit("x").refused("queue_full", job="x", retryable=True, retry_after_ms=77)
    c.submit("a", want=["accepted"]).expect("accepted", job="a", duplicate=True)
    w.ready(1).dispatch("a").result("a", acked=False)
    w.any_order({"t": "ack"}, {"t": "dispatch", "job": "b"})
    c.done("a")
    d.submit("x", want=["accepted"]).expect("accepted", job="x", duplicate=False)
    yield t
    about = "A flow has its own bound, and leaves room for others."
    t = Transcript("bounds-on-a-flow", "R-11.6", about, limits={"max_jobs_per_flow": 1})
    c, d = t.client(), t.client("d")
    c.submit("a").submit("b").refused("queue_full", job="b", retryable=True, retry_after_ms=1000)
    d.submit("b", want=["accepted"]).expect("accepted", job="b")
    yield t
    about = "So have the octets of bodies that wait."
    t = Transcript("bounds-on-bodies", "R-11.6", about, limits={"max_queued_bytes": 100})
    c, d = t.client(), t.client("d")
    c.submit("a", body={"$zeros": 60})
    d.submit("b", body={"$zeros": 60}).refused("queue_full", job="b")
    d.submit("d", body={"$zeros": 40}, want=["accepted"]).expect("accepted", job="d")
    yield t


def _nobody() -> Iterator[Transcript]:
    about = "An unknown program is not found once a worker is there that could have offered it; until then it waits."
    t = Transcript("unknown-programs", "R-11.8 R-11.9 R-11.11", about)
    c = t.client()
    c.submit("early", "qaa", want=["accepted"])
    c.expect("accepted", job="early", waiting=True, missing=["program"])
    c.submit("reserved", "_secret").refused("unknown_program", job="reserved")
    c.submit("inline", "_inline", want=["accepted"]).expect("accepted", job="inline", waiting=True)
    w = t.worker()
    details = {"close_matches": ["qa"]}
    c.submit("late", "qaa").refused("unknown_program", job="late", retryable=False, details=details)
    w.send("bye").nothing()
    t.worker("w2", programs=[{"name": "other", "revision": "r1"}])
    c.submit("known", want=["accepted"]).expect("accepted", job="known", waiting=True, missing=["program"])
    yield t
    about = "fail_fast refuses what nobody offers, and waits for a slot."
    t = Transcript("fail-fast", "R-11.10", about)
    c, w = t.client(), t.worker()
    c.submit("a")
    w.dispatch("a")
    c.submit("b", fail_fast=True, want=["accepted"])
    c.expect("accepted", job="b", state="queued", waiting=False)
    c.submit("d", fail_fast=True, profile="big").refused("no_worker", job="d", retryable=True)
    yield t


def _revisions() -> Iterator[Transcript]:
    about = (
        "A job without a revision runs at the one first seen last of those that are offered; coming back renews none."
    )
    t = Transcript("newest-revision", "R-11.13", about)
    c = t.client()

    def offer(revision: str) -> dict[str, list[dict[str, str]]]:
        return {"programs": [{"name": "qa", "revision": revision}]}

    old, new = t.worker("old", slots=9, **offer("r1")), t.worker("new", slots=9, **offer("r2"))
    c.submit("a")
    new.dispatch("a", revision="r2")
    c.submit("b", revision="r1")
    old.dispatch("b", revision="r1")
    old.ready(9, **offer("r1")).nothing()
    c.submit("d")
    new.dispatch("d", revision="r2")
    new.send("bye").nothing()
    old.any_order({"t": "dispatch", "job": "a", "revision": "r1"}, {"t": "dispatch", "job": "d", "revision": "r1"})
    yield t
    about = "A job that is run again stays at its revision as long as that is offered."
    t = Transcript("run-again-at-the-same-revision", "R-11.14", about)
    c, w = t.client(), t.worker("w", slots=1)
    c.submit("a")
    w.dispatch("a", revision="r1")
    both = [{"name": "qa", "revision": "r1"}, {"name": "qa", "revision": "r2"}]
    w.ready(1, programs=both).released("a", started=True)
    w.dispatch("a", "again", attempt=2, revision="r1").released("again", started=True, cause="stall")
    w.expect("dispatch", job="a", attempt=3, revision="r1", lease=put("third.lease"))
    w.ready(1, programs=both[1:]).result("third", attempt=3, revision="r1")
    c.done("a", revision="r1", attempt=3)
    yield t


def _circuits() -> Iterator[Transcript]:
    about = "After failures of its own in a row a program is not run for a while, but for whom it has just served."
    t = Transcript("circuit-opens", "R-11.25 R-11.26", about, circuit_failures=2, circuit_open_ms=60_000)
    c, d, w = t.client(), t.client("d"), t.worker()
    d.submit("well")
    w.dispatch("well").result("well")
    d.done("well")
    _fails(c, w, "a")
    _fails(c, w, "b")
    c.submit("x").done(
        "x", "UNAVAILABLE", reason="circuit_open", attempt=0, retryable=True, rule="R-11.25", recommended=True
    )
    d.submit("y")
    w.expect("dispatch", job="y", attempt=1, lease=put("y.lease"), rule="R-11.26").result("y")
    d.done("y")
    yield t
    about = "One job that is tried again and again opens no circuit; nor does what the program cannot help."
    t = Transcript("circuit-stays-closed", "R-11.24", about, circuit_failures=2, circuit_open_ms=60_000)
    c, w = t.client(), t.worker()
    for job in ("a1", "a2", "a3"):
        _fails(c, w, job, body={"inputs": {"question": "a"}})
    _fails(c, w, "b", code="UNAVAILABLE", reason="lm_unavailable", retryable=True)
    _fails(c, w, "d", code="INVALID_ARGUMENT", reason="invalid_inputs")
    c.submit("x")
    w.expect("dispatch", job="x", attempt=1, lease=put("x.lease"), rule="R-11.24").result("x")
    c.done("x")
    yield t
    about = "Then one job is let through, and its success lets the others through."
    t = Transcript("circuit-trial", "R-11.27", about, circuit_failures=2, circuit_open_ms=500)
    c, w = t.client(), t.worker(slots=2)
    _fails(c, w, "a")
    _fails(c, w, "b")
    t.wait(700)
    c.submit("x")
    w.expect("dispatch", job="x", attempt=1, lease=put("x.lease"), rule="R-11.27")
    c.submit("y").done("y", "UNAVAILABLE", reason="circuit_open", attempt=0, recommended=True)
    w.result("x")
    c.done("x").submit("z")
    w.expect("dispatch", job="z", attempt=1, lease=put("z.lease"), rule="R-11.27").result("z")
    c.done("z")
    yield t


def _fails(c: Peer, w: Peer, job: str, *, body: Any = None, code: str = "UNKNOWN", **fields: Any) -> None:
    """A job that ends so; by default as the program's own failure."""
    c.submit(job, body=body)
    fields = fields or {"reason": "program_error"}
    w.dispatch(job).result(job, code, **fields)
    c.done(job, code, **fields)
