"""From an LM's answer in pieces to the text of its fields, for DSPy's ChatAdapter and JSONAdapter formats.

Pure, no dspy. A splitter follows one answer of one LM call: what it gives for a text field, joined, is exactly what
the adapter parses in the end, whatever the sizes of the pieces.
"""

import re
from collections.abc import Collection
from typing import Final, NamedTuple, Protocol


class FieldText(NamedTuple):
    """More text of a field; `restart` means that all before it is void (a JSON key stood twice)."""

    field: str
    text: str
    restart: bool = False


class Splitter(Protocol):
    """Follows one answer."""

    def feed(self, text: str, final: bool = False) -> list[FieldText]:
        """Take the next piece (`final`: the last one) and return what is certain by now."""


class ChatSplitter:
    """The `[[ ## name ## ]]` format.

    As ChatAdapter parses it: a header counts at the start of a line only; any line boundary is read as a newline;
    a section is stripped; of several sections of one name the first counts.
    """

    _HEADER: Final = re.compile(r"\[\[ ## (\w+) ## \]\]")
    _PART: Final = re.compile(r"(?:\[(?:\[(?: (?:#(?:#(?: (?:\w+(?: (?:#(?:#(?: (?:\]\]?)?)?)?)?)?)?)?)?)?)?)?)?\Z")
    _LINE_END: Final = re.compile("\r\n|[\n\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029]")

    def __init__(self, fields: Collection[str]) -> None:
        """`fields` are the text fields that may be given out."""
        self._fields = fields
        self._seen: set[str] = set()
        self._field: str | None = None
        self._started = False
        self._line = ""
        self._flowing = False
        self._heading = False
        self._space = ""
        self._carriage_return = False
        self._out: list[FieldText] = []

    def feed(self, text: str, final: bool = False) -> list[FieldText]:
        """See Splitter.feed."""
        if self._carriage_return:
            text = "\r" + text
        self._carriage_return = not final and text.endswith("\r")
        if self._carriage_return:
            text = text[:-1]
        at = 0
        for match in self._LINE_END.finditer(text):
            self._add(text[at : match.start()])
            self._end_line()
            at = match.end()
        self._add(text[at:])
        if final and not self._flowing:
            self._flow(self._line)
        out, self._out = self._out, []
        return out

    def _add(self, text: str) -> None:
        if self._flowing:
            self._flow(text)
            return
        self._line += text
        bare = self._line.lstrip()
        if match := self._HEADER.match(bare):
            name = match[1]
            self._field = name if name in self._fields and name not in self._seen else None
            self._seen.add(name)
            self._started = False
            self._space = ""
            self._flowing = self._heading = True
            # ChatAdapter measures the header on the stripped line but cuts the whole one.
            self._flow(self._line[match.end() :])
        elif not self._PART.match(bare):
            self._flowing = True
            self._flow(self._line)

    def _end_line(self) -> None:
        if not self._flowing:
            self._flow(self._line)
        if self._heading:
            self._space = ""
        self._space += "\n"
        self._line = ""
        self._flowing = self._heading = False

    def _flow(self, text: str) -> None:
        if self._field is None:
            return
        if not self._started:
            text = text.lstrip()
            if not text:
                return
            self._started = True
            self._space = ""
        kept = text.rstrip()
        if kept:
            self._out.append(FieldText(self._field, self._space + kept))
            self._space = text[len(kept) :]
        else:
            self._space += text


