"""Which rule a step of a transcript shows, where it is not the transcript's first (protocol/vectors/README.md).

A step fails in three ways: what is awaited does not come (or something else comes), a field of it is wrong, or its
body is. Each may break another rule; so a step's `rule` is a text, or a map from the name of a field, `body`, or the
empty text for the message as a whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

Step = dict[str, Any]
Rules = dict[str, str]


def annotated(role: str, rules: Sequence[str], steps: list[Step]) -> list[Step]:
    """The steps, with `rule` where a failure breaks another rule than the first of `rules`."""
    greeted: set[str] = set()
    found = []
    for step in steps:
        message = _message(step)
        if message is not None and "rule" not in step:
            is_first = step["peer"] not in greeted
            if message["t"] in ("hello", "welcome"):
                greeted.add(step["peer"])
            named = _of(role, rules, message, step.get("body"), is_first=is_first)
            step = {**step, **_said(named, rules[0])}
        found.append(step)
    return found


def _said(named: Rules, first: str) -> Step:
    """As the file has it: nothing, or a map of what differs."""
    named = {field: rule for field, rule in named.items() if rule != first or (field == "t" and "" in named)}
    if list(named) == ["t"]:
        return {}
    return {"rule": named} if named else {}


def _message(step: Step) -> Step | None:
    """The header that a step awaits (of several the first), None if it awaits none."""
    if "expect" in step:
        found: Step = step["expect"]
        return found
    if "expect_in_any_order" in step:
        first: Step = step["expect_in_any_order"][0]["expect"]
        return first
    return {"t": "chunk", "stream": True} if "expect_stream" in step else None


def _of(role: str, rules: Sequence[str], message: Step, body: Any, *, is_first: bool) -> Rules:
    t = message["t"] if isinstance(message["t"], str) else ""
    if t in ("ping", "pong"):
        return {"": "R-3.12" if t == "ping" else "R-3.13", "n": "R-3.13"}
    if role == "client":
        return _of_client(t, rules, body, is_first=is_first)
    if role == "worker":
        return _of_worker(t, rules, message, is_first=is_first)
    return _of_broker(t, rules, message)


def _first(rules: Sequence[str], *wanted: str) -> str:
    """The first of `wanted` that the transcript names, else the last of them."""
    return next((each for each in wanted if each in rules), wanted[-1])


def _of_client(t: str, rules: Sequence[str], body: Any, *, is_first: bool) -> Rules:
    match t:
        case "hello":
            return {"": _first(rules, "R-3.31", "R-3.6") if is_first else _first(rules, "R-3.9", "R-3.14", "R-3.29")}
        case "submit" if isinstance(body, dict) and "$get" in body:
            again = _first(rules, "R-11.7", "R-5.10")
            return {"": again, "job": "R-5.10", "body": "R-2.23", "known_epoch": "R-8.3", "timeout_ms": "R-2.24"}
        case "submit" if not is_first and body is None:
            return {"": "R-5.10", "job": "R-5.10", "known_epoch": "R-8.3"}
        case "submit":
            return {"known_epoch": "R-8.3"}
        case "ack":
            return {"": "R-5.19", "jobs": "R-5.19"}
        case "cancel":
            return {"": "R-7.6", "job": "R-7.6"}
        case "request":
            return {"rid": "R-2.14"}
        case _:
            return {}


def _of_worker(t: str, rules: Sequence[str], message: Step, *, is_first: bool) -> Rules:
    match t:
        case "hello":
            return {"": "R-3.6" if is_first else _first(rules, "R-3.9", "R-3.14", "R-3.16", "R-3.29")}
        case "ready" if "held" in message:
            return {"": "R-6.13", "held": "R-6.13", "more": "R-6.13", "worker": "R-6.20"}
        case "result" if message.get("reason") == "cancelled":
            return {"": "R-7.8", "code": "R-7.8", "reason": "R-7.8", "usage": "R-7.8", **_OF_LEASE}
        case "result":
            return {**_OF_LEASE, "chunks": "R-9.3"}
        case "released":
            return _OF_LEASE
        case "chunk" if "stream" in message:
            return {"fields": _first(rules, "R-9.11", "R-9.4")}
        case "chunk":
            return {**_OF_LEASE, "seq": "R-9.2", "reset": "R-9.6"}
        case "started" | "progress" | "tool_call":
            return {"attempt": "R-6.2"}
        case _:
            return {}


_OF_LEASE: Final = {"lease": "R-6.2", "attempt": "R-6.2"}
_OF_ERROR: Final = {"superseded": "R-5.9", "id_conflict": "R-5.8", "no_session": "R-3.8", "result_gone": "R-5.17"}
_OF_CAUSE: Final = {"deadline": "R-7.3", "cancel": "R-7.5", "fenced": "R-7.7"}


def _of_broker(t: str, rules: Sequence[str], message: Step) -> Rules:
    match t:
        case "welcome":
            # What else comes instead of it is the transcript's matter.
            return {"": "R-3.7", "t": rules[0], "epoch": "R-8.1"}
        case "synced":
            return {"": "R-6.14", "keep": _first(rules, "R-8.5", "R-6.14")}
        case "ack":
            return {"": "R-6.6", "leases": "R-6.6"}
        case "attach":
            rule = _first(rules, "R-8.7", "R-5.13")
            return {"": rule, "want": rule, "window": rule}
        case "cancel":
            rule = _first(rules, "R-5.15", "R-8.5", _OF_CAUSE[message["cause"]])
            return {"": rule, "cause": rule}
        case "error" if message.get("reason") in _OF_ERROR:
            rule = _OF_ERROR[message["reason"]]
            return {"": rule, "code": rule, "reason": rule, "retryable": rule}
        case "reply":
            return {"": "R-10.1", "rid": "R-10.1"}
        case "dispatch":
            return {"attempt": "R-6.3", "lease": "R-6.1", "digest": "R-5.2", "isolate": "R-6.25"}
        case "accepted":
            return {"": "R-4.7"}
        case "chunk" | "progress":
            return {"": "R-9.5"}
        case "event":
            return {"": "R-10.4", "seq": "R-10.4"}
        case "bye":
            return {"": "R-3.23"}
        case _:
            return {}
