"""What is wrong with a spec, and where: every refusal names the place by a JSON pointer (RFC 6901)."""

from collections.abc import Mapping, Sequence
from typing import Any, Final, NoReturn

from dspymq.worker.executor.failures import JobError

Path = tuple[str | int, ...]
"""The keys and indexes that lead from the spec to one of its parts."""

_MAX_CHARS: Final = 500


def refuse(at: Path, problem: str, position: int | None = None) -> NoReturn:
    """Raise JobError `invalid_spec` for the part at `at`; `position` is the index of a character in a text there."""
    details: dict[str, Any] = {"path": pointer(at)}
    if position is not None:
        details["position"] = position
    raise JobError("invalid_spec", f"`{label(at)}` {problem}"[: 2 * _MAX_CHARS], details)


def pointer(at: Path) -> str:
    """`/steps/0/kind`; "" is the whole spec."""
    steps = (str(step).replace("~", "~0").replace("/", "~1") for step in at)
    return "".join(f"/{step}" for step in steps)[:_MAX_CHARS]


def label(at: Path) -> str:
    """`spec.steps[0].kind`, for people."""
    return "spec" + "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in at)[:_MAX_CHARS]


def map_at(value: Any, at: Path, what: str, known: Sequence[str] | None = None) -> Mapping[str, Any]:
    """The map that stands there; an empty array counts as the empty map. `known` are the keys that it may have."""
    if value == []:
        value = {}
    if not isinstance(value, Mapping):
        refuse(at, f"must be a map {what}")
    for key in value:
        if not isinstance(key, str):
            refuse(at, f"has a key that is no text: {str(key)[:64]!r}")
        if known is not None and key not in known:
            refuse(at, f"has no key {key[:64]!r}; known are {', '.join(known)}")
    return value


def list_at(value: Any, at: Path, what: str, most: int) -> Sequence[Any]:
    """The array that stands there, of at most so many entries."""
    if not isinstance(value, list | tuple):
        refuse(at, f"must be an array of {what}")
    if len(value) > most:
        refuse(at, f"has {len(value)} entries, the limit is {most}")
    return value


def text_at(value: Any, at: Path, most: int) -> str:
    """The text that stands there, of at most so many characters."""
    if not isinstance(value, str):
        refuse(at, "must be a text")
    if len(value) > most:
        refuse(at, f"has {len(value)} characters, the limit is {most}")
    return value


def whole_at(value: Any, at: Path, least: int, most: int) -> int:
    """The whole number that stands there; 3.0 counts, since some languages have no other 3."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or value != value // 1 or not least <= value <= most:
        refuse(at, f"is a whole number from {least} to {most}")
    return int(value)


def number_at(value: Any, at: Path) -> float:
    """The finite number that stands there."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < float("inf"):
        refuse(at, "must be a finite number")
    return float(value)


def choice_at(value: Any, at: Path, known: Sequence[str]) -> str:
    """One of the words that may stand there."""
    if not isinstance(value, str) or value not in known:
        refuse(at, f"must be one of {', '.join(known)}")
    return value