class JSONSplitter:
    """The JSON object format: the string values of the outermost object, decoded. Other values are passed over.

    An answer that is not well-formed JSON from its first `{` gives nothing more after the flaw.
    """

    _SPACE: Final = " \t\r\n"
    _RUN: Final = re.compile(r'[^"\\]*')
    _SKIP: Final = re.compile(r'[^"\\\[\]{},]+')
    _ESCAPES: Final = {'"': '"', "\\": "\\", "/": "/", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
    _HEX: Final = re.compile(r"[0-9a-fA-F]{4}\Z")

    def __init__(self, fields: Collection[str]) -> None:
        """`fields` are the text fields that may be given out."""
        self._fields = fields
        self._seen: set[str] = set()
        self._buffer = ""
        self._at = 0
        self._state = self._seek
        self._key = ""
        self._target: str | None = None
        self._restart = False
        self._depth = 0
        self._quoted = False
        self._out: list[FieldText] = []

    def feed(self, text: str, final: bool = False) -> list[FieldText]:
        """See Splitter.feed."""
        self._buffer = self._buffer[self._at :] + text
        self._at = 0
        while self._at < len(self._buffer) and self._state():
            pass
        out, self._out = self._out, []
        return out

    # Each state consumes from the buffer and returns False when it needs more text.

    def _seek(self) -> bool:
        at = self._buffer.find("{", self._at)
        if at < 0:
            self._at = len(self._buffer)
            return False
        self._at = at + 1
        self._state = self._want_key
        return True

    def _over(self) -> bool:
        self._at = len(self._buffer)
        return False

    def _next_char(self) -> str:
        while self._at < len(self._buffer):
            char = self._buffer[self._at]
            self._at += 1
            if char not in self._SPACE:
                return char
        return ""

    def _want_key(self) -> bool:
        char = self._next_char()
        if char == '"':
            self._key = ""
            self._state = self._in_key
        elif char and char != ",":
            self._state = self._over
        return bool(char)

    def _in_key(self) -> bool:
        text, closed, more = self._string_part()
        self._key += text
        if closed:
            self._state = self._want_colon
        return more

    def _want_colon(self) -> bool:
        char = self._next_char()
        if char:
            self._state = self._want_value if char == ":" else self._over
        return bool(char)

    def _want_value(self) -> bool:
        char = self._next_char()
        if not char:
            return False
        if char == '"':
            self._target = self._key if self._key in self._fields else None
            self._restart = self._key in self._seen
            self._seen.add(self._key)
            if self._target is not None and self._restart:
                self._out.append(FieldText(self._target, "", True))
            self._state = self._in_value
        else:
            self._at -= 1
            self._depth = 0
            self._quoted = False
            self._state = self._skip_value
        return True

    def _in_value(self) -> bool:
        text, closed, more = self._string_part()
        if text and self._target is not None:
            self._out.append(FieldText(self._target, text))
        if closed:
            self._state = self._after_value
        return more

    def _after_value(self) -> bool:
        char = self._next_char()
        if char:
            self._state = self._want_key if char == "," else self._over
        return bool(char)

    def _skip_value(self) -> bool:
        if self._quoted:
            _, closed, more = self._string_part()
            self._quoted = not closed
            return more
        match = self._SKIP.match(self._buffer, self._at)
        if match:
            self._at = match.end()
            return True
        char = self._buffer[self._at]
        self._at += 1
        if char == '"':
            self._quoted = True
        elif char in "[{":
            self._depth += 1
        elif char in "]}":
            self._depth -= 1
            if self._depth < 0:
                self._state = self._over
        elif char == "," and self._depth == 0:
            self._state = self._want_key
        elif char == "\\":
            self._state = self._over
        return True

    def _string_part(self) -> tuple[str, bool, bool]:
        """(decoded text, whether the string ended, whether to go on); stands after it, or at an unfinished escape."""
        parts: list[str] = []
        while True:
            match = self._RUN.match(self._buffer, self._at)
            assert match is not None
            parts.append(match[0])
            self._at = match.end()
            if self._at >= len(self._buffer):
                return "".join(parts), False, False
            if self._buffer[self._at] == '"':
                self._at += 1
                return "".join(parts), True, True
            escape = self._escape()
            if escape is None:
                return "".join(parts), False, False
            parts.append(escape)

    def _escape(self) -> str | None:
        """The character of the escape at the position, which moves past it; None if more text is needed."""
        kind = self._buffer[self._at + 1 : self._at + 2]
        if not kind:
            return None
        if kind != "u":
            if kind not in self._ESCAPES:
                self._state = self._over
                self._at = len(self._buffer)
                return ""
            self._at += 2
            return self._ESCAPES[kind]
        first = self._buffer[self._at + 2 : self._at + 6]
        if len(first) < 4:
            return None
        if not self._HEX.match(first):
            self._state = self._over
            self._at = len(self._buffer)
            return ""
        code = int(first, 16)
        if 0xD800 <= code < 0xDC00:
            rest = self._buffer[self._at + 6 : self._at + 12]
            if len(rest) < 6 and "\\u".startswith(rest[:2]):
                return None
            if rest.startswith("\\u") and self._HEX.match(rest[2:]) and 0xDC00 <= int(rest[2:], 16) < 0xE000:
                self._at += 12
                return chr(0x10000 + ((code - 0xD800) << 10) + int(rest[2:], 16) - 0xDC00)
        self._at += 6
        return "\ufffd" if 0xD800 <= code < 0xE000 else chr(code)


class AutoSplitter:
    """Chooses by the first character that is not white space: `{` or a code fence is JSON, anything else chat.

    ChatAdapter asks again as JSONAdapter when an answer cannot be parsed, so that one job may see both formats.
    """

    def __init__(self, fields: Collection[str]) -> None:
        """`fields` are the text fields that may be given out."""
        self._fields = fields
        self._held = ""
        self._chosen: Splitter | None = None

    def feed(self, text: str, final: bool = False) -> list[FieldText]:
        """See Splitter.feed."""
        if self._chosen is None:
            self._held += text
            bare = self._held.lstrip()
            if not bare and not final:
                return []
            is_json = bare.startswith(("{", "`"))
            self._chosen = JSONSplitter(self._fields) if is_json else ChatSplitter(self._fields)
            text, self._held = self._held, ""
        return self._chosen.feed(text, final)
