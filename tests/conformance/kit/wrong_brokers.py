"""Brokers that break one rule each: the fault, the rule."""

from __future__ import annotations

from collections import Counter
from typing import Final

from tests.conformance.kit.wire import Fault, Header, Message


class AnswersNoPing(Fault):
    def out(self, header: Header, body: bytes) -> list[Message]:
        return [] if header["t"] == "pong" and len(self.peer) == 1 else [(header, body)]


class SendsResultsTwice(Fault):
    """To clients with a session."""

    def out(self, header: Header, body: bytes) -> list[Message]:
        return [(header, body)] * (2 if header["t"] == "result" and len(self.peer) == 1 else 1)


class AcknowledgesNothing(Fault):
    def out(self, header: Header, body: bytes) -> list[Message]:
        return [] if header["t"] == "ack" else [(header, body)]


class AnswersErrors(Fault):
    """Of those who have a session."""

    def __init__(self) -> None:
        self._known: set[tuple[bytes, ...]] = set()

    def replies(self, header: Header) -> list[Message]:
        if header["t"] == "hello":
            self._known.add(self.peer)
        is_one = header["t"] == "error" and self.peer in self._known
        return [({"t": "error", "code": "UNKNOWN", "reason": "what"}, b"")] if is_one else []


class SupersedesInSilence(Fault):
    def out(self, header: Header, body: bytes) -> list[Message]:
        return [] if header.get("reason") == "superseded" else [(header, body)]


class KnowsItsEpoch(Fault):
    """From its own welcome."""

    def __init__(self) -> None:
        self._epoch = "?"

    def out(self, header: Header, body: bytes) -> list[Message]:
        self._epoch = header["epoch"] if header["t"] == "welcome" else self._epoch
        return [(header, body)]


class AttachesInSilence(KnowsItsEpoch):
    """Workers are not told, but of what they held for another broker."""

    def out(self, header: Header, body: bytes) -> list[Message]:
        is_own = header["t"] == "attach" and header["lease"].startswith(self._epoch)
        return [] if is_own else super().out(header, body)


class SeesNoConflicts(Fault):
    def out(self, header: Header, body: bytes) -> list[Message]:
        return [] if header.get("reason") == "id_conflict" else [(header, body)]


class GivesUpSessions(Fault):
    """no_session is said to be for good."""

    def out(self, header: Header, body: bytes) -> list[Message]:
        if header.get("reason") == "no_session":
            header = {**header, "retryable": False}
        return [(header, body)]


class ReadsBodies(Fault):
    """What is no msgpack is mended."""

    def out(self, header: Header, body: bytes) -> list[Message]:
        return [(header, b"\x80" if body[:1] == b"\xc1" else body)]


class TellsNoWorkerOfDeadlines(Fault):
    def out(self, header: Header, body: bytes) -> list[Message]:
        return [] if header.get("cause") == "deadline" else [(header, body)]


class NumbersFromOne(Fault):
    """Events."""

    def out(self, header: Header, body: bytes) -> list[Message]:
        return [({**header, "seq": header["seq"] + 1} if header["t"] == "event" else header, body)]


class CountsNoAttempts(Fault):
    """Each dispatch is the first."""

    def __init__(self) -> None:
        self._attempts: dict[str, int] = {}

    def out(self, header: Header, body: bytes) -> list[Message]:
        if header["t"] == "dispatch":
            self._attempts[header["lease"]] = header["attempt"]
            header = {**header, "attempt": 1}
        return [(header, body)]


class IsolatesNobody(Fault):
    def out(self, header: Header, body: bytes) -> list[Message]:
        if header["t"] == "dispatch":
            header.pop("isolate", None)
        return [(header, body)]


class ForgetsTombstones(Fault):
    def out(self, header: Header, body: bytes) -> list[Message]:
        if header.get("reason") == "result_gone":
            header = {**header, "code": "NOT_FOUND", "reason": "unknown_job"}
        return [(header, body)]


class NamesNoPause(Fault):
    """A full queue does not say when to come back."""

    def out(self, header: Header, body: bytes) -> list[Message]:
        header.pop("retry_after_ms", None) if header.get("reason") == "queue_full" else None
        return [(header, body)]


class GreetsNobodyTwice(Fault):
    """A second hello in a session is not answered."""

    def __init__(self) -> None:
        self._greeted: Counter[tuple[bytes, ...]] = Counter()

    def into(self, header: Header, body: bytes) -> list[Message]:
        if header["t"] == "hello":
            self._greeted[self.peer] += 1
            return [] if self._greeted[self.peer] > 1 else [(header, body)]
        if header["t"] == "bye":
            self._greeted.pop(self.peer, None)
        return [(header, body)]


class KeepsNothingOfItsOwn(KnowsItsEpoch):
    """Of the pages of held: what it has dispatched itself."""

    def out(self, header: Header, body: bytes) -> list[Message]:
        if header["t"] == "synced":
            kept = [lease for lease in header.get("keep", ()) if not lease.startswith(self._epoch)]
            header = {"t": "synced", "keep": kept}
        return super().out(header, body)


class SpeaksAnyVersion(Fault):
    """What is wrong with frames is not said to be a matter of versions."""

    def out(self, header: Header, body: bytes) -> list[Message]:
        if header.get("reason") == "unsupported_version":
            header = {**header, "code": "INVALID_ARGUMENT", "reason": "bad_frames"}
        return [(header, body)]


FAULTS: Final[dict[str, tuple[type[Fault], str]]] = {
    "answers no ping": (AnswersNoPing, "R-3.13"),
    "sends results twice": (SendsResultsTwice, "R-5.5"),
    "acknowledges nothing": (AcknowledgesNothing, "R-6.6"),
    "answers errors": (AnswersErrors, "R-3.19"),
    "supersedes in silence": (SupersedesInSilence, "R-5.9"),
    "attaches in silence": (AttachesInSilence, "R-5.13"),
    "sees no conflicts": (SeesNoConflicts, "R-5.8"),
    "gives up sessions": (GivesUpSessions, "R-3.8"),
    "reads bodies": (ReadsBodies, "R-2.20"),
    "tells no worker of deadlines": (TellsNoWorkerOfDeadlines, "R-7.3"),
    "numbers events from one": (NumbersFromOne, "R-10.4"),
    "counts no attempts": (CountsNoAttempts, "R-6.3"),
    "isolates nobody": (IsolatesNobody, "R-6.25"),
    "forgets tombstones": (ForgetsTombstones, "R-5.17"),
    "names no pause": (NamesNoPause, "R-11.6"),
    "greets nobody twice": (GreetsNobodyTwice, "R-3.7"),
    "keeps nothing of its own": (KeepsNothingOfItsOwn, "R-6.14"),
    "speaks any version": (SpeaksAnyVersion, "R-2.4"),
}
