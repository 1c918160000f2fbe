"""transcripts/client.json: what a client under test does; the transcript is its broker."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tests.conformance.client_steps import FAR, Broker, ClientTranscript
from tests.conformance.vector_encodings import LIMITS
from tests.conformance.vector_forms import Form, Octets, PairMap, write
from tests.conformance.vector_steps import NO_BODY, Transcript, get, octets, put


def transcripts() -> Iterator[Transcript]:
    """In the order of the rules."""
    yield from _frames()
    yield from _sessions()
    yield from _life()
    yield from _jobs()
    yield from _refusals()
    yield from _restarts()
    yield from _streams()
    yield from _tools()
    yield from _one_shots()


def _begun(name: str, rules: str, about: str, **call: Any) -> tuple[ClientTranscript, Broker]:
    """A transcript in which a call is at the broker."""
    t = ClientTranscript(name, rules, about)
    b = t.broker()
    t.call(**call)
    b.welcome().submitted("j", known_epoch=None)
    return t, b


def _frames() -> Iterator[Transcript]:
    about = "Whatever arrives, the client goes on: frames and headers that are wrong are dropped."
    t, b = _begun("junk-from-the-broker", "R-2.10 R-2.1", about)
    b.nothing()
    ping = [("t", "ping")]
    for frames in (
        [b"DJP1"],
        [b"DJP2", write({"t": "pong"})],
        [b"XXXX", write({"t": "pong"})],
        [b"DJP1", write({"t": "pong"}), b"", b""],
        [b"DJP1", b""],
        [b"DJP1", b"\xc1"],
        [b"DJP1", write(["t", "pong"])],
        [b"DJP1", write({"t": 7})],
        [b"DJP1", write({"t": "pong", "x": Octets(b"\x91" * 2000 + b"\x01")})],
        [b"DJP1", write(PairMap([*ping, ("t", "pong")]))],
        [b"DJP1", write({"t": "pong", "n": "seven"})],
        [b"DJP1", write({"t": "chunk", "job": "nobody's", "attempt": 1, "seq": 0}), b"\xc1"],
    ):
        b.frames(*frames)
    b.nothing()
    b.answers("j")
    t.outcome()
    yield t
    about = "Every width of number and head is read, in whatever order; unknown types and keys are ignored."
    t, b = _begun("legal-forms", "R-2.6 R-2.7 R-4.2 R-14.4", about)
    b.send("telepathy", job=get("j.job"), n=1)
    b.frames(b"DJP1", write({"n": 5, "t": "ping"}, Form(integer=64, signed=True, head=32)))
    b.expect("pong", n=5)
    b.answers("j", later={"a": [1, None]}, x_private=True, usage={"calls": 1, "models": {}, "later": 1})
    t.outcome()
    yield t
    about = "What is over the limits of welcome is refused locally: nothing is sent."
    t = ClientTranscript("limits-of-welcome", "R-2.16", about)
    b = t.broker()
    t.call()
    b.welcome(limits={"max_body_bytes": 10})
    b.nothing()
    t.outcome("j", "RESOURCE_EXHAUSTED", reason="body_too_large", recommended=True)
    b.nothing()
    yield t


def _sessions() -> Iterator[Transcript]:
    about = "hello comes first, and nothing else before welcome; then the job, for the first time."
    t = ClientTranscript("hello-first", "R-3.6 R-3.4 R-8.3 R-2.9", about)
    b = t.broker()
    t.call()
    b.expect("hello", NO_BODY)
    b.add(expect_silence_ms=300)
    bounds = {**FAR, "adopt_ms": 5000, "orphan_ms": 60000, "retain_ms": 600000}
    b.send("welcome", epoch="epoch-1", session="s1", features=[], **bounds, limits=LIMITS)
    b.submitted("j", known_epoch=None).answers("j", acked=False)
    t.outcome()
    b.expect("ack")
    yield t
    about = "After no_session, as many as come, the client says one hello and sends its open jobs again."
    t, b = _begun("no-session", "R-3.9 R-5.10", about)
    for _ in range(3):
        b.send("error", code="FAILED_PRECONDITION", reason="no_session", retryable=True)
    b.welcome()
    one_hello = {"": "R-5.10", "t": "R-3.9", "job": "R-5.10", "body": "R-2.23", "known_epoch": "R-8.3"}
    b.again("j", known_epoch="epoch-1", rule=one_hello).nothing("R-3.9")
    b.answers("j")
    t.outcome()
    yield t
    about = "A broker that says bye, for whatever reason, is greeted again."
    t, b = _begun("bye-from-the-broker", "R-3.29 R-3.23 R-14.4", about)
    b.send("bye", reason="a reason of a later version")
    b.welcome().again("j").answers("j")
    t.outcome()
    yield t
    about = "A lost connection: everything open is sent again, octet for octet, with what is left of its time."
    t, b = _begun("lost-connection", "R-3.29 R-5.10 R-2.23 R-2.24", about, timeout_ms=60000)
    t.wait(200)
    b.lost()
    b.welcome().again("j", timeout_ms={"$from": [30000, 59900]}, known_epoch="epoch-1")
    b.answers("j")
    t.outcome()
    yield t
    about = "Addresses are tried in their order, each for a bounded time."
    t = ClientTranscript("failover", "R-3.31", about)
    first, second = t.broker("b1"), t.broker("b2")
    t.call()
    first.expect("hello")
    second.welcome().submitted("j").answers("j")
    t.outcome()
    first.lost()
    yield t
    about = "When no broker takes the client for good, its calls fail with what was said."
    t = ClientTranscript("refused-at-the-door", "R-3.6", about)
    b = t.broker()
    t.call()
    b.expect("hello")
    b.send("error", code="UNAUTHENTICATED", reason="a_later_reason", message="who are you?")
    t.outcome("j", "UNAUTHENTICATED", recommended=True)
    b.lost()
    yield t
    about = "A client that is closed says bye."
    t, b = _begun("close", "R-3.20", about)
    b.answers("j")
    t.outcome()
    t.tell("close")
    b.expect("bye").lost()
    yield t


def _life() -> Iterator[Transcript]:
    about = "ping is answered at once, with its number."
    t, b = _begun("pong", "R-3.13", about)
    b.send("ping", n=(1 << 53) - 1).expect("pong", n=(1 << 53) - 1)
    b.send("ping").expect("pong", n=0)
    b.answers("j")
    t.outcome()
    yield t
    about = "A client that is only being sent to, by a stream for example, pings by itself."
    t = ClientTranscript("own-pings", "R-3.12", about)
    b = t.broker()
    t.call(stream=True)
    b.welcome(ping_ms=300, dead_ms=900).submitted("j", want={"$has": ["chunks"]}).silent()
    for seq in range(4):
        b.send("chunk", {"fields": {"answer": "4"}}, job=get("j.job"), attempt=1, seq=seq)
        t.wait(100)
    b.expect("ping", within=1000)
    b.add(silent=False)
    b.answers("j", chunks=4, acked=False)
    t.outcome()
    b.expect("ack")
    yield t
    about = "A broker that is silent for dead_ms is taken for dead: a new connection, hello, and the open jobs."
    t = ClientTranscript("silence-of-the-broker", "R-3.14 R-3.11 R-5.10", about)
    b = t.broker()
    t.call()
    b.welcome(ping_ms=200, dead_ms=600).submitted("j").silent()
    b.expect("ping")
    b.add(expect={"t": "hello"}, skipping=["ping"])
    b.add(silent=False)
    bounds = {**FAR, "adopt_ms": 5000, "orphan_ms": 60000, "retain_ms": 600000}
    b.send("welcome", epoch="epoch-1", session="s2", features=["ack"], **bounds, limits=LIMITS)
    b.again("j", known_epoch="epoch-1").answers("j")
    t.outcome()
    yield t


def _jobs() -> Iterator[Transcript]:
    about = "A call: its submit, its result, its acknowledgement."
    t = ClientTranscript("call", "R-5.19 R-2.5 R-4.5", about)
    b = t.broker()
    t.call(timeout_ms=30000)
    b.welcome()
    said = {"revision": None, "profile": None, "lane": "default", "priority": 4, "want": [], "redeliver": True}
    fields = {"timeout_ms": {"$from": [20000, 30000]}, "known_epoch": None, "fail_fast": False, **said}
    b.expect("submit", {"inputs": {"question": "2+2?"}}, job=put("j.job"), program="qa", **fields)
    b.answers("j")
    t.outcome()
    yield t
    about = "What was chosen is said."
    t = ClientTranscript("options", "R-2.8 R-4.6 R-14.3", about)
    b = t.broker()
    options = {"profile": "big", "revision": "r2", "lane": "batch", "priority": 9, "on_disconnect": "keep"}
    more = {"fail_fast": True, "redeliver": False, "affinity": "a", "trace": {"traceparent": "00"}}
    t.call(options={**options, **more}, stream=True, window=8)
    b.welcome().submitted("j", want=["chunks"], window=8, **options, **more)
    b.answers("j", acked=False)
    t.outcome()
    b.expect("ack")
    yield t
    about = "A second result of a job, and the result of one that is not open, do no harm and are acknowledged."
    t, b = _begun("messages-that-nobody-waits-for", "R-4.5 R-5.19 R-10.6", about)
    b.answers("j")
    t.outcome()
    b.answers("j", "INTERNAL", acked=False, reason="internal")
    b.expect("ack", jobs=[get("j.job")], rule="R-4.5", recommended=True)
    b.send("result", {"outputs": {}}, job="nobody's", attempt=1, code="OK")
    b.expect("ack", jobs=["nobody's"], rule="R-4.5", recommended=True)
    b.send("started", job="nobody's", attempt=1, revision="r1", worker="w")
    b.send("accepted", job="nobody's", state="running", attempt=1)
    b.send("event", {"event": {"later": 1}}, sub="nobody's", seq=0, kind="job.dreamt", at_ms=1)
    b.nothing()
    yield t
    about = "Bodies hold text as text; where a map is due an empty array is one."
    t = ClientTranscript("bodies", "R-2.21 R-2.22", about)
    b = t.broker()
    t.add(tell="submit", call="j", program="qa", inputs={"question": "größer als ☃?"})
    t.add(tell="submit", call="k", program="qa", inputs={"question": ""})
    b.welcome()
    b.expect("submit", {"inputs": {"question": "größer als ☃?"}}, job=put("j.job"))
    b.expect("submit", {"inputs": {"question": ""}}, job=put("k.job"))
    b.send("result", octets([]), job=get("j.job"), attempt=1, code="OK")
    t.outcome("j", outputs={})
    b.expect("ack")
    b.send("result", {"outputs": []}, job=get("k.job"), attempt=1, code="OK")
    t.outcome("k", outputs={})
    b.expect("ack")
    yield t
    about = "A result that is not OK is told by code and reason."
    t, b = _begun("a-failed-job", "R-12.1", about)
    b.answers("j", "UNKNOWN", reason="program_error", message="boom")
    t.outcome("j", "UNKNOWN", reason="program_error")
    yield t
    about = "An unknown reason counts as its code, an unknown code as UNKNOWN."
    t, b = _begun("unknown-reasons-and-codes", "R-12.2 R-14.4", about)
    t.call("k")
    b.submitted("k")
    b.answers("j", "UNAVAILABLE", reason="a_reason_of_later", retryable=True)
    t.outcome("j", "UNAVAILABLE")
    b.answers("k", "A_CODE_OF_LATER", reason="a_reason_of_later")
    t.outcome("k", "UNKNOWN")
    yield t
    about = "cancel is sent, and the job's result is its answer, whatever it is."
    for code, reason in (("CANCELLED", "cancelled"), ("OK", None)):
        t, b = _begun(f"cancel-{code.lower()}", "R-7.6 R-7.5", about)
        t.tell("cancel", "j")
        b.expect("cancel", NO_BODY, job=get("j.job"))
        b.answers("j", code, **({} if reason is None else {"reason": reason}))
        t.outcome("j", code, **({} if reason is None else {"reason": reason}))
        yield t
    about = "attach joins a job by its id; while the broker is adopting it is tried again."
    t = ClientTranscript("attach", "R-5.12 R-8.9", about)
    b = t.broker()
    t.tell("attach", "j", job="somebody's")
    b.welcome().expect("attach", NO_BODY, job="somebody's")
    b.send("error", code="UNAVAILABLE", reason="adopting", job="somebody's", retryable=True)
    b.expect("attach", job="somebody's", rule="R-8.9")
    b.send("accepted", job="somebody's", state="running", attempt=1, duplicate=True)
    b.send("result", {"outputs": {"answer": "4"}}, job="somebody's", attempt=1, code="OK")
    t.outcome()
    b.expect("ack", jobs=["somebody's"])
    yield t
    about = "Requests have different rids, and are answered by them in any order."
    t = ClientTranscript("requests", "R-2.14 R-10.1 R-10.2", about)
    b = t.broker()
    t.tell("ask", "q", method="stats.get")
    b.welcome().expect("request", rid=put("q"), method="stats.get")
    t.tell("ask", "p", method="programs.get", params={"name": "qa"})
    other = {"$all": [put("p"), {"$not": get("q")}]}
    b.expect("request", {"params": {"name": "qa"}}, rid=other, method="programs.get")
    b.send("error", code="NOT_FOUND", reason="unknown_program", rid=get("p"))
    b.send("reply", {"result": {"clients": 1, "later": []}, "later": 1}, rid=get("q"))
    t.outcome("p", "NOT_FOUND", reason="unknown_program")
    t.outcome("q", outputs={"clients": 1}, rule="R-10.2")
    yield t


def _refusals() -> Iterator[Transcript]:
    about = "A refusal that is not retryable ends the call."
    t, b = _begun("refused", "R-12.1", about)
    b.refuses("j", "unknown_program", details={"close_matches": ["qb"]})
    t.outcome("j", "NOT_FOUND", reason="unknown_program")
    b.nothing()
    yield t
    about = "One that is retryable is tried again with the same job and octets, not before it is asked to."
    t, b = _begun("refused-for-now", "R-11.7 R-2.23", about)
    b.refuses("j", "queue_full", retry_after_ms=300)
    b.expect("submit", get("j.body"), job=get("j.job"), after=280, within=5000)
    b.answers("j")
    t.outcome()
    yield t
    about = "Who is superseded does not submit or attach again by itself."
    t, b = _begun("superseded", "R-5.11", about)
    b.refuses("j", "superseded")
    t.outcome("j", "ABORTED", reason="superseded")
    b.nothing()
    t.call("k")
    b.submitted("k").answers("k")
    t.outcome("k")
    yield t
    about = "An error is never answered."
    t, b = _begun("errors-are-not-answered", "R-3.19", about)
    b.send("error", code="INTERNAL", reason="internal", message="nothing to do with you")
    b.send("error", code="LATER", reason="later", job="nobody's", retryable=True)
    b.send("error", code="NOT_FOUND", reason="unknown_job", rid="nobody's")
    b.nothing()
    b.answers("j")
    t.outcome()
    yield t


def _restarts() -> Iterator[Transcript]:
    about = "A new epoch: open jobs are sent again, with the epoch under which they were sent before."
    t, b = _begun("new-epoch", "R-8.2 R-8.3 R-5.10 R-3.29 R-3.32 R-2.13 R-2.15", about)
    t.call("k")
    b.submitted("k", job={"$all": [put("k.job"), {"$not": get("j.job")}]})
    b.lost()
    b.welcome("epoch-2")
    b.any_order(
        {"t": "submit", "job": get("j.job"), "known_epoch": "epoch-1"},
        {"t": "submit", "job": get("k.job"), "known_epoch": "epoch-1"},
    )
    b.lost()
    b.welcome("epoch-3")
    b.any_order(
        {"t": "submit", "job": get("j.job"), "known_epoch": "epoch-2"},
        {"t": "submit", "job": get("k.job"), "known_epoch": "epoch-2"},
    )
    t.call("new")
    b.submitted("new", known_epoch=None)
    b.answers("k").answers("new").answers("j")
    for call in ("j", "k", "new"):
        t.outcome(call)
    yield t


def _streams() -> Iterator[Transcript]:
    def begun(name: str, rules: str, about: str, **call: Any) -> tuple[ClientTranscript, Broker]:
        return _begun(name, rules, about, stream=True, **call)

    def chunk(b: Broker, seq: int, text: str, attempt: int = 1, **fields: Any) -> None:
        b.send("chunk", {"fields": {"answer": text}}, job=get("j.job"), attempt=attempt, seq=seq, **fields)

    about = "Chunks are put together by field; a reset replaces what came before, of every field."
    t, b = begun("stream", "R-9.7 R-9.1", about)
    chunk(b, 0, "Fo")
    chunk(b, 1, "rty")
    t.text("j", answer="Forty")
    b.send("chunk", {"fields": {"reasoning": "so", "answer": "-"}}, job=get("j.job"), attempt=1, seq=2)
    t.text("j", answer="Forty-", reasoning="so")
    chunk(b, 3, "4", reset=True)
    t.text("j", answer="4")
    b.answers("j", chunks=4, acked=False)
    t.outcome()
    b.expect("ack")
    yield t
    about = "A greater attempt discards all text; chunks of a smaller one are ignored."
    t, b = begun("attempts-of-a-stream", "R-9.7", about)
    chunk(b, 0, "first")
    t.text("j", answer="first")
    chunk(b, 0, "4", attempt=3, reset=True)
    t.text("j", answer="4")
    chunk(b, 1, " and more", attempt=2)
    b.nothing()
    t.text("j", answer="4")
    b.answers("j", attempt=3, chunks=1, acked=False)
    t.outcome("j", attempt=3)
    b.expect("ack")
    t.text("j", answer="4")
    yield t
    about = "A gap in seq is mended by the outputs, and so is text of another attempt than that of the result."
    for name, result in (("gap-in-a-stream", {"chunks": 3}), ("text-of-another-attempt", {"attempt": 2, "chunks": 0})):
        t, b = begun(name, "R-9.8", about)
        chunk(b, 0, "Fo")
        if name == "gap-in-a-stream":
            chunk(b, 2, "y")
        b.answers("j", acked=False, **result)
        t.outcome()
        b.expect("ack")
        t.text("j", answer="4")
        yield t
    about = "Credit is absolute, and follows what the reader has taken."
    t, b = begun("credit", "R-9.10", about, window=4)
    for seq in range(4):
        chunk(b, seq, "4"[seq:])
    b.nothing()
    t.tell("read", "j")
    b.expect("credit", NO_BODY, job=get("j.job"), attempt=1, upto={"$from": [5, 8]})
    b.answers("j", chunks=4, acked=False)
    t.outcome()
    # A client may give credit for each chunk that was taken.
    b.add(expect={"t": "ack"}, skipping=["credit"])
    yield t


def _tools() -> Iterator[Transcript]:
    about = "The tools of a call are in its body; each call of one is answered, and never done twice."
    t = ClientTranscript("tools", "R-9.16", about)
    b = t.broker()
    t.call(tools=["add", "count", "broken"])
    b.welcome()
    tools = [{"$contains": {"name": name, "parameters": {"type": "object"}}} for name in ("add", "count", "broken")]
    body = {"inputs": {"question": "2+2?"}, "tools": {"$all": tools}}
    b.expect("submit", body, job=put("j.job"), program="qa", want={"$has": ["tools"]})

    def asks(call: int, name: str, args: dict[str, Any], value: Any, code: Any = "OK") -> None:
        fields = {"job": get("j.job"), "attempt": 1, "call": call}
        b.send("tool_call", {"args": args}, name=name, timeout_ms=10000, **fields)
        b.expect("tool_result", {"value": value} if code == "OK" else None, code=code, **fields)

    asks(0, "add", {"a": 2, "b": 3}, 5)
    asks(1, "count", {}, 1)
    asks(1, "count", {}, 1)
    asks(2, "count", {}, 2)
    asks(3, "broken", {}, None, {"$not": "OK"})
    asks(4, "add", {"a": "x"}, None, {"$not": "OK"})
    asks(5, "nobody_has_this", {}, None, {"$not": "OK"})
    b.answers("j")
    t.outcome()
    yield t


def _one_shots() -> Iterator[Transcript]:
    about = "A one-shot client submits, and takes its one answer; it wants nothing else."
    t = ClientTranscript("one-shot", "R-3.25 R-3.4 R-2.13", about)
    b = t.one_shot_broker()
    t.call(one_shot=True, timeout_ms=30000)
    said = {"want": [], "window": None, "known_epoch": None, "timeout_ms": {"$from": [1, 30000]}}
    b.expect("submit", {"inputs": {"question": "2+2?"}}, job=put("j.job"), program="qa", **said)
    b.answers("j", acked=False, later={"a": [1]}, usage={"calls": 1, "models": {}})
    t.outcome()
    t.call("k", one_shot=True)
    b.expect("submit", job={"$all": [put("k.job"), {"$not": get("j.job")}]}, rule={"job": "R-2.13"})
    b.answers("k", acked=False)
    t.outcome("k")
    yield t
    about = "A one-shot client's job that fails, or is refused, is told by code and reason."
    t = ClientTranscript("one-shot-failures", "R-12.1 R-12.2", about)
    b = t.one_shot_broker()
    t.call(one_shot=True)
    b.expect("submit", job=put("j.job")).answers("j", "UNKNOWN", acked=False, reason="program_error", message="boom")
    t.outcome("j", "UNKNOWN", reason="program_error")
    t.call("k", one_shot=True)
    b.expect("submit", job=put("k.job")).refuses("k", "unknown_program")
    t.outcome("k", "NOT_FOUND", reason="unknown_program")
    t.call("l", one_shot=True)
    b.expect("submit", job=put("l.job")).answers("l", "A_CODE_OF_LATER", acked=False, reason="a_reason_of_later")
    t.outcome("l", "UNKNOWN", rule="R-12.2")
    yield t
