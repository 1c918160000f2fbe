"""Whether what came is a legal message at all, and which rule it breaks if not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from dspymq.conformance.matching import Mismatch
from dspymq.protocol import TAG, Limits, ProtocolError, client_codec, worker_codec

_LIMITS: Final = Limits(max_header_bytes=1 << 24, max_body_bytes=1 << 27)
_CODECS: Final[dict[str, Any]] = {"clients": client_codec(_LIMITS), "workers": worker_codec(_LIMITS)}
_ONLY_BROKERS: Final = {
    "clients": {"welcome", "result", "accepted", "started", "chunk", "progress", "tool_call", "reply", "event"},
    "workers": {"welcome", "ack", "credit", "cancel", "attach", "tool_result", "reply", "synced", "dispatch", "drain"},
}
_ONLY_OTHERS: Final = {
    "clients": {"hello", "submit", "ack", "credit", "cancel", "attach", "tool_result", "request"},
    "workers": {"hello", "ready", "result", "started", "chunk", "progress", "tool_call", "request", "released"},
}
"""SPEC section 4.2."""


def check(frames: Sequence[bytes], endpoint: str, *, by_broker: bool) -> bool:
    """Whether a message (without routing id or envelope) is one that is known: of another type, it is to be ignored.

    Raises Mismatch, with the rule, if it is not legal.
    """
    try:
        message, _ = _CODECS[endpoint].decode(frames)
    except ProtocolError as problem:
        if problem.reason == "unknown_type":
            return False
        raise Mismatch(f"an illegal message: {problem}; frames {shown(frames)}", rule=_rule(frames, problem)) from None
    t = message.__struct_config__.tag
    if t in (_ONLY_OTHERS if by_broker else _ONLY_BROKERS)[endpoint]:
        raise Mismatch(f"nobody of this role sends `{t}`", rule="R-3.5" if by_broker else "R-4.3")
    return True


def _rule(frames: Sequence[bytes], problem: ProtocolError) -> str:
    match problem.reason:
        case "unsupported_version":
            return "R-2.3"
        case "bad_frames":
            return "R-2.1" if frames and frames[0] == TAG else "R-2.3"
        case "wrong_endpoint":
            return "R-3.5"
        case "header_too_large" | "body_too_large":
            return "R-2.16"
        case _:
            return "R-2.8" if "Expected" in str(problem) or "missing required" in str(problem) else "R-2.5"


def shown(frames: Sequence[bytes]) -> str:
    """The beginning of each frame in hexadecimal."""
    return " | ".join(each[:48].hex(" ") + (" ..." if len(each) > 48 else "") for each in frames)
