"""What a driver must support for a transcript, from its steps (docs/conformance-drivers.md has the words)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

Step = dict[str, Any]

CLIENT: Final = frozenset(
    {"call", "options", "stream", "read", "attach", "cancel", "tools", "ask", "failover", "resume", "close", "one-shot"}
)
WORKER: Final = frozenset({"chunks", "tools", "progress", "die", "isolate", "inline", "resume", "stop"})

_OF_TELL: Final = {"attach": "attach", "cancel": "cancel", "read": "read", "ask": "ask", "close": "close"}
_OF_PROGRAM: Final = {"story": "chunks", "consult": "tools", "steps": "progress", "die": "die"}


def needed(role: str, transcript: dict[str, Any]) -> frozenset[str]:
    """The words of `supports` that this transcript asks for; none for brokers."""
    match role:
        case "client":
            return frozenset(_of_client(transcript))
        case "worker":
            return frozenset(_of_worker(transcript))
        case _:
            return frozenset()


def _of_client(transcript: dict[str, Any]) -> Iterator[str]:
    if len(transcript["peers"]) > 1:
        yield "failover"
    if _greets_again(transcript):
        yield "resume"
    for step in transcript["steps"]:
        if "text" in step:
            yield "stream"
        match step.get("tell"):
            case None:
                pass
            case "submit":
                yield from _of_submit(step)
            case what:
                yield _OF_TELL[what]


def _of_submit(step: Step) -> Iterator[str]:
    yield "one-shot" if step.get("one_shot") else "call"
    if step.get("options"):
        yield "options"
    if step.get("stream") or "window" in step:
        yield "stream"
    if step.get("tools"):
        yield "tools"


def _of_worker(transcript: dict[str, Any]) -> Iterator[str]:
    if _greets_again(transcript):
        yield "resume"
    for step in transcript["steps"]:
        if step.get("tell") == "stop":
            yield "stop"
        sent = step.get("send", {})
        if sent.get("t") == "dispatch":
            if sent["program"] in _OF_PROGRAM:
                yield _OF_PROGRAM[sent["program"]]
            if sent.get("isolate"):
                yield "isolate"
            if sent.get("defined") or sent["program"] == "_define":
                yield "inline"
            if "chunks" in sent.get("want", ()):
                yield "chunks"


def _greets_again(transcript: dict[str, Any]) -> bool:
    """Whether some broker is said hello to more than once."""
    steps = transcript["steps"]
    greeted = Counter(step["peer"] for step in steps if step.get("expect", {}).get("t") == "hello")
    return any(count > 1 for count in greeted.values())
