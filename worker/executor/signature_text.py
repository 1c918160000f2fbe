"""Inline signatures as text, `text -> name, age: int, mood: Literal['happy', 'sad']`, read without evaluating them.

DSPy's own parser looks unknown type names up in modules and imports them; clients send this text, so nothing here
evaluates, imports or resolves a name that is not in the table below. No dspy import.
"""

import datetime
import keyword
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, NoReturn, Optional, Union

MAX_CHARS: Final = 8_192
MAX_FIELDS: Final = 64
MAX_DEPTH: Final = 12
MAX_LITERALS: Final = 256

RESERVED_INPUTS: Final = frozenset({"signature", "demos", "config", "lm", "prediction", "new_signature"})
"""Names that dspy.Predict takes for itself when called."""

RESERVED_FIELDS: Final = frozenset({"instructions", "fields", "signature", "input_fields", "output_fields"})
"""Names that a dspy.Signature has itself."""

_SIMPLE: Final[dict[str, Any]] = {
    "str": str,
    "int": int,
    "float": float,
    "bool": bool,
    "bytes": bytes,
    "None": type(None),
    "Any": Any,
    "object": Any,
    "list": list,
    "dict": dict,
    "tuple": tuple,
    "set": set,
    "date": datetime.date,
    "datetime": datetime.datetime,
    "time": datetime.time,
    "timedelta": datetime.timedelta,
    "datetime.date": datetime.date,
    "datetime.datetime": datetime.datetime,
    "datetime.time": datetime.time,
    "datetime.timedelta": datetime.timedelta,
}
_GENERIC: Final = ("list", "dict", "tuple", "set", "Literal", "Optional", "Union")
OF_DSPY: Final[Mapping[str, Any]] = dict.fromkeys(("Image", "Audio", "File", "History", "Code", "Reasoning"), dict)
"""DSPy's own types by name, for readers that do not import dspy: as data each of them is a map."""
_LANGUAGE: Final = re.compile(r"[A-Za-z0-9_+#.-]{1,32}\Z")
_ALIASES: Final = {"List": "list", "Dict": "dict", "Tuple": "tuple", "Set": "set"}

_TOKEN: Final = re.compile(
    r"""(?P<space>\s+)
      | (?P<arrow>->)
      | (?P<string>'(?:[^'\\\n]|\\.)*'|"(?:[^"\\\n]|\\.)*")
      | (?P<number>-?\d+(?:\.\d+)?)
      | (?P<name>[^\W\d]\w*(?:\.[^\W\d]\w*)*)
      | (?P<dots>\.\.\.)
      | (?P<mark>[\[\],:|?])""",
    re.VERBOSE,
)
_ESCAPE: Final = re.compile(r"\\(.)", re.DOTALL)


class SignatureTextError(ValueError):
    """What is wrong and where: `position` counts characters from 0."""

    def __init__(self, message: str, position: int) -> None:
        super().__init__(f"{message} (at character {position})")
        self.position = position


@dataclass(frozen=True)
class Field:
    """A field's name and Python type; `typed` says whether the text gave one (str otherwise)."""

    name: str
    type: Any
    typed: bool


@dataclass(frozen=True)
class ParsedSignature:
    """Inputs and outputs in the order of the text."""

    inputs: tuple[Field, ...]
    outputs: tuple[Field, ...]


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str
    at: int


def parse_signature(text: str, extra: Mapping[str, Any] = OF_DSPY) -> ParsedSignature:
    """Read `inputs -> outputs`. `extra` are types by name besides Python's own. Raises SignatureTextError."""
    if not isinstance(text, str):
        raise SignatureTextError("a signature is a text such as 'question -> answer'", 0)
    if len(text) > MAX_CHARS:
        raise SignatureTextError(f"the signature is longer than {MAX_CHARS} characters", MAX_CHARS)
    return _Parser(_tokens(text), len(text), extra).signature()


