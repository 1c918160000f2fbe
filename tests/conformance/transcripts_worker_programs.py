"""transcripts/worker-programs.json: streams, inputs and tools of a worker under test."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tests.conformance.vector_encodings import Fields
from tests.conformance.vector_steps import NO_BODY, Transcript, get, put
from tests.conformance.worker_steps import STORY, Broker, new

ADD = {
    "name": "add",
    "description": "Adds.",
    "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]},
}


def transcripts() -> Iterator[Transcript]:
    """In the order of the rules."""
    yield from _streams()
    yield from _inputs()
    yield from _tools()
    yield from _definitions()


def _streams() -> Iterator[Transcript]:
    story = {"text": STORY}
    about = "Text comes in chunks numbered from 0, that together are the output; result counts them."
    t, b = new("stream", "R-9.1 R-9.2 R-9.3 R-9.4", about)
    b.begins().dispatch("a", "story", story, want=["chunks"])
    b.chunk("a", seq=0, reset=False).chunk("a", seq=1, reset=False).stream("a")
    yield t
    about = "started comes first, then what the program says, then the result, and nothing after it."
    t, b = new("order-of-an-attempt", "R-4.4 R-9.14", about)
    b.begins().dispatch("a", "steps", {"to": 5}, want=["started", "progress"])
    b.expect("started", lease=b.lease("a"), attempt=1)
    b.expect("progress", lease=b.lease("a"), attempt=1, done={"$from": [1, 5]}, total=5)
    done = {"t": "result", "lease": b.lease("a"), "attempt": 1, "code": "OK"}
    b.add(expect=done, body={"outputs": {"to": 5}}, skipping=["progress"])
    b.send("ack", leases=[b.lease("a")]).nothing()
    yield t
    about = "An attempt above 1 begins with a reset."
    t, b = new("stream-of-a-later-attempt", "R-9.6", about)
    b.begins().dispatch("a", "story", story, want=["chunks"], attempt=2)
    b.chunk("a", seq=0, reset=True, attempt=2).stream("a", attempt=2)
    yield t
    about = "Without credit the text waits and is not lost: what is left goes out as one chunk before the result."
    t, b = new("window", "R-9.9 R-9.3 R-9.11", about)
    b.begins().dispatch("a", "story", story, want=["chunks"], window=1)
    b.chunk("a", seq=0).nothing()
    t.wait(150)
    b.nothing().say("credit", "a", attempt=1, upto=2)
    b.chunk("a", seq=1).say("credit", "a", attempt=1, upto=1).say("credit", "a", attempt=2, upto=99)
    b.stream("a", at_most=1)
    yield t
    about = "attach: what is wanted is replaced, started comes again, then all text so far as one reset."
    t, b = new("attach", "R-9.6 R-9.13 R-9.2", about)
    b.begins().dispatch("a", "story", story, want=["chunks"]).chunk("a", seq=0)
    b.say("attach", "a", want=["started", "chunks"], window=2)
    b.add(expect={"t": "started", "lease": b.lease("a"), "attempt": 1}, skipping=["chunk"])
    b.chunk("a", reset=True).stream("a", at_most=2)
    yield t
    about = "An attach that wants nothing ends the chunks; later ones begin with a reset, and numbers go on."
    t, b = new("attach-that-wants-nothing", "R-9.13", about)
    b.begins().dispatch("a", "story", story, want=["chunks"]).chunk("a", seq=0)
    b.say("attach", "a", want=[])
    b.add(
        expect={"t": "result", "lease": b.lease("a"), "code": "OK"},
        body={"outputs": {"answer": STORY}},
        skipping=["chunk"],
    )
    b.send("ack", leases=[b.lease("a")])
    yield t


def _inputs() -> Iterator[Transcript]:
    about = "Inputs are checked before anything else, and each that is wrong is named."
    t, b = new("invalid-inputs", "R-11.17", about)
    b.begins()
    wrong = {"code": "INVALID_ARGUMENT", "reason": "invalid_inputs", "retryable": False}
    for label, inputs, field, problem in (
        ("a", {}, "text", "missing"),
        ("b", {"text": "x", "size": 1}, "size", "unknown"),
        ("c", {"text": 7}, "text", "type"),
    ):
        details = {"fields": [{"field": field, "problem": problem}]}
        b.dispatch(label, "echo", inputs).result(label, NO_BODY, usage={"calls": 0}, details=details, **wrong)
    two = {"fields": {"$all": [{"$contains": {"field": "text"}}, {"$contains": {"field": "size"}}]}}
    b.dispatch("d", "echo", {"size": 1}).result("d", details=two, **wrong)
    yield t
    about = "In bodies an empty array is an empty map; what is no map is refused."
    t, b = new("bodies", "R-2.21", about)
    b.begins()
    checked = {"": "R-2.21", "code": "R-11.17", "reason": "R-2.21"}
    b.dispatch("a", "echo", None, body={"inputs": []})
    b.result("a", code="INVALID_ARGUMENT", reason="invalid_inputs", rule=checked)
    b.dispatch("b", "nap", None, body={"inputs": {"ms": 3.0}, "later": 1})
    b.result("b", {"outputs": {"ms": 3}}, recommended=True)
    b.dispatch("c", "echo", None, body={"$hex": "c1"}).result("c", code="INVALID_ARGUMENT", reason="invalid_body")
    b.dispatch("d", "echo", None, body={"inputs": "x"}).result("d", code="INVALID_ARGUMENT", reason="invalid_body")
    yield t


def _tools() -> Iterator[Transcript]:
    def consult(b: Broker, label: str, times: int = 1, tool: Fields = ADD, args: Any = None, **fields: Any) -> Broker:
        inputs = {"tool": "add", "args": {"a": 1} if args is None else args, "times": times}
        fields = {"want": ["tools"], "body": {"inputs": inputs, "tools": [tool]}, **fields}
        return b.dispatch(label, "consult", None, **fields)

    about = (
        "A call of a tool reaches the client, and its answer the program; the calls of an attempt are counted from 0."
    )
    t, b = new("tools", "R-9.15 R-9.17", about)
    consult(b.begins(), "a", 3)
    for call in (0, 1):
        b.expect(
            "tool_call", {"args": {"a": 1}}, lease=b.lease("a"), attempt=1, call=call, name="add", timeout_ms=put("ms")
        )
        b.say("tool_result", "a", {"value": [call]}, attempt=1, call=call, code="OK")
        b.say("tool_result", "a", {"value": "a second answer"}, attempt=1, call=call, code="OK")
    b.expect("tool_call", lease=b.lease("a"), call=2, timeout_ms={"$from": [30000, 60000]})
    b.say("tool_result", "a", attempt=1, call=2, code="UNKNOWN", message="it failed")
    b.result("a", {"outputs": {"values": [[0], [1], "failed"]}}).nothing()
    yield t
    about = "A call that is not answered in time fails in the program."
    t, b = new("a-tool-that-does-not-answer", "R-9.15", about)
    consult(b.begins(), "a", tool={**ADD, "timeout_ms": 200}).expect("tool_call", lease=b.lease("a"), timeout_ms=200)
    b.result("a", {"outputs": {"values": ["failed"]}})
    b.say("tool_result", "a", {"value": 1}, attempt=1, call=0, code="OK").nothing()
    yield t
    about = "Calls that are open are sent again after attach."
    t, b = new("open-calls-after-attach", "R-9.15 R-9.13", about)
    consult(b.begins(), "a").expect("tool_call", lease=b.lease("a"), call=0)
    b.say("attach", "a", want=["tools"])
    b.expect("tool_call", {"args": {"a": 1}}, lease=b.lease("a"), attempt=1, call=0, name="add")
    b.say("tool_result", "a", {"value": 7}, attempt=1, call=0, code="OK")
    b.result("a", {"outputs": {"values": [7]}})
    yield t
    about = "Arguments that do not fit fail in the program; the client is not asked."
    t, b = new("arguments-that-do-not-fit", "R-9.18", about)
    consult(b.begins(), "a", args={"a": "x"}).result("a", {"outputs": {"values": ["failed"]}})
    consult(b, "b", args={}).result("b", {"outputs": {"values": ["failed"]}})
    yield t
    about = "Tools that cannot be offered are refused before the program is run."
    t, b = new("invalid-tools", "R-9.18", about)
    b.begins()
    wrong = {"code": "INVALID_ARGUMENT", "reason": "invalid_tools", "retryable": False}
    for label, tool, named in (
        ("a", {**ADD, "name": "a b"}, {"$not": None}),
        ("b", {**ADD, "parameters": {"type": "string"}}, "add"),
        ("c", {"name": "add"}, "add"),
        ("d", {**ADD, "name": "finish"}, "finish"),
    ):
        consult(b, label, tool=tool).result(label, NO_BODY, details={"tool": named}, **wrong)
    consult(b, "e", want=[]).result("e", NO_BODY, **wrong)
    yield t


def _definitions() -> Iterator[Transcript]:
    about = "What a spec would make is described without a model call, or refused with the place."
    t, b = new("define", "R-11.31 R-11.19", about)
    described = {"inputs": {"type": "object"}, "outputs": {"type": "object"}}
    fields = {"revision": "inline"}
    b.begins().dispatch("a", "_define", None, body={"inputs": {}, "spec": {"signature": "text -> summary"}}, **fields)
    b.result("a", {"outputs": described})
    b.dispatch("b", "_define", None, body={"inputs": {}, "spec": {"signature": "text ->"}}, **fields)
    b.result("b", NO_BODY, code="INVALID_ARGUMENT", reason="invalid_spec")
    yield t
    about = "A program that is defined at the broker is asked for at its first job; what nobody knows is not found."
    t, b = new("defined-at-the-broker", "R-11.33 R-10.2", about)
    b.begins().dispatch("a", "sum", None, body={"inputs": {}}, revision="d1", defined=True)
    params = {"name": "sum", "revision": "d1", "spec": True}
    b.expect("request", {"params": params}, method="programs.get", rid=put("rid"))
    b.send("error", rid=get("rid"), code="NOT_FOUND", reason="unknown_revision", message="nobody has it")
    b.result("a", NO_BODY, code="NOT_FOUND", reason="unknown_revision")
    b.dispatch("b", "sum", None, body={"inputs": {"text": 1, "more": 2}}, revision="d2", defined=True)
    b.expect("request", {"params": {**params, "revision": "d2"}}, method="programs.get", rid=put("rid"))
    spec = {"signature": "text -> summary"}
    result = {"name": "sum", "revision": "d2", "spec": spec, "later": [1]}
    b.send("reply", {"result": result, "later": 2}, rid=get("rid"))
    b.result("b", NO_BODY, code="INVALID_ARGUMENT", reason="invalid_inputs")
    b.dispatch("c", "sum", None, body={"inputs": {}}, revision="d2", defined=True)
    b.result("c", NO_BODY, code="INVALID_ARGUMENT", reason="invalid_inputs")
    yield t
