"""A transcript among others at one broker: under names of its own, so that nothing of theirs is met."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

_NAMED_BY: Final = frozenset({"job", "jobs", "new_job", "worker", "program", "affinity", "sub"})
_WORDS: Final = frozenset(
    {
        "t",
        "code",
        "reason",
        "state",
        "cause",
        "blame",
        "want",
        "features",
        "method",
        "kind",
        "kinds",
        "on_disconnect",
        "missing",
    }
)
"""Keys whose values are words of the protocol."""
_NOT_OURS: Final = frozenset({"peer", "$get", "$set"})
LONGEST: Final = 64


def isolated(transcript: dict[str, Any], suffix: str) -> dict[str, Any]:
    """The same transcript with `suffix` after the names of its jobs, workers, programs, flows and affinities.

    A name that would be longer than an id may be stays.
    """
    names = {name for name in _names(transcript["steps"]) if 0 < len(name) <= LONGEST - len(suffix)}
    return {**transcript, "steps": [_renamed(step, names, suffix) for step in transcript["steps"]]}


def _names(value: Any, key: str = "") -> Iterator[str]:
    match value:
        case dict():
            is_named = value.get("t") == "hello" or "revision" in value
            for name, each in value.items():
                if name == "name" and is_named and isinstance(each, str):
                    yield each
                yield from _names(each, name)
        case list():
            for each in value:
                yield from _names(each, key)
        case str() if key in _NAMED_BY and not value.startswith("_"):
            yield value


def _renamed(value: Any, names: set[str], suffix: str, within: str = "") -> Any:
    match value:
        case dict():
            return {
                # Keys are names of the protocol, but for the programs that a body of `ready` describes.
                (f"{key}{suffix}" if within == "programs" and key in names else key): (
                    each if key in _WORDS or key in _NOT_OURS else _renamed(each, names, suffix, key)
                )
                for key, each in value.items()
            }
        case list():
            return [_renamed(each, names, suffix) for each in value]
        case str() if value in names:
            return f"{value}{suffix}"
        case _:
            return value
