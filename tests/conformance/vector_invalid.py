"""invalid.json: frames that are no message, or not one that a peer may send, and the error that each must give."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from dspymq.protocol.errors import REASONS
from dspymq.protocol.limits import MAX_ACKS, MAX_HELD, Limits
from tests.conformance.vector_encodings import JOB, LEASE, WORKER, Fields, examples
from tests.conformance.vector_forms import SHORTEST, Form, Octets, PairMap, nested, pieces, write

TAG: Final = b"DJP1"
BOTH: Final = ("clients", "workers")
PING: Final = write({"t": "ping"})
SUBMIT: Final = {"t": "submit", "job": JOB, "program": "qa", "timeout_ms": 30000}
READY: Final = {"t": "ready", "worker": WORKER, "slots": {"default": 1}}
RESULT: Final = {"t": "result", "lease": LEASE, "attempt": 1, "code": "OK"}
HELD: Final = {"lease": LEASE, "ns": "n", "job": "j", "attempt": 1, "digest": "d", "state": "running"}
ERROR: Final = {"t": "error", "code": "INTERNAL", "reason": "internal"}
NAN: Final = Octets(bytes.fromhex("cb7ff8000000000000"))
TIMESTAMP: Final = Octets(bytes.fromhex("d6ff00000001"))
COUNT_OVER: Final = 1 << 53
LIMITS: Final = Limits()


def build() -> Fields:
    """The file."""
    return {
        "about": "Frames that a broker must refuse, at each endpoint that is named, in a session or before one: the "
        "answer is one `error` with this code and reason, and with these ids. Where `answer` is null nothing is "
        "answered at all. A run of one octet is written as {octets, times}.",
        "cases": list(cases()),
    }


def cases() -> Iterator[Fields]:
    """All of them; names are unique."""
    yield from _frames()
    yield from _profile()
    yield from _types()
    yield from _fields()
    yield from _sizes()
    yield from _directions()
    yield from _errors()


def _case(
    name: str, rules: str, frames: list[bytes], reason: str | None, endpoints: tuple[str, ...] = BOTH, **more: Any
) -> Fields:
    answer = None
    if reason is not None:
        answer = {"code": str(REASONS[reason].code), "reason": reason, **more}
    found = {"name": name, "rules": rules.split(), "endpoints": list(endpoints)}
    return {**found, "frames": pieces(frames), "answer": answer}


def _header(name: str, rules: str, header: Any, reason: str = "bad_header", *where: str, **more: Any) -> Fields:
    data = header if isinstance(header, bytes) else write(header)
    return _case(name, rules, [TAG, data], reason, where or BOTH, **more)


def _frames() -> Iterator[Fields]:
    versions = {"details": {"versions": ["DJP1"]}}
    yield _case("tag-later-version", "R-2.4 R-14.1", [b"DJP2", PING], "unsupported_version", **versions)
    yield _case("tag-later-version-alone", "R-2.4", [b"DJPX"], "unsupported_version", **versions)
    yield _case("tag-later-version-four-frames", "R-2.4", [b"DJP2", PING, b"a", b"b"], "unsupported_version")
    yield _case("tag-unknown", "R-2.3 R-2.4", [b"XXXX", PING], "bad_frames", **versions)
    yield _case("tag-lower-case", "R-2.3", [b"djp1", PING], "bad_frames")
    yield _case("tag-too-short", "R-2.3", [b"DJP", PING], "bad_frames")
    yield _case("tag-too-long", "R-2.3", [b"DJP10", PING], "bad_frames")
    yield _case("tag-alone", "R-2.1", [TAG], "bad_frames")
    yield _case("empty-frame-alone", "R-2.1", [b""], "bad_frames")
    yield _case("four-frames", "R-2.1", [TAG, PING, b"a", b"b"], "bad_frames")
    yield _case("subscribe-command", "R-2.4", [b"\x01abc"], "bad_frames")


def _profile() -> Iterator[Fields]:
    ping = [("t", "ping")]
    yield _header("header-empty", "R-2.5", b"")
    yield _header("header-nil", "R-2.5", b"\xc0")
    yield _header("header-array", "R-2.5", ["t", "ping"])
    yield _header("header-text", "R-2.5", "ping")
    yield _header("header-trailing-octet", "R-2.5", PING + b"\x00")
    yield _header("header-twice", "R-2.5", PING + PING)
    yield _header("header-cut", "R-2.5", PING[:-1])
    yield _header("header-never-used-octet", "R-2.5", PairMap([*ping, ("x", Octets(b"\xc1"))]))
    yield _header("key-integer", "R-2.5", PairMap([*ping, (1, 2)]))
    yield _header("key-nil", "R-2.5", PairMap([*ping, (None, 2)]))
    yield _header("key-bin", "R-2.5", PairMap([*ping, (b"x", 2)]))
    yield _header("key-twice", "R-2.5", PairMap([*ping, ("n", 1), ("n", 2)]))
    yield _header("key-twice-same-value", "R-2.5", PairMap([*ping, ("n", 1), ("n", 1)]))
    yield _header("key-twice-in-two-forms", "R-2.5", PairMap([*ping, ("n", 1), (Octets(b"\xd9\x01n"), 1)]))
    yield _header("unknown-key-twice", "R-2.5 R-2.7", PairMap([*ping, ("x", 1), ("x", 2)]))
    yield _header("key-twice-inside", "R-2.5", PairMap([*ping, ("x", PairMap([("a", 1), ("a", 2)]))]))
    yield _header("value-bin", "R-2.5", PairMap([("t", b"ping")]))
    yield _header("unknown-value-bin", "R-2.5 R-2.7", {"t": "ping", "x": b"ping"})
    yield _header("unknown-value-bin-inside", "R-2.5 R-2.7", {"t": "ping", "x": [{"y": b""}]})
    yield _header("unknown-value-ext", "R-2.5 R-2.7", {"t": "ping", "x": Octets(b"\xd4\x01\x02")})
    yield _header("unknown-value-timestamp", "R-2.5 R-2.7", {"t": "ping", "x": TIMESTAMP})
    yield _header("unknown-value-nan", "R-2.5 R-2.7", {"t": "ping", "x": NAN})
    yield _header("unknown-value-nan-32", "R-2.5 R-2.7", {"t": "ping", "x": Octets(bytes.fromhex("ca7fc00000"))})
    yield _header("unknown-value-infinity", "R-2.5 R-2.7", {"t": "ping", "x": float("inf")})
    yield _header("unknown-value-minus-infinity", "R-2.5 R-2.7", {"t": "ping", "x": float("-inf")})
    yield _header("unknown-value-bad-utf8", "R-2.5 R-2.7", {"t": "ping", "x": Octets(b"\xa1\xff")})
    yield _header("unknown-value-surrogate", "R-2.5 R-2.7", {"t": "ping", "x": Octets(b"\xa3\xed\xa0\x80")})
    yield _header("key-bad-utf8", "R-2.5", PairMap([*ping, (Octets(b"\xa1\xff"), 1)]))
    yield _header("depth-9", "R-2.5 R-2.7", {"t": "ping", "x": nested(8)})
    yield _header("depth-9-in-maps", "R-2.5 R-2.7", {"t": "ping", "x": _maps(8)})
    yield _header("depth-5001", "R-2.5 R-2.7 R-2.10", {"t": "ping", "x": Octets(b"\x91" * 5000 + b"\x01")})
    details = {"t": "released", "lease": LEASE, "started": True, "cause": "crash"}
    yield _header("details-nan", "R-2.5", {**details, "details": {"a": NAN}}, "bad_header", "workers", lease=LEASE)
    yield _header("details-bin", "R-2.5", {**details, "details": {"a": b"x"}}, "bad_header", "workers", lease=LEASE)
    deep = {**details, "details": {"a": nested(7)}}
    yield _header("details-depth-9", "R-2.5", deep, "bad_header", "workers", lease=LEASE)
    twice = PairMap([*details.items(), ("details", PairMap([("a", 1), ("a", 1)]))])
    yield _header("details-key-twice", "R-2.5", twice, "bad_header", "workers", lease=LEASE)


def _types() -> Iterator[Fields]:
    yield _header("type-missing", "R-2.7", {"n": 1})
    yield _header("type-integer", "R-2.7", {"t": 5})
    yield _header("type-nil", "R-2.7", {"t": None})
    yield _header("type-unknown", "R-4.1", {"t": "telepathy", "job": "j", "rid": "r"}, "unknown_type", job="j", rid="r")
    yield _header("type-empty", "R-4.1", {"t": ""}, "unknown_type")
    yield _header("type-in-capitals", "R-4.1", {"t": "PING"}, "unknown_type")
    yield _header("type-unknown-before-profile", "R-2.11", {"t": "telepathy", "x": b"", "n": NAN}, "unknown_type")
    for each in examples():
        if each.defaults:
            continue
        other = {"clients": "workers", "workers": "clients"}[each.endpoint]
        tag = each.header["t"]
        if tag in _tags(each.endpoint) - _tags(other):
            ids = {name: each.header[name] for name in ("job", "rid", "lease") if name in each.header}
            frames = [TAG, write(each.header)]
            yield _case(f"{tag}-at-the-{other}-endpoint", "R-3.5", frames, "wrong_endpoint", (other,), **ids)


def _fields() -> Iterator[Fields]:
    for name, value in (
        ("whole-float", 5.0),
        ("fraction", 0.5),
        ("text", "5"),
        ("boolean", True),
        ("negative", -1),
        ("2-to-the-53", COUNT_OVER),
        ("64-bits", (1 << 64) - 1),
        ("nil", None),
        ("array", [5]),
    ):
        yield _header(f"count-as-{name}", "R-2.8", {"t": "ping", "n": value})
    whole = {"t": "ping", "n": Octets(write(-1, Form(integer=64, signed=True)))}
    yield _header("count-negative-in-64-bits", "R-2.8", whole)
    job = {"job": JOB}
    for name, change in {
        "timeout-missing": {"timeout_ms": None},
        "timeout-0": {"timeout_ms": 0},
        "timeout-float": {"timeout_ms": 30000.0},
        "program-empty": {"program": ""},
        "program-129-characters": {"program": "p" * 129},
        "program-integer": {"program": 7},
        "lane-nil": {"lane": Octets(b"\xc0")},
        "priority-10": {"priority": 10},
        "priority-minus-1": {"priority": -1},
        "want-unknown-word": {"want": ["chunks", "smell"]},
        "want-text": {"want": "chunks"},
        "want-empty-map": {"want": {}},
        "want-holds-integer": {"want": [1]},
        "window-0": {"window": 0},
        "on-disconnect-unknown-word": {"on_disconnect": "wait"},
        "fail-fast-integer": {"fail_fast": 1},
        "redeliver-nil": {"redeliver": Octets(b"\xc0")},
        "affinity-empty": {"affinity": ""},
        "known-epoch-65-characters": {"known_epoch": "e" * 65},
        "trace-array": {"trace": []},
        "trace-integer-value": {"trace": {"a": 1}},
    }.items():
        header = {key: value for key, value in {**SUBMIT, **change}.items() if value is not None}
        rules = "R-2.8 R-4.6" if name == "want-unknown-word" else "R-2.8"
        yield _header(f"submit-{name}", rules, header, "bad_header", "clients", **job)
    for name, text in {
        "empty": "",
        "newline": "a\n",
        "control": "a\x1f",
        "delete": "a\x7f",
        "not-ascii": "café",
    }.items():
        yield _header(f"job-{name}", "R-2.12", {**SUBMIT, "job": text}, "bad_header", "clients", job=text)
    yield _header("job-65-characters", "R-2.12 R-2.11", {**SUBMIT, "job": "j" * 65}, "bad_header", "clients")
    yield _header("job-integer", "R-2.12 R-2.11", {**SUBMIT, "job": 7}, "bad_header", "clients")
    many = {"t": "ack", "jobs": ["j"] * (MAX_ACKS + 1)}
    yield _header("ack-1001-jobs", "R-2.8", many, "bad_header", "clients")
    for name, text in {"empty": "", "65-characters": "n" * 65, "not-ascii": "é", "newline": "n\n"}.items():
        yield _header(f"hello-name-{name}", "R-2.8", {"t": "hello", "name": text})
    yield _header("hello-name-missing", "R-2.8", {"t": "hello"})
    yield _header("hello-lang-65-characters", "R-2.8", {"t": "hello", "name": "n", "lang": "l" * 65})
    yield _header("hello-features-map", "R-2.8", {"t": "hello", "name": "n", "features": {}})
    yield _header("bye-reason-4097-characters", "R-2.8", {"t": "bye", "reason": "r" * 4097})
    yield _header("request-rid-missing", "R-2.8", {"t": "request", "method": "stats.get"})
    yield _header("request-method-empty", "R-2.8", {"t": "request", "rid": "r1", "method": ""}, rid="r1")
    for name, change in {
        "slots-float": {"slots": {"default": 1.0}},
        "slots-negative": {"slots": {"default": -1}},
        "slots-array": {"slots": []},
        "offer-without-revision": {"programs": [{"name": "qa"}]},
        "programs-map": {"programs": {"qa": "r1"}},
        "held-201-entries": {"held": [HELD] * (MAX_HELD + 1)},
        "held-unknown-state": {"held": [{**HELD, "state": "waiting"}]},
        "held-without-digest": {"held": [{k: v for k, v in HELD.items() if k != "digest"}]},
        "more-nil": {"more": Octets(b"\xc0")},
    }.items():
        yield _header(f"ready-{name}", "R-2.8", {**READY, **change}, "bad_header", "workers")
    for name, change in {
        "code-missing": {"code": None},
        "code-integer": {"code": 0},
        "details-array": {"details": []},
        "usage-negative": {"usage": {"calls": -1}},
        "usage-tokens-float": {"usage": {"calls": 1, "models": {"m": {"input_tokens": 1.0}}}},
        "usage-cost-text": {"usage": {"calls": 1, "models": {"m": {"cost": "1"}}}},
        "usage-cost-negative": {"usage": {"calls": 1, "models": {"m": {"cost": -0.5}}}},
        "usage-cost-infinite-in-effect": {"usage": {"calls": 1, "models": {"m": {"cost": 1e300}}}},
        "usage-cost-nan": {"usage": {"calls": 1, "models": {"m": {"cost": NAN}}}},
        "message-4097-characters": {"message": "m" * 4097},
    }.items():
        header = {key: value for key, value in {**RESULT, **change}.items() if value is not None}
        yield _header(f"result-{name}", "R-2.8", header, "bad_header", "workers", lease=LEASE)
    released = {"t": "released", "lease": LEASE, "started": 1, "cause": "crash"}
    yield _header("released-started-integer", "R-2.8", released, "bad_header", "workers", lease=LEASE)
    unknown = {**released, "started": True, "cause": "boredom"}
    yield _header("released-unknown-cause", "R-2.8", unknown, "bad_header", "workers", lease=LEASE)


def _sizes() -> Iterator[Fields]:
    header, body = LIMITS.max_header_bytes, LIMITS.max_body_bytes
    long = {"t": "ping", "x": "x" * header}
    yield _header("header-over-the-limit", "R-2.17", long, "header_too_large")
    yield _case("header-over-the-limit-and-no-map", "R-2.11 R-2.17", [TAG, bytes(header + 1)], "header_too_large")
    large = bytes(body + 1)
    submit = [TAG, write(SUBMIT), large]
    yield _case("body-over-the-limit", "R-2.17", submit, "body_too_large", ("clients",), job=JOB)
    yield _case(
        "result-over-the-limit", "R-2.17", [TAG, write(RESULT), large], "body_too_large", ("workers",), lease=LEASE
    )
    bad = [TAG, write({**SUBMIT, "timeout_ms": 0}), large]
    yield _case("bad-header-before-large-body", "R-2.11", bad, "bad_header", ("clients",), job=JOB)
    welcome = next(each.header for each in examples() if each.header["t"] == "welcome")
    yield _case("large-body-before-direction", "R-2.11", [TAG, write(welcome), large], "body_too_large")


def _directions() -> Iterator[Fields]:
    for each in examples():
        if each.defaults or each.senders != "B" or each.header["t"] == "error":
            continue
        ids = {name: each.header[name] for name in ("job", "rid", "lease") if name in each.header}
        frames = [TAG, write(each.header)]
        name = f"{each.header['t']}-sent-to-the-{each.endpoint}-endpoint"
        yield _case(name, "R-4.3", frames, "wrong_direction", (each.endpoint,), **ids)


def _errors() -> Iterator[Fields]:
    """What is never answered, whatever is wrong with it."""
    for name, frames in {
        "error": [TAG, write(ERROR)],
        "error-with-ids": [TAG, write({**ERROR, "job": JOB, "rid": "r1", "details": {"a": 1}})],
        "error-unknown-code-and-key": [TAG, write({**ERROR, "code": "LATER", "reason": "later", "x": [1]})],
        "error-with-a-body": [TAG, write(ERROR), b"\xc1"],
        "error-field-missing": [TAG, write({"t": "error"})],
        "error-wrong-type": [TAG, write({**ERROR, "retryable": 1})],
        "error-breaks-the-profile": [TAG, write({**ERROR, "x": b"bin"})],
        "error-of-another-version": [b"DJP2", write(ERROR)],
        "error-key-twice": [TAG, write(PairMap([*ERROR.items(), ("x", 1), ("x", 1)]), SHORTEST)],
    }.items():
        yield _case(name, "R-3.19", frames, None)


def _tags(endpoint: str) -> set[str]:
    return {each.header["t"] for each in examples() if each.endpoint == endpoint}


def _maps(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = {"a": value}
    return value