def parse_type(text: str, extra: Mapping[str, Any] = OF_DSPY, *, only_extra: bool = False) -> Any:
    """Read one type, `list[int] | None`; with `only_extra` one of `extra` and nothing else.

    Raises SignatureTextError.
    """
    if len(text) > MAX_CHARS:
        raise SignatureTextError(f"the type is longer than {MAX_CHARS} characters", MAX_CHARS)
    return _Parser(_tokens(text), len(text), extra).one_type(only_extra=only_extra)


def check_field_name(name: str, *, is_input: bool) -> str | None:
    """Why this cannot be a field's name, or None."""
    if not name.isidentifier() or not name.isascii():
        return f"`{name}` is not a plain identifier"
    if name.startswith("_"):
        return f"`{name}` starts with an underscore"
    if keyword.iskeyword(name):
        return f"`{name}` is a Python keyword"
    if name in RESERVED_FIELDS or (is_input and name in RESERVED_INPUTS):
        return f"`{name}` is reserved by DSPy"
    if len(name) > 64:
        return "field names have at most 64 characters"
    return None


def _tokens(text: str) -> list[_Token]:
    tokens = []
    at = 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise SignatureTextError(f"unexpected {text[at]!r}", at)
        kind = match.lastgroup or ""
        if kind != "space":
            tokens.append(_Token(kind, match[0], at))
        at = match.end()
    return tokens


