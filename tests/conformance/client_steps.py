"""Writes transcripts of clients: what their broker sends and must be sent, and what their caller is told."""

from __future__ import annotations

from typing import Any, Self

from dspymq.protocol.errors import REASONS
from tests.conformance.vector_encodings import LIMITS
from tests.conformance.vector_steps import Side, Transcript, get, put

FAR = {"ping_ms": 10000, "dead_ms": 30000}


class Broker(Side):
    """Writes the steps of the broker that the client meets."""

    def welcome(self, epoch: str = "epoch-1", *, limits: dict[str, int] | None = None, **times: int) -> Self:
        """A session begins: hello comes, and is answered."""
        self.expect("hello")
        bounds = {**FAR, "adopt_ms": 5000, "orphan_ms": 60000, "retain_ms": 600000, **times}
        limits = {**LIMITS, **(limits or {})}
        return self.send("welcome", epoch=epoch, session="s1", features=["ack"], **bounds, limits=limits)

    def submitted(self, call: str, **fields: Any) -> Self:
        """The submit of a call comes; its job and its octets are remembered."""
        fields = {"job": put(f"{call}.job"), "program": "qa", **fields}
        return self.expect("submit", put(f"{call}.body"), **fields)

    def again(self, call: str, **fields: Any) -> Self:
        """The same submit comes again."""
        return self.expect("submit", get(f"{call}.body"), job=get(f"{call}.job"), program="qa", **fields)

    def answers(self, call: str, code: str = "OK", *, acked: bool = True, **fields: Any) -> Self:
        """The result of a call, which must be acknowledged."""
        body = {"outputs": {"answer": "4"}} if code == "OK" else None
        self.send("result", body, **{"job": get(f"{call}.job"), "attempt": 1, "code": code, **fields})
        return self.expect("ack", jobs=[get(f"{call}.job")]) if acked else self

    def refuses(self, call: str, reason: str, **fields: Any) -> Self:
        """An error that names the call's job."""
        entry = REASONS[reason]
        fields = {"retryable": entry.retryable, **fields}
        return self.send("error", code=str(entry.code), reason=reason, job=get(f"{call}.job"), **fields)


class ClientTranscript(Transcript):
    """A transcript with a client under test."""

    def broker(self, name: str = "b") -> Broker:
        """A broker that the client has the address of; several are in the order of this."""
        self.peers[name] = "broker"
        return Broker(self, name)

    def call(self, call: str = "j", **fields: Any) -> None:
        """Tell the client to submit a job of the program qa."""
        self.add(tell="submit", call=call, program="qa", inputs={"question": "2+2?"}, **fields)

    def tell(self, what: str, call: str | None = None, **fields: Any) -> None:
        """Tell the client something else."""
        self.add(tell=what, call=call, **fields)

    def outcome(self, call: str = "j", code: str = "OK", **fields: Any) -> None:
        """What the caller of the client is told at the end."""
        if code == "OK":
            fields = {"outputs": {"answer": "4"}, **fields}
        self.add(outcome=call, code=code, **fields)

    def text(self, call: str, **fields: str) -> None:
        """The text of a stream as it stands."""
        self.add(text=call, fields=fields)
