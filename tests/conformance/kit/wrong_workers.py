"""Workers that break one rule each: the fault, the rule."""

from __future__ import annotations

import os
import uuid
from typing import Any, Final

import zmq

from tests.conformance.kit.bare_worker import Attempt, BareWorker, Header, now


class SendsResultsTwice(BareWorker):
    """Once more when they are acknowledged."""

    def take_ack(self, header: Header, _: bytes) -> None:
        for lease in header["leases"]:
            if lease in self.held:
                self.send_result(self.held[lease])
        super().take_ack(header, _)


class IgnoresCancels(BareWorker):
    def take_cancel(self, header: Header, _: bytes) -> None:
        pass


class LeavesOutHeld(BareWorker):
    def send(self, t: str, body: Any = None, **fields: Any) -> bool:
        if t == "ready":
            fields.pop("held", None)
        return super().send(t, body, **fields)


class CountsChunksFromOne(BareWorker):
    def send(self, t: str, body: Any = None, **fields: Any) -> bool:
        if t == "chunk":
            fields["seq"] += 1
        return super().send(t, body, **fields)


class StreamsBeyondCredit(BareWorker):
    def take_dispatch(self, header: Header, octets: bytes) -> None:
        header.pop("window", None)
        super().take_dispatch(header, octets)


class AnswersNoPing(BareWorker):
    def take_ping(self, header: Header, _: bytes) -> None:
        pass


class SendsNoPing(BareWorker):
    def send(self, t: str, body: Any = None, **fields: Any) -> bool:
        return t == "ping" or super().send(t, body, **fields)


class NamesItselfAnew(BareWorker):
    """Each session is another worker's."""

    def report(self) -> None:
        self.worker = uuid.uuid4().hex
        super().report()


class SetsAnIdentity(BareWorker):
    def new_socket(self) -> zmq.Socket[bytes]:
        socket = super().new_socket()
        socket.setsockopt(zmq.IDENTITY, f"worker-{os.getpid()}".encode())
        return socket


class CountsItsOwnAttempts(BareWorker):
    def send(self, t: str, body: Any = None, **fields: Any) -> bool:
        if "attempt" in fields:
            fields["attempt"] = 1
        return super().send(t, body, **fields)


class KeepsEverything(BareWorker):
    """Whatever `keep` says."""

    def take_synced(self, header: Header, _: bytes) -> None:
        super().take_synced({"keep": list(self.held)}, b"")


class StartsBeforeSynced(BareWorker):
    def take_dispatch(self, header: Header, octets: bytes) -> None:
        was, self.synced = self.synced, True
        super().take_dispatch(header, octets)
        for attempt in list(self.held.values()):
            self.work(attempt)
        self.synced = was


class IgnoresDeadlines(BareWorker):
    def is_late(self, attempt: Attempt) -> bool:
        return False


class CountsChunksWrong(BareWorker):
    def send(self, t: str, body: Any = None, **fields: Any) -> bool:
        if fields.get("chunks"):
            fields["chunks"] -= 1
        return super().send(t, body, **fields)


class NeverResets(BareWorker):
    def send(self, t: str, body: Any = None, **fields: Any) -> bool:
        fields.pop("reset", None)
        return super().send(t, body, **fields)


class LosesText(BareWorker):
    """What had no credit is not said at all."""

    def tell(self, attempt: Attempt, *, last: bool = False) -> None:
        if attempt.seq >= attempt.credit and "window" in attempt.header and not last:
            attempt.sent = len(attempt.text)
        super().tell(attempt, last=last)


class IgnoresLimits(BareWorker):
    def take_welcome(self, header: Header, octets: bytes) -> None:
        header["limits"]["max_body_bytes"] = 16 << 20
        super().take_welcome(header, octets)


class IgnoresDrains(BareWorker):
    def take_drain(self, header: Header, _: bytes) -> None:
        pass


class ChecksNoInputs(BareWorker):
    def check(self, header: Header, octets: bytes, attempt: Attempt) -> tuple[str, str, Any] | None:
        problem = super().check(header, octets, attempt)
        if problem is None or problem[1] != "invalid_inputs":
            return problem
        return "UNKNOWN", "program_error", None


class ShowsTraces(BareWorker):
    def end(self, attempt: Attempt, code: str = "OK", reason: str | None = None, **more: Any) -> None:
        if reason == "program_error":
            more["message"] = "Traceback (most recent call last)"
        super().end(attempt, code, reason, **more)


class AnswersErrors(BareWorker):
    def take_error(self, header: Header, octets: bytes) -> None:
        self.send("error", code="UNKNOWN", reason="what")
        super().take_error(header, octets)


class GivesUpWhatIsRefused(BareWorker):
    """A result that the broker refuses is forgotten."""

    def take_error(self, header: Header, octets: bytes) -> None:
        if "lease" not in header:
            super().take_error(header, octets)


class GoesOnAfterStops(BareWorker):
    """Whatever waited in the socket is started."""

    def begins_anew(self) -> bool:
        self.heard = now()
        return False


FAULTS: Final[dict[str, tuple[type[BareWorker], str]]] = {
    "sends results twice": (SendsResultsTwice, "R-6.7"),
    "ignores cancels": (IgnoresCancels, "R-7.8"),
    "leaves out held": (LeavesOutHeld, "R-6.13"),
    "counts chunks from one": (CountsChunksFromOne, "R-9.2"),
    "streams beyond credit": (StreamsBeyondCredit, "R-9.9"),
    "answers no ping": (AnswersNoPing, "R-3.13"),
    "sends no ping": (SendsNoPing, "R-3.12"),
    "names itself anew": (NamesItselfAnew, "R-6.20"),
    "sets an identity": (SetsAnIdentity, "R-3.4"),
    "counts its own attempts": (CountsItsOwnAttempts, "R-6.2"),
    "keeps everything": (KeepsEverything, "R-6.15"),
    "starts before synced": (StartsBeforeSynced, "R-6.16"),
    "ignores deadlines": (IgnoresDeadlines, "R-7.4"),
    "counts chunks wrong": (CountsChunksWrong, "R-9.3"),
    "never resets": (NeverResets, "R-9.6"),
    "loses text": (LosesText, "R-9.11"),
    "ignores limits": (IgnoresLimits, "R-2.16"),
    "ignores drains": (IgnoresDrains, "R-6.30"),
    "checks no inputs": (ChecksNoInputs, "R-11.17"),
    "shows traces": (ShowsTraces, "R-12.3"),
    "answers errors": (AnswersErrors, "R-3.19"),
    "gives up what is refused": (GivesUpWhatIsRefused, "R-6.12"),
    "goes on after stops": (GoesOnAfterStops, "R-3.16"),
}
