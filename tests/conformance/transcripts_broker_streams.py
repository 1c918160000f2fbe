"""transcripts/broker-streams.json: chunks, credit, attach, tools as a broker passes them on (SPEC section 9)."""

from __future__ import annotations

from collections.abc import Iterator

from tests.conformance.vector_steps import Transcript, get


def transcripts() -> Iterator[Transcript]:
    """In the order of the rules."""
    yield from _chunks()
    yield from _credit()
    yield from _tools()


def _chunks() -> Iterator[Transcript]:
    about = "What comes while no client is attached is dropped; the next one is shown the job anew."
    t = Transcript("nobody-is-attached", "R-9.5 R-5.13 R-5.14", about, client_ping_ms=50, orphan_ms=60000)
    c, w = t.client(), t.worker()
    c.submit("j", want=["chunks"])
    w.dispatch("j").say("chunk", "j", {"fields": {"a": "x"}}, seq=0)
    c.expect("chunk", seq=0).lost()
    t.wait(400)
    w.say("chunk", "j", {"fields": {"a": "y"}}, seq=1)
    w.nothing()
    d = t.client("d")
    d.send("attach", job="j", want=["chunks", "started"], window=2)
    d.expect("accepted", job="j", state="running", attempt=1)
    w.expect("attach", lease=get("j.lease"), want=["chunks", "started"], window=2)
    w.say("started", "j", revision="r1", worker="w")
    w.say("chunk", "j", {"fields": {"a": "xy"}}, seq=2, reset=True)
    d.expect("started", job="j", attempt=1).expect("chunk", {"fields": {"a": "xy"}}, job="j", seq=2, reset=True)
    w.result("j", chunks=3)
    d.done("j", chunks=3)
    yield t
    about = "A first chunk or progress shows that a job runs."
    t = Transcript("implied-started", "R-4.8 R-5.4", about)
    c, d, w = t.client(), t.client("d"), t.worker()
    c.submit("j", want=["chunks"])
    w.dispatch("j").say("chunk", "j", {"fields": {}}, seq=0)
    c.expect("chunk", job="j")
    d.send("attach", job="j").expect("accepted", job="j", state="running")
    c.refused("superseded")
    w.expect("attach").result("j")
    d.done("j")
    yield t


def _credit() -> Iterator[Transcript]:
    about = "Credit reaches the attempt that it names, from the attached client, and nobody else."
    t = Transcript("credit", "R-9.10", about)
    c, d, w = t.client(), t.client("d"), t.worker()
    c.send("credit", job="nobody's", attempt=1, upto=5)
    c.submit("j", want=["chunks"], window=2)
    w.dispatch("j", window=2)
    c.send("credit", job="j", attempt=1, upto=4)
    w.expect("credit", lease=get("j.lease"), attempt=1, upto=4)
    c.send("credit", job="j", attempt=2, upto=9).send("credit", job="j", attempt=0, upto=9).nothing()
    d.send("credit", job="j", attempt=1, upto=9).nothing()
    w.nothing()
    c.send("credit", job="j", attempt=1, upto=3)
    w.expect("credit", attempt=1, upto=3)
    w.result("j")
    c.done("j")
    yield t


def _tools() -> Iterator[Transcript]:
    about = "Calls of tools go to the attached client that wants them, answers to the attempt that asked."
    t = Transcript("tools", "R-2.20 R-9.15 R-11.3", about)
    c, w = t.client(), t.worker("w", slots=None)
    t.worker("plain", features=["chunks"])
    c.submit("j", want=["tools"])
    w.nothing()
    tools = t.worker("w3", features=["tools"])
    tools.dispatch("j", want=["tools"])
    tools.say("tool_call", "j", {"args": {"q": 1}}, call=0, name="search", timeout_ms=1500)
    c.expect("tool_call", {"args": {"q": 1}}, job="j", attempt=1, call=0, name="search", timeout_ms=1500)
    c.send("tool_result", {"value": [1]}, job="j", attempt=1, call=0, code="OK")
    tools.expect("tool_result", {"value": [1]}, lease=get("j.lease"), attempt=1, call=0, code="OK", message=None)
    c.send("tool_result", job="j", attempt=2, call=0, code="OK").nothing()
    c.send("tool_result", job="j", attempt=1, call=1, code="UNKNOWN", message="it failed")
    tools.expect("tool_result", call=1, code="UNKNOWN", message="it failed")
    tools.result("j")
    c.done("j")
    yield t
