"""What went over the wire in a transcript, for people who look why it failed."""

from __future__ import annotations

from typing import Any, NamedTuple

from dspymq.conformance.matching import Mismatch, unpacked

_SHOWN_OCTETS = 200


class Message(NamedTuple):
    """A message as it came: its header, its body's octets, and the frames before its tag."""

    header: dict[str, Any]
    body: bytes
    envelope: list[bytes]


class Event(NamedTuple):
    """One thing that happened: when, in which step, between the kit and which peer, and what."""

    at_ms: float
    step: int
    peer: str
    what: str

    def __str__(self) -> str:
        return f"{self.at_ms:8.0f} ms  step {self.step:<3} {self.peer:<8} {self.what}"


class Exchange:
    """The events of one transcript. Peers are named as in the transcript."""

    def __init__(self, begun_ms: float) -> None:
        self._begun_ms = begun_ms
        self.events: list[Event] = []
        self.step = 0

    def note(self, now_ms: float, peer: str, what: str) -> None:
        """Something else than a message."""
        self.events.append(Event(now_ms - self._begun_ms, self.step, peer, what))

    def sent(self, now_ms: float, peer: str, header: Any, body: bytes = b"") -> None:
        """The kit sent this."""
        self.note(now_ms, peer, f"kit sends  {shown(header, body)}")

    def came(self, now_ms: float, peer: str, header: Any, body: bytes = b"") -> None:
        """This came for the kit."""
        self.note(now_ms, peer, f"kit gets   {shown(header, body)}")


def shown(header: Any, body: bytes = b"") -> str:
    """A header and a body as text, both decoded."""
    if not body:
        return repr(header)
    try:
        text = repr(unpacked(body))
    except Mismatch:
        text = body[:_SHOWN_OCTETS].hex(" ")
    if len(text) > _SHOWN_OCTETS:
        text = f"{text[:_SHOWN_OCTETS]}... ({len(body)} octets)"
    return f"{header!r} + {text}"
