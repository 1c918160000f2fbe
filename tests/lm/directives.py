"""The scripted LM's directives: `#name=value` in a request's text, or keyword arguments of `lm.script`.

| directive | effect |
|---|---|
| #job=ID | names the job that this request counts for |
| #delay_ms=200 | waits before anything is answered |
| #status=429, #code=C, #retry_after=1 | answers this HTTP error (OpenAI's error body, `Retry-After` header) |
| #garbage | answers text that no adapter can parse |
| #drop, #drop_after=N | closes the connection unanswered, or after N streamed pieces |
| #hang, #hang_after=N | holds the request, or its stream after N pieces, until `lm.release` or disconnect |
| #fail_first=N | status, garbage, drop and hang apply to the job's first N requests only (alone: status 500) |
| #tokens=40 | string answers have exactly that many words |
| #chunk=3, #token_ms=10 | characters in a streamed piece (default 8), pause between pieces |
| #answer.FIELD=value | that field's answer: a word, or a JSON string, array or object (may hold spaces) |
| #answer.FIELD@N=value | the same, only for the job's Nth request, from 1 |
| #tools=search,add | a ReAct program calls these tools, one a step, then finishes |
| #args.TOOL={"q": "x"} | with these arguments |

An unknown `#name=` is refused (HTTP 400), so that a misspelt test does not pass by chance; `#words` are text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

_DIRECTIVE = re.compile(r"(?<![\w&/#])#([a-z][a-z_]*)((?:\.\w+)?(?:@\d+)?)(=?)")
_WORD = re.compile(r"""[^\s"\\«»]*""")


class DirectiveError(ValueError):
    """A directive that does not exist, or whose value has the wrong type."""


@dataclass(frozen=True)
class Script:
    """What to do with a request. None means: not said. `answer` keys are FIELD or FIELD@N."""

    job: str | None = None
    delay_ms: float | None = None
    status: int | None = None
    code: str | None = None
    retry_after: float | None = None
    garbage: bool | None = None
    drop: bool | None = None
    drop_after: int | None = None
    hang: bool | None = None
    hang_after: int | None = None
    fail_first: int | None = None
    tokens: int | None = None
    token_ms: float | None = None
    chunk: int | None = None
    tools: tuple[str, ...] | None = None
    answer: Mapping[str, Any] = field(default_factory=dict)
    args: Mapping[str, Any] = field(default_factory=dict)

    def over(self, base: Script) -> Script:
        """This script, with what it leaves open taken from `base`."""
        said = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) is not None}
        said["answer"] = {**base.answer, **self.answer}
        said["args"] = {**base.args, **self.args}
        return replace(base, **said)

    def for_request(self, number: int) -> Script:
        """As it applies to the job's request `number` (from 1): `fail_first` and `FIELD@N` resolved."""
        script = self
        if self.fail_first is not None:
            failing = (self.status, self.garbage, self.drop, self.drop_after, self.hang, self.hang_after)
            if number > self.fail_first:
                script = replace(
                    self, status=None, garbage=None, drop=None, drop_after=None, hang=None, hang_after=None
                )
            elif not any(value is not None for value in failing):
                script = replace(self, status=500)
        now = {k.partition("@")[0]: v for k, v in self.answer.items() if k.endswith(f"@{number}")}
        always = {k: v for k, v in self.answer.items() if "@" not in k}
        return replace(script, answer={**always, **now})


def _words(value: Any) -> tuple[str, ...]:
    return tuple(value.split(",")) if isinstance(value, str) else tuple(value)


def _flag(value: Any) -> bool:
    if value in (True, False):
        return bool(value)
    if value in ("", "1", "true", "0", "false"):
        return value not in ("0", "false")
    raise ValueError(value)


_TYPES: dict[str, Callable[[Any], Any]] = {
    "job": str,
    "delay_ms": float,
    "status": int,
    "code": str,
    "retry_after": float,
    "garbage": _flag,
    "drop": _flag,
    "drop_after": int,
    "hang": _flag,
    "hang_after": int,
    "fail_first": int,
    "tokens": int,
    "token_ms": float,
    "chunk": int,
    "tools": _words,
}
_FLAGS = {name for name, kind in _TYPES.items() if kind is _flag}
_MAPS = ("answer", "args")


def make_script(**directives: Any) -> Script:
    """A script from keyword arguments. Raises DirectiveError for an unknown name or a wrong value."""
    said: dict[str, Any] = {}
    for name, value in directives.items():
        if name in _MAPS:
            said[name] = dict(value)
        elif name not in _TYPES:
            raise DirectiveError(f"unknown directive {name!r}; known: {', '.join([*_TYPES, *_MAPS])}")
        else:
            said[name] = None if value is None else _convert(name, value)
    return Script(**said)


def read_directives(text: str) -> Script:
    """The script written in a text; the last of several directives of one name wins. Raises DirectiveError."""
    said: dict[str, Any] = {}
    maps: dict[str, dict[str, Any]] = {name: {} for name in _MAPS}
    for name, key, value, _, _ in _scan(text):
        if name in _MAPS:
            maps[name][key] = value
        else:
            said[name] = _convert(name, value)
    return Script(**said, answer=maps["answer"], args=maps["args"])


def strip_directives(text: str) -> str:
    """The text without its directives, `#job=ID` excepted: a later step of a program thus keeps its job."""
    out, at = [], 0
    for name, _, _, start, end in _scan(text, strict=False):
        if name != "job":
            out.append(text[at:start])
            at = end
    return "".join([*out, text[at:]])


def _convert(name: str, value: Any) -> Any:
    try:
        return _TYPES[name](value)
    except (TypeError, ValueError):
        raise DirectiveError(f"directive {name!r} has the wrong value {value!r}") from None


def _scan(text: str, strict: bool = True) -> list[tuple[str, str, Any, int, int]]:
    """(name, key, value, start, end) of each directive in `text`."""
    found = []
    for match in _DIRECTIVE.finditer(text):
        name, key, equals = match[1], match[2].removeprefix("."), match[3]
        known = name in _MAPS if key else name in _TYPES
        if not known or not (equals or name in _FLAGS):
            if equals and strict:
                raise DirectiveError(f"unknown directive {match[0]!r}; known: {', '.join([*_TYPES, *_MAPS])}")
            continue
        value, end = _read_value(text, match.end()) if equals else ("", match.end())
        found.append((name, key, value, match.start(), end))
    return found


def _read_value(text: str, at: int) -> tuple[Any, int]:
    if text[at : at + 1] in ('"', "{", "["):
        try:
            return json.JSONDecoder().raw_decode(text, at)
        except ValueError:
            pass
    word = _WORD.match(text, at)
    assert word is not None
    return word[0], word.end()
