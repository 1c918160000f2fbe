"""Streams of text: `Chunk`, and the pure bookkeeping of one job's stream (SPEC section 9)."""

from typing import Any, Final

import msgspec

from dspymq.protocol.client_messages import Chunk as ChunkMessage
from dspymq.protocol.client_messages import Result

DEFAULT_WINDOW: Final = 256
"""Chunks that may be under way to a reader that has not read them."""


class Chunk(msgspec.Struct, frozen=True, gc=False):
    """A piece of the text of one output field.

    With `reset`, everything received before, of *every* field, is void: discard it, then take this text. That
    happens when the job is run again (another `attempt`), when the client had to attach to it again, and when a
    piece was lost on the way. A reset that brings no text has an empty `field` and `text`.
    """

    field: str
    text: str
    reset: bool = False
    attempt: int = 1
    seq: int = 0


class TextStream:
    """Puts the chunks of one job in order, and keeps its credit.

    Earlier attempts and duplicates are dropped; a later attempt voids what came before; a gap in `seq` is noticed
    and mended by the next reset, at the latest by `finish`.
    """

    def __init__(self, window: int | None) -> None:
        self.attempt = 0
        self.next_seq = 0
        self._window = window or 0
        self._upto = 0
        self._read_upto = 0
        self._broken = False
        self._rejoining = False
        self._anew = False
        self._fields: dict[str, None] = {}

    def rejoin(self, *, anew: bool) -> None:
        """The job was sent again: a reset is to come.

        With `anew`, to a broker that may know nothing of it: then the job begins again, and that broker counts
        attempts and chunks from the start.
        """
        # Sent again and again, before anything came: what the first of these brokers knew nothing of is still to begin.
        self._anew = anew or (self._anew and self._rejoining)
        self._rejoining = True

    def take(self, message: ChunkMessage, fields: dict[str, Any]) -> list[Chunk]:
        """The chunks to hand to the reader for this message: one a field, none if it is stale."""
        if self._is_stale(message):
            return []
        begins = message.attempt != self.attempt or message.seq < self.next_seq
        voids = message.reset or (begins and bool(self._fields))
        if begins:
            self._begin(message.attempt)
        if message.reset:
            self._broken = False
            self._upto = max(self._upto, message.seq + self._window)
            self._fields.clear()
        elif message.seq > self.next_seq:
            self._broken = True
        self.next_seq = message.seq + 1
        self._rejoining = False
        return self._pieces(fields, voids)

    def _is_stale(self, message: ChunkMessage) -> bool:
        if not (self._rejoining and self._anew) and (message.attempt, message.seq) < (self.attempt, self.next_seq):
            return True
        # What is neither a reset nor a beginning nor the very next was under way before the worker heard of the new
        # attachment: its reset will bring that text again.
        follows = message.attempt == self.attempt and message.seq == self.next_seq
        return self._rejoining and not (message.reset or message.seq == 0 or follows)

    def restart(self, attempt: int) -> list[Chunk]:
        """Another attempt was heard of (started, progress): what came before is void."""
        if attempt <= self.attempt:
            return []
        voids = bool(self._fields)
        self._begin(attempt)
        return self._pieces({}, True) if voids else []

    def finish(self, result: Result, outputs: dict[str, Any]) -> list[Chunk]:
        """Compare with what the result says was sent; the chunks that mend what the reader lacks."""
        whole = self.attempt == result.attempt and self.next_seq == result.chunks and not self._broken
        if whole or (not self._fields and result.chunks == 0):
            return []
        names = list(self._fields) or [name for name, value in outputs.items() if isinstance(value, str)]
        self.attempt = result.attempt
        self.next_seq = result.chunks
        texts = {name: outputs[name] for name in names if isinstance(outputs.get(name), str)}
        return self._pieces(texts, True)

    def read(self, attempt: int, seq: int) -> int | None:
        """The reader took the chunk `seq`; the `upto` of a credit that is due, or None."""
        if not self._window or attempt != self.attempt:
            return None
        self._read_upto = max(self._read_upto, seq + 1)
        upto = self._read_upto + self._window
        if upto - self._upto < max(1, self._window // 2):
            return None
        self._upto = upto
        return upto

    def _begin(self, attempt: int) -> None:
        self.attempt = attempt
        self.next_seq = 0
        self._upto = self._window
        self._read_upto = 0
        self._broken = False
        self._fields.clear()

    def _pieces(self, fields: dict[str, Any], reset: bool) -> list[Chunk]:
        pieces: list[Chunk] = []
        seq = max(self.next_seq - 1, 0)
        for name, text in fields.items():
            if isinstance(name, str) and isinstance(text, str):
                self._fields[name] = None
                pieces.append(Chunk(name, text, reset and not pieces, self.attempt, seq))
        if reset and not pieces:
            pieces.append(Chunk("", "", True, self.attempt, seq))
        return pieces
