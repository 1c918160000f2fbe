"""Writes transcripts of clients: what their broker sends and must be sent, and what their caller is told."""

from __future__ import annotations

from typing import Any, Self

from dspymq.protocol.errors import REASONS
from tests.conformance.vector_encodings import LIMITS, Fields
from tests.conformance.vector_steps import Side, Transcript, get, put

FAR = {"ping_ms": 10000, "dead_ms": 30000}
NEAR = {"ping_ms": 1500, "dead_ms": 4500}


def nearer(steps: list[Fields]) -> list[Fields]:
    """Where a connection is lost, pings are frequent: not everybody is told of it otherwise (R-3.18)."""
    if not any("lost" in step for step in steps[:-1]):
        return steps
    return [
        {**step, "send": {**step["send"], **NEAR}} if step.get("send", {}).items() >= FAR.items() else step
        for step in steps
    ]


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

    role = "client"

    def data(self) -> Fields:
        """As JSON."""
        found = super().data()
        return {**found, "steps": nearer(found["steps"])}

    def broker(self, name: str = "b") -> Broker:
        """A broker that the client has the address of; several are in the order of this."""
        self.peers[name] = "broker"
        return Broker(self, name)

    def one_shot_broker(self) -> Broker:
        """What the REQ socket of a one-shot client connects to."""
        self.peers["b"] = "one-shot-broker"
        return Broker(self, "b")

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
