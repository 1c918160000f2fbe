"""encodings.json: every message with all its fields, in several legal encodings (SPEC sections 2 and 4)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from tests.conformance.vector_forms import SHORTEST, Form, reversed_keys, write

EPOCH: Final = "017f22e2-79b0-7cc3-98c4-dc0c0c07398f"
LEASE: Final = f"{EPOCH}-000000000001"
JOB: Final = "017f22e2-7b00-7000-8000-0000000000a1"
WORKER: Final = "017f22e2-7a00-7000-8000-000000000001"
DIGEST: Final = "9e9ba2fa63057193f8abb7b6c3eaacaf"
WANT: Final = ["accepted", "started", "progress", "chunks", "tools"]
LIMITS: Final = {
    "max_header_bytes": 65536,
    "max_body_bytes": 16777216,
    "max_timeout_ms": 2592000000,
    "max_jobs": 500000,
    "max_jobs_per_flow": 250000,
    "max_queued_bytes": 1073741824,
}
USAGE: Final = {"calls": 2, "models": {"small": {"input_tokens": 9, "output_tokens": 300, "cost": 0.25}}}
UNKNOWN: Final = {"later": {"a": [1, -1.5, None, True, "ü"]}, "x_private": 0}

Fields = dict[str, Any]


class Example(NamedTuple):
    """A message: where it is sent and by whom (C, W, B), its header, its body, and what left-out fields then mean."""

    endpoint: str
    senders: str
    header: Fields
    body: Any = None
    defaults: Fields = {}

    @property
    def name(self) -> str:
        """Its name in the file."""
        return f"{self.endpoint}-{self.header['t']}{'' if not self.defaults else '-least'}"


NO_SUBMIT: Final = {
    "revision": None,
    "profile": None,
    "lane": "default",
    "priority": 4,
    "want": [],
    "window": None,
    "on_disconnect": "cancel",
    "fail_fast": False,
    "redeliver": True,
    "durable": False,
    "affinity": None,
    "known_epoch": None,
    "trace": None,
}
NO_RESULT: Final = {
    "reason": None,
    "message": None,
    "retryable": False,
    "retry_after_ms": None,
    "details": None,
    "chunks": 0,
    "usage": None,
    "timings": None,
    "revision": None,
}


def examples() -> Iterator[Example]:
    """Each message of each endpoint at least once, and every field of it."""
    for endpoint, side in (("clients", "C"), ("workers", "W")):
        yield from _shared(endpoint, side)
        yield from _twins(endpoint, side)
    yield from _clients()
    yield from _workers()


def _shared(endpoint: str, side: str) -> Iterator[Example]:
    hello = {"t": "hello", "name": "demo 1", "lang": "hex", "features": ["ack", "later"], "auth": "token"}
    yield Example(endpoint, side, hello)
    yield Example(endpoint, side, {"t": "hello", "name": "d"}, None, {"lang": "", "features": [], "auth": None})
    times = {"ping_ms": 10000, "dead_ms": 30000, "adopt_ms": 5000, "orphan_ms": 60000, "retain_ms": 600000}
    welcome = {"t": "welcome", "epoch": EPOCH, "session": "s1", "features": ["ack"], **times, "limits": LIMITS}
    yield Example(endpoint, "B", welcome)
    yield Example(endpoint, f"{side}B", {"t": "ping", "n": 70000})
    yield Example(endpoint, f"{side}B", {"t": "ping"}, None, {"n": 0})
    yield Example(endpoint, f"{side}B", {"t": "pong", "n": (1 << 53) - 1})
    yield Example(endpoint, f"{side}B", {"t": "pong"}, None, {"n": 0})
    yield Example(endpoint, f"{side}B", {"t": "bye", "reason": "done"})
    yield Example(endpoint, f"{side}B", {"t": "bye"}, None, {"reason": ""})
    error = {
        "t": "error",
        "code": "NOT_FOUND",
        "reason": "unknown_program",
        "message": "no worker offers ‘qaa’",
        "retryable": True,
        "retry_after_ms": 250,
        "rid": "r1",
        "job": JOB,
        "lease": LEASE,
        "details": {"close_matches": ["qa"], "score": 0.5},
    }
    yield Example(endpoint, "B", error)
    absent = dict.fromkeys(("retry_after_ms", "rid", "job", "lease", "details"))
    least = {"t": "error", "code": "INTERNAL", "reason": "internal"}
    yield Example(endpoint, "B", least, None, {"message": "", "retryable": False, **absent})
    yield Example(endpoint, side, {"t": "request", "rid": "r1", "method": "jobs.get"}, {"params": {"job": JOB}})
    yield Example(endpoint, "B", {"t": "reply", "rid": "r1"}, {"result": {"job": JOB, "state": "queued"}})


def _twins(endpoint: str, side: str) -> Iterator[Example]:
    """Messages that name a job to clients and a lease to workers."""
    who = {"job": JOB} if side == "C" else {"lease": LEASE}
    up, down = ("B", "C") if side == "C" else ("W", "B")
    yield Example(endpoint, up, {"t": "started", **who, "attempt": 1, "revision": "r1", "worker": "pool/1"})
    chunk = {"t": "chunk", **who, "attempt": 2, "seq": 300, "reset": True}
    yield Example(endpoint, up, chunk, {"fields": {"answer": "Forty-"}})
    yield Example(endpoint, up, {"t": "chunk", **who, "attempt": 1, "seq": 0}, {"fields": {}}, {"reset": False})
    progress = {"t": "progress", **who, "attempt": 1, "done": 3, "total": 9, "note": "third"}
    yield Example(endpoint, up, progress, {"any": [1, 2]})
    least = {"t": "progress", **who, "attempt": 1}
    yield Example(endpoint, up, least, None, dict.fromkeys(("done", "total", "note")))
    yield Example(endpoint, down, {"t": "credit", **who, "attempt": 1, "upto": 64})
    cancel = {"t": "cancel", **who}
    if side == "W":
        cancel |= {"cause": "deadline", "grace_ms": 5000}
    yield Example(endpoint, down, cancel)
    result = {
        "t": "result",
        **who,
        "attempt": 1,
        "code": "RESOURCE_EXHAUSTED",
        "reason": "lm_rate_limited",
        "message": "slow down",
        "retryable": True,
        "retry_after_ms": 2000,
        "details": {"model": "small", "status": 429},
        "chunks": 4,
        "usage": USAGE,
        "timings": {"queued_ms": 12, "run_ms": 640, "lm_ms": 630},
        "revision": "r1",
    }
    yield Example(endpoint, up, result)
    yield Example(
        endpoint, up, {"t": "result", **who, "attempt": 1, "code": "OK"}, {"outputs": {"answer": "4"}}, NO_RESULT
    )
    acks = {"jobs": [JOB, "j2"]} if side == "C" else {"leases": [LEASE]}
    yield Example(endpoint, down, {"t": "ack", **acks})
    yield Example(endpoint, down, {"t": "attach", **who, "want": ["started", "chunks"], "window": 8})
    yield Example(endpoint, down, {"t": "attach", **who}, None, {"want": [], "window": None})
    call = {"t": "tool_call", **who, "attempt": 1, "call": 0, "name": "search", "timeout_ms": 1500}
    yield Example(endpoint, up, call, {"args": {"query": "zeromq", "limit": 3}})
    answer = {"t": "tool_result", **who, "attempt": 1, "call": 0, "code": "UNKNOWN", "message": "it failed"}
    yield Example(endpoint, down, answer)
    least = {"t": "tool_result", **who, "attempt": 1, "call": 1, "code": "OK"}
    yield Example(endpoint, down, least, {"value": ["a", None]}, {"message": None})


def _clients() -> Iterator[Example]:
    submit = {
        "t": "submit",
        "job": JOB,
        "program": "qa",
        "timeout_ms": 30000,
        "revision": "r1",
        "profile": "small",
        "lane": "batch",
        "priority": 9,
        "want": WANT,
        "window": 8,
        "on_disconnect": "keep",
        "fail_fast": True,
        "redeliver": False,
        "durable": True,
        "affinity": "user-7",
        "known_epoch": "unknown",
        "trace": {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"},
    }
    body = {"inputs": {"question": "2+2?"}}
    yield Example("clients", "C", submit, body)
    yield Example("clients", "C", {"t": "submit", "job": "j", "program": "qa", "timeout_ms": 1}, body, NO_SUBMIT)
    accepted = {
        "t": "accepted",
        "job": JOB,
        "state": "queued",
        "attempt": 0,
        "duplicate": True,
        "waiting": True,
        "missing": ["program"],
    }
    yield Example("clients", "B", accepted)
    least = {"t": "accepted", "job": JOB, "state": "done", "attempt": 2}
    yield Example("clients", "B", least, None, {"duplicate": False, "waiting": False, "missing": []})
    event = {"t": "event", "sub": "e1", "seq": 0, "kind": "job.done", "at_ms": 1645557742000}
    yield Example("clients", "B", event, {"event": {"job": JOB, "code": "OK"}})


def _workers() -> Iterator[Example]:
    held = {
        "lease": LEASE,
        "ns": "anonymous",
        "job": JOB,
        "attempt": 1,
        "digest": DIGEST,
        "state": "done",
        "lane": "batch",
        "seq": 3,
        "left_ms": 29000,
    }
    ready = {
        "t": "ready",
        "worker": WORKER,
        "slots": {"default": 4, "batch": 0},
        "programs": [{"name": "qa", "revision": "r1"}, {"name": "qa", "revision": "r2"}],
        "profiles": ["small", "large"],
        "held": [held],
        "more": True,
    }
    yield Example("workers", "W", ready, {"programs": {"qa": {"description": "Answers a question."}}})
    least = {"t": "ready", "worker": WORKER, "slots": {}}
    yield Example("workers", "W", least, None, {"programs": [], "profiles": [], "held": None, "more": False})
    yield Example("workers", "B", {"t": "synced", "keep": [LEASE]})
    yield Example("workers", "B", {"t": "synced"}, None, {"keep": []})
    dispatch = {
        "t": "dispatch",
        "lease": LEASE,
        "ns": "anonymous",
        "job": JOB,
        "attempt": 1,
        "digest": DIGEST,
        "program": "qa",
        "revision": "r1",
        "timeout_ms": 29990,
        "profile": "small",
        "lane": "batch",
        "want": WANT,
        "window": 8,
        "isolate": True,
        "defined": True,
        "trace": {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"},
    }
    body = {"inputs": {"question": "2+2?"}}
    yield Example("workers", "B", dispatch, body)
    optional = ("profile", "lane", "want", "window", "isolate", "defined", "trace")
    least = {name: value for name, value in dispatch.items() if name not in optional}
    defaults = {"profile": None, "lane": "default", "want": [], "window": None, "trace": None}
    defaults |= {"isolate": False, "defined": False}
    yield Example("workers", "B", least, body, defaults)
    released = {
        "t": "released",
        "lease": LEASE,
        "started": True,
        "cause": "crash",
        "blame": "self",
        "details": {"exit_code": -9},
    }
    yield Example("workers", "W", released)
    least = {"t": "released", "lease": LEASE, "started": False, "cause": "capacity"}
    yield Example("workers", "W", least, None, {"blame": "none", "details": None})
    yield Example("workers", "B", {"t": "drain", "grace_ms": 30000})


WIDE: Final = Form(integer=64, head=32)
SIGNED: Final = Form(integer=64, signed=True, head=16)
TYPED: Final = Form(integer=8, head=8)


def encodings(example: Example) -> Iterator[Fields]:
    """The legal encodings of a message, each with a note of what is special about it."""
    header = example.header
    yield _one("the shortest forms", header, example.body)
    yield _one("the shortest forms, keys in the opposite order", reversed_keys(header), example.body)
    yield _one("typed heads and numbers where a shorter form would do", header, example.body, TYPED)
    yield _one("the widest heads, unsigned 64-bit numbers", header, example.body, WIDE)
    yield _one("16-bit heads, signed 64-bit numbers", header, example.body, SIGNED)
    yield _one("keys that nobody knows", {**UNKNOWN, **_with_unknown(header)}, example.body)
    if example.defaults:
        yield _one("defaults written out, nil where there is no value", {**header, **example.defaults}, example.body)
    if _has_float(header):
        yield _one("32-bit floats", header, example.body, Form(float_bits=32))
    if example.body is None:
        yield {**_one("an empty third frame", header), "body": ""}


def _one(note: str, header: Fields, body: Any = None, form: Form = SHORTEST) -> Fields:
    found = {"note": note, "header": write(header, form).hex()}
    return found if body is None else {**found, "body": write(body, form).hex()}


def _with_unknown(value: Any, name: str = "") -> Any:
    """The header with an unknown key in each structure of known keys."""
    if isinstance(value, list):
        return [_with_unknown(each, name) for each in value]
    if not isinstance(value, dict):
        return value
    found = {
        key: value[key] if key in ("details", "trace", "slots") else _with_unknown(value[key], key) for key in value
    }
    return found if name == "models" else {**found, "later": None}


def _has_float(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_has_float, value.values()))
    return any(map(_has_float, value)) if isinstance(value, list) else isinstance(value, float)


def build() -> Fields:
    """The file."""
    return {
        "about": "Legal encodings. Every header of a message must be read as `fields`, with `defaults` for what is "
        "left out. Frame 0 is 444a5031; a body that is there is frame 2 (section 2.1).",
        "rules": ["R-2.1", "R-2.2", "R-2.3", "R-2.5", "R-2.6", "R-2.7", "R-2.9"],
        "messages": [
            {
                "name": each.name,
                "endpoint": each.endpoint,
                "senders": list(each.senders),
                "fields": each.header,
                "defaults": each.defaults,
                "body": each.body,
                "encodings": list(encodings(each)),
            }
            for each in examples()
        ],
    }
