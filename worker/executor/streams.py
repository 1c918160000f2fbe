"""The chunks of one attempt: text by field, numbered, held back without credit, never lost (PROTOCOL.md section 9)."""

from collections.abc import Collection, Mapping
from typing import NamedTuple


class ChunkText(NamedTuple):
    """One chunk: its number, whether it replaces all before it, and text by field."""

    seq: int
    reset: bool
    fields: dict[str, str]


class StreamBuffer:
    """Collects text and gives out chunks. Pure: the owner calls `take` until it returns None and sends the chunks.

    Without credit it coalesces: the next chunk is longer. The text that has been given out is kept, for a snapshot.
    """

    def __init__(
        self,
        *,
        wanted: bool = True,
        window: int | None = None,
        begin_with_reset: bool = False,
        fields: Collection[str] | None = None,
    ) -> None:
        """`window` None is unlimited credit; `begin_with_reset` for attempts above 1; `fields` None takes any field."""
        self.wanted = wanted
        self.next_seq = 0
        self._upto = window
        self._reset_due = begin_with_reset
        self._forced = False
        self._fields = fields
        self._sent: dict[str, list[str]] = {}
        self._pending: dict[str, list[str]] = {}
        self._owner: dict[str, int] = {}

    def restrict(self, fields: Collection[str] | None) -> None:
        """Take these fields only (None: any); for an owner who learns them after making the buffer."""
        self._fields = fields

    def takes(self, field: str) -> bool:
        """Whether text of this field belongs into the stream."""
        return self._fields is None or field in self._fields

    def write(self, call: int, field: str, text: str, *, restart: bool = False) -> None:
        """More text of a field, from the LM call of this number.

        A later call that writes the same field replaces what an earlier one wrote; the earlier one is then ignored.
        """
        if not self.takes(field):
            return
        owner = self._owner.get(field)
        if owner is not None and call < owner:
            return
        if restart or (owner is not None and call > owner):
            self._clear(field)
        self._owner[field] = call
        if text:
            self._pending.setdefault(field, []).append(text)

    def settle(self, texts: Mapping[str, str]) -> None:
        """Make the stream's text exactly these fields' texts, what the result says, whatever was written before."""
        for field, text in texts.items():
            if not self.takes(field):
                continue
            written = self.text(field)
            if text.startswith(written):
                if len(text) > len(written):
                    self._pending.setdefault(field, []).append(text[len(written) :])
            else:
                self._clear(field)
                self._pending[field] = [text]
        for field in {*self._sent, *self._pending} - texts.keys():
            self._clear(field)

    def text(self, field: str) -> str:
        """All the text of a field so far."""
        return "".join([*self._sent.get(field, ()), *self._pending.get(field, ())])

    def credit(self, upto: int) -> None:
        """Chunks with seq < upto may go out; less than before is ignored."""
        if self._upto is not None and upto > self._upto:
            self._upto = upto

    def attach(self, *, wanted: bool, window: int | None) -> None:
        """A client attached: want and window are replaced, and the next chunk is a snapshot of all so far."""
        self.wanted = wanted
        self._upto = None if window is None else self.next_seq + window
        self._reset_due = self._forced = wanted

    def take(self, *, last: bool = False) -> ChunkText | None:
        """The next chunk, or None if there is nothing to say or no credit; `last` needs no credit."""
        if not self.wanted or not (self._forced or self._pending or (last and self._reset_due and self._sent)):
            return None
        if not last and self._upto is not None and self.next_seq >= self._upto:
            return None
        reset = self._reset_due
        pending = {field: "".join(parts) for field, parts in self._pending.items()}
        for field, text in pending.items():
            self._sent.setdefault(field, []).append(text)
        self._pending = {}
        fields = {field: self.text(field) for field in self._sent} if reset else pending
        chunk = ChunkText(self.next_seq, reset, fields)
        self.next_seq += 1
        self._reset_due = self._forced = False
        return chunk

    def forget(self) -> None:
        """Drop all text, at the end of the job."""
        self._sent, self._pending, self.wanted = {}, {}, False

    def _clear(self, field: str) -> None:
        self._pending.pop(field, None)
        if self._sent.pop(field, None) is not None:
            self._reset_due = self._forced = True
