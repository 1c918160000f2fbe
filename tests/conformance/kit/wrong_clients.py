"""Clients that break one rule each: the fault, the rule."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from typing import Final

import msgpack
import zmq

from tests.conformance.kit.wire import Fault, Header, Message


class ForgetsAcks(Fault):
    def out(self, header: Header, body: bytes) -> list[Message]:
        return [] if header["t"] == "ack" else [(header, body)]


class AnswersErrors(Fault):
    def replies(self, header: Header) -> list[Message]:
        return [({"t": "error", "code": "UNKNOWN", "reason": "what"}, b"")] if header["t"] == "error" else []


class SaysNoKnownEpoch(Fault):
    def out(self, header: Header, body: bytes) -> list[Message]:
        header.pop("known_epoch", None)
        return [(header, body)]


class SaysKnownEpochAtOnce(Fault):
    def out(self, header: Header, body: bytes) -> list[Message]:
        return [({"known_epoch": "unknown", **header} if header["t"] == "submit" else header, body)]


class TakesNewIds(Fault):
    """A job that is sent again has another id. What comes under it belongs to the first."""

    def __init__(self) -> None:
        self._sent: Counter[str] = Counter()
        self._first: dict[str, str] = {}
        self._newest: dict[str, str] = {}

    def out(self, header: Header, body: bytes) -> list[Message]:
        job = header.get("job")
        if header["t"] == "submit":
            self._sent[job] += 1
            self._newest[job] = job if self._sent[job] == 1 else f"{job[:40]}-{self._sent[job]}"
            self._first[self._newest[job]] = job
        if job in self._newest:
            header = {**header, "job": self._newest[job]}
        if header["t"] == "ack":
            header = {**header, "jobs": [self._newest.get(each, each) for each in header["jobs"]]}
        return [(header, body)]

    def into(self, header: Header, body: bytes) -> list[Message]:
        job = header.get("job")
        return [({**header, "job": self._first[job]} if job in self._first else header, body)]


class EncodesAgain(Fault):
    def __init__(self) -> None:
        self._sent: set[str] = set()

    def out(self, header: Header, body: bytes) -> list[Message]:
        if header["t"] == "submit" and header["job"] in self._sent:
            body = msgpack.packb({**msgpack.unpackb(body), "again": True})
        self._sent.add(header.get("job", ""))
        return [(header, body)]


class GivesAllTheTimeAgain(Fault):
    def __init__(self) -> None:
        self._first: dict[str, int] = {}

    def out(self, header: Header, body: bytes) -> list[Message]:
        if header["t"] == "submit":
            header = {**header, "timeout_ms": self._first.setdefault(header["job"], header["timeout_ms"])}
        return [(header, body)]


class AnswersNoPing(Fault):
    def out(self, header: Header, body: bytes) -> list[Message]:
        return [] if header["t"] == "pong" else [(header, body)]


class SendsNoPing(Fault):
    def out(self, header: Header, body: bytes) -> list[Message]:
        return [] if header["t"] == "ping" else [(header, body)]


class WaitsForSilentBrokers(Fault):
    """No broker is ever taken for dead."""

    def into(self, header: Header, body: bytes) -> list[Message]:
        return [({**header, "dead_ms": 600_000} if header["t"] == "welcome" else header, body)]


class IgnoresNoSession(Fault):
    def into(self, header: Header, body: bytes) -> list[Message]:
        return [] if header.get("reason") == "no_session" else [(header, body)]


class GreetsForEachNoSession(Fault):
    def replies(self, header: Header) -> list[Message]:
        return [({"t": "hello", "name": "again"}, b"")] if header.get("reason") == "no_session" else []


class AsksBeforeWelcome(Fault):
    def out(self, header: Header, body: bytes) -> list[Message]:
        early: list[Message] = [({"t": "request", "rid": "early", "method": "stats.get"}, b"")]
        return [(header, body), *(early if header["t"] == "hello" else [])]


class NamesItself(Fault):
    def socket(self, socket: zmq.Socket[bytes]) -> zmq.Socket[bytes]:
        socket.setsockopt(zmq.IDENTITY, f"client-{os.getpid()}".encode())
        return socket


class SaysNoBye(Fault):
    def out(self, header: Header, body: bytes) -> list[Message]:
        return [] if header["t"] == "bye" else [(header, body)]


class CancelsAtHome(Fault):
    def out(self, header: Header, body: bytes) -> list[Message]:
        return [] if header["t"] == "cancel" else [(header, body)]


class IgnoresLimits(Fault):
    def into(self, header: Header, body: bytes) -> list[Message]:
        header.pop("limits", None) if header["t"] == "welcome" else None
        limits = {"max_header_bytes": 65536, "max_body_bytes": 1 << 24, "max_timeout_ms": 1 << 40, "max_jobs": 1}
        limits |= {"max_jobs_per_flow": 1, "max_queued_bytes": 1}
        return [({**header, "limits": limits} if header["t"] == "welcome" else header, body)]


class KeepsTextOverResets(Fault):
    def into(self, header: Header, body: bytes) -> list[Message]:
        header.pop("reset", None)
        return [(header, body)]


class SeesNoGaps(Fault):
    """Chunks are as good as counted on, and results as good as of the same attempt."""

    def __init__(self) -> None:
        self._next: defaultdict[str, int] = defaultdict(int)
        self._attempt: dict[str, int] = {}

    def into(self, header: Header, body: bytes) -> list[Message]:
        job = header.get("job", "")
        if header["t"] == "chunk" and header["attempt"] >= self._attempt.get(job, 0):
            self._attempt[job] = header["attempt"]
            header = {**header, "seq": self._next[job]}
            self._next[job] += 1
        elif header["t"] == "result" and job in self._attempt:
            header = {**header, "chunks": self._next[job], "attempt": self._attempt[job]}
        return [(header, body)]


class GivesNoCredit(Fault):
    def out(self, header: Header, body: bytes) -> list[Message]:
        return [] if header["t"] == "credit" else [(header, body)]


class CallsToolsTwice(Fault):
    """Each call is a new one; its answer goes to where the question came from."""

    def __init__(self) -> None:
        self._asked: dict[int, int] = {}

    def into(self, header: Header, body: bytes) -> list[Message]:
        if header["t"] == "tool_call":
            number = len(self._asked)
            self._asked[number] = header["call"]
            header = {**header, "call": number}
        return [(header, body)]

    def out(self, header: Header, body: bytes) -> list[Message]:
        if header["t"] == "tool_result":
            header = {**header, "call": self._asked[header["call"]]}
        return [(header, body)]


class TriesAgainAtOnce(Fault):
    def into(self, header: Header, body: bytes) -> list[Message]:
        return [({**header, "retry_after_ms": 1} if "retry_after_ms" in header else header, body)]


class FightsForItsJobs(Fault):
    """Superseded, it submits again."""

    def into(self, header: Header, body: bytes) -> list[Message]:
        if header.get("reason") == "superseded":
            header = {**header, "code": "UNAVAILABLE", "reason": "adopting", "retryable": True}
        return [(header, body)]


class GuessesCodes(Fault):
    """An unknown code is taken for INTERNAL."""

    def into(self, header: Header, body: bytes) -> list[Message]:
        return [({**header, "code": "INTERNAL"} if header.get("code") == "A_CODE_OF_LATER" else header, body)]


class AsksUnderOneName(Fault):
    def out(self, header: Header, body: bytes) -> list[Message]:
        return [({**header, "rid": "the-only-one"} if "rid" in header else header, body)]


class KnowsOneBroker(Fault):
    def __init__(self) -> None:
        os.environ["DSPYMQ_BROKERS"] = os.environ["DSPYMQ_BROKERS"].split(",")[0]


class SetsFloats(Fault):
    def out(self, header: Header, body: bytes) -> list[Message]:
        if "timeout_ms" in header:
            header = {**header, "timeout_ms": float(header["timeout_ms"])}
        return [(header, body)]


FAULTS: Final[dict[str, tuple[type[Fault], str]]] = {
    "forgets acks": (ForgetsAcks, "R-5.19"),
    "answers errors": (AnswersErrors, "R-3.19"),
    "says no known_epoch": (SaysNoKnownEpoch, "R-8.3"),
    "says known_epoch at once": (SaysKnownEpochAtOnce, "R-8.3"),
    "takes new ids": (TakesNewIds, "R-5.10"),
    "encodes again": (EncodesAgain, "R-2.23"),
    "gives all the time again": (GivesAllTheTimeAgain, "R-2.24"),
    "answers no ping": (AnswersNoPing, "R-3.13"),
    "sends no ping": (SendsNoPing, "R-3.12"),
    "waits for silent brokers": (WaitsForSilentBrokers, "R-3.14"),
    "ignores no_session": (IgnoresNoSession, "R-3.9"),
    "greets for each no_session": (GreetsForEachNoSession, "R-3.9"),
    "asks before welcome": (AsksBeforeWelcome, "R-3.6"),
    "names itself": (NamesItself, "R-3.4"),
    "says no bye": (SaysNoBye, "R-3.20"),
    "cancels at home": (CancelsAtHome, "R-7.6"),
    "ignores limits": (IgnoresLimits, "R-2.16"),
    "keeps text over resets": (KeepsTextOverResets, "R-9.7"),
    "sees no gaps": (SeesNoGaps, "R-9.8"),
    "gives no credit": (GivesNoCredit, "R-9.10"),
    "calls tools twice": (CallsToolsTwice, "R-9.16"),
    "tries again at once": (TriesAgainAtOnce, "R-11.7"),
    "fights for its jobs": (FightsForItsJobs, "R-5.11"),
    "guesses codes": (GuessesCodes, "R-12.2"),
    "asks under one name": (AsksUnderOneName, "R-2.14"),
    "knows one broker": (KnowsOneBroker, "R-3.31"),
    "sets floats": (SetsFloats, "R-2.8"),
}