class _Parser:
    def __init__(self, tokens: list[_Token], length: int, extra: Mapping[str, Any]) -> None:
        self._tokens = tokens
        self._extra = extra
        self._next = 0
        self._end = _Token("end", "the end", length)

    def signature(self) -> ParsedSignature:
        if not any(token.kind == "arrow" for token in self._tokens):
            raise SignatureTextError("`->` is missing; write 'inputs -> outputs'", self._end.at)
        seen: set[str] = set()
        inputs = self._fields(seen, is_input=True)
        self._take("arrow", "->")
        outputs = self._fields(seen, is_input=False)
        if self._peek().kind != "end":
            self._unexpected("`,` or the end")
        if not outputs:
            raise SignatureTextError("there is no output field after `->`", self._end.at)
        return ParsedSignature(tuple(inputs), tuple(outputs))

    def one_type(self, *, only_extra: bool) -> Any:
        first = self._peek()
        if only_extra and first.text not in self._extra:
            self._unexpected(f"one of {', '.join(self._extra)}")
        found = self._single(1) if only_extra else self._union(1)
        if self._peek().kind != "end":
            self._unexpected("the end")
        return found

    def _fields(self, seen: set[str], *, is_input: bool) -> list[Field]:
        fields: list[Field] = []
        while self._peek().kind == "name":
            token = self._advance()
            problem = check_field_name(token.text, is_input=is_input)
            if problem is None and token.text in seen:
                problem = f"`{token.text}` stands twice"
            if problem is None and len(seen) >= MAX_FIELDS:
                problem = f"more than {MAX_FIELDS} fields"
            if problem is not None:
                raise SignatureTextError(problem, token.at)
            seen.add(token.text)
            typed = self._skip(":")
            fields.append(Field(token.text, self._union(1) if typed else str, typed))
            if not self._skip(","):
                break
        return fields

    def _union(self, depth: int) -> Any:
        if depth > MAX_DEPTH:
            raise SignatureTextError(f"types nest deeper than {MAX_DEPTH}", self._peek().at)
        found = self._single(depth)
        while self._skip("|"):
            found = Union[found, self._single(depth)]  # noqa: UP007 - built at run time
        return found

    def _single(self, depth: int) -> Any:
        token = self._advance()
        if token.kind != "name":
            self._unexpected("a type", token)
        name = token.text.removeprefix("typing.")
        name = _ALIASES.get(name, name)
        own = self._extra.get(token.text.removeprefix("dspy."))
        if own is not None:
            return self._language(own, token) if token.text.endswith("Code") and self._skip("[") else own
        if self._peek().text == "[" and self._peek().kind == "mark":
            if name not in _GENERIC:
                raise SignatureTextError(f"`{name}` takes no [...]", token.at)
            self._advance()
            found = self._generic(name, token, depth + 1)
            self._take("mark", "]")
            return found
        if name not in _SIMPLE:
            if name in _GENERIC:
                raise SignatureTextError(f"`{name}` needs [...]", token.at)
            known = ", ".join(sorted({*_SIMPLE, *_GENERIC, *self._extra} - {"object"}))
            raise SignatureTextError(f"the type `{name}` is not known; known are {known}", token.at)
        return _SIMPLE[name]

    def _generic(self, name: str, token: _Token, depth: int) -> Any:
        if name == "Literal":
            return self._literal()
        if name == "tuple":
            return self._tuple(depth)
        args = [self._union(depth)]
        while self._skip(","):
            args.append(self._union(depth))
        if name == "Union":
            return Union[tuple(args)]  # noqa: UP007 - built at run time
        expected = 2 if name == "dict" else 1
        if len(args) != expected:
            raise SignatureTextError(f"`{name}` takes {expected} type(s), not {len(args)}", token.at)
        if name == "dict":
            if args[0] not in (str, int, Any):
                raise SignatureTextError("the keys of a dict are str or int", token.at)
            return dict[args[0], args[1]]  # type: ignore[valid-type]
        if name == "Optional":
            return Optional[args[0]]  # noqa: UP045 - built at run time
        return list[args[0]] if name == "list" else set[args[0]]  # type: ignore[valid-type]

    def _language(self, own: Any, token: _Token) -> Any:
        """The rest of `Code["elixir"]`."""
        said = self._advance()
        if said.kind != "string" or not _LANGUAGE.match(said.text[1:-1]):
            self._unexpected("a quoted language, such as 'python'", said)
        self._take("mark", "]")
        return own if own is dict else own[said.text[1:-1]]

    def _tuple(self, depth: int) -> Any:
        args = [self._union(depth)]
        while self._skip(","):
            if self._peek().kind == "dots":
                token = self._advance()
                if len(args) != 1:
                    raise SignatureTextError("`...` follows one type only", token.at)
                return tuple[args[0], ...]  # type: ignore[valid-type]
            args.append(self._union(depth))
        return tuple[tuple(args)]  # type: ignore[misc]

    def _literal(self) -> Any:
        values: list[Any] = []
        while True:
            values.append(self._value())
            if len(values) > MAX_LITERALS:
                raise SignatureTextError(f"more than {MAX_LITERALS} values", self._peek().at)
            if not self._skip(","):
                return Literal[tuple(values)]

    def _value(self) -> str | int | bool | None:
        token = self._advance()
        if token.kind == "string":
            return _ESCAPE.sub(lambda match: {"n": "\n", "t": "\t"}.get(match[1], match[1]), token.text[1:-1])
        if token.kind == "number" and "." not in token.text and len(token.text) < 20:
            return int(token.text)
        if token.text in ("True", "False"):
            return token.text == "True"
        if token.text != "None":
            self._unexpected("a quoted text, a whole number, True, False or None", token)
        return None

    def _peek(self) -> _Token:
        return self._tokens[self._next] if self._next < len(self._tokens) else self._end

    def _advance(self) -> _Token:
        token = self._peek()
        self._next += 1
        return token

    def _skip(self, mark: str) -> bool:
        token = self._peek()
        if token.kind == "mark" and token.text == mark:
            self._next += 1
            return True
        return False

    def _take(self, kind: str, text: str) -> None:
        token = self._peek()
        if token.kind != kind or token.text != text:
            self._unexpected(f"`{text}`")
        self._next += 1

    def _unexpected(self, wanted: str, token: _Token | None = None) -> NoReturn:
        token = token or self._peek()
        found = token.text if token.kind == "end" else f"`{token.text}`"
        raise SignatureTextError(f"expected {wanted}, found {found}", token.at)
