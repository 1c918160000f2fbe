"""Writes transcripts of workers: what their broker sends and must be sent."""

from __future__ import annotations

from typing import Any, Self

from tests.conformance.client_steps import FAR, nearer
from tests.conformance.vector_encodings import DIGEST, LIMITS, Fields
from tests.conformance.vector_steps import NO_BODY, Side, Transcript, get, put

STORY = "Once upon a time there was a queue that never grew."
PROGRAMS = ("echo", "nap", "story", "fail", "die", "large", "consult", "steps")


class Broker(Side):
    """Writes the steps of the broker that the worker meets."""

    epoch = ""
    leases = 0

    def welcome(self, *, limits: Fields | None = None, **times: int) -> Self:
        """hello comes, and is answered."""
        self.expect("hello", features={"$has": ["chunks"]})
        bounds = {**FAR, "adopt_ms": 5000, "orphan_ms": 60000, "retain_ms": 600000, **times}
        limits = {**LIMITS, **(limits or {})}
        features = ["held", "isolate", "attach"]
        return self.send("welcome", epoch=self.epoch, session="s", features=features, **bounds, limits=limits)

    def reports(self, *held: Fields) -> Self:
        """The worker's first ready, with these leases."""
        return self.expect("ready", worker=put("worker"), held=list(held), more=False)

    def begins(self, **welcome: Any) -> Self:
        """A session of a worker that holds nothing."""
        self.welcome(**welcome)
        offers = [{"$contains": {"name": name, "revision": put(f"{name}.revision")}} for name in PROGRAMS]
        self.expect("ready", slots={"default": 2}, programs={"$all": offers}, held=[], more=False, worker=put("worker"))
        return self.synced()

    def synced(self, *labels: str) -> Self:
        """The page is answered: these leases go on."""
        return self.send("synced", keep=[self.lease(label) for label in labels])

    def lease(self, label: str) -> str:
        """The text of a lease."""
        return f"{self.epoch}-{label}"

    def dispatch(self, label: str, program: str, inputs: Any, **fields: Any) -> Self:
        """Dispatch a job."""
        body = fields.pop("body", {"inputs": inputs})
        ids = {"lease": self.lease(label), "ns": "anonymous", "job": f"job-{label}", "digest": DIGEST}
        revision = get(f"{program}.revision")
        return self.send(
            "dispatch",
            body,
            **{**ids, "attempt": 1, "program": program, "revision": revision, "timeout_ms": 60000, **fields},
        )

    def held(self, label: str, **fields: Any) -> Fields:
        """How the worker reports a lease."""
        ids = {"lease": self.lease(label), "ns": "anonymous", "job": f"job-{label}", "digest": DIGEST}
        return {**ids, "attempt": 1, "state": "running", **fields}

    def say(self, t: str, label: str, body: Any = None, **fields: Any) -> Self:
        """A message about a lease."""
        return self.send(t, body, lease=self.lease(label), **fields)

    def result(self, label: str, body: Any = None, *, ack: bool = True, **fields: Any) -> Self:
        """The result of a lease comes, and is acknowledged."""
        self.expect("result", body, **{"lease": self.lease(label), "attempt": 1, "code": "OK", **fields})
        return self.send("ack", leases=[self.lease(label)]) if ack else self

    def cancelled(self, label: str) -> Self:
        """Stop an attempt, and take its result."""
        self.say("cancel", label, cause="cancel", grace_ms=5000)
        return self.result(label, NO_BODY, code="CANCELLED", reason="cancelled")

    def chunk(self, label: str, **fields: Any) -> Self:
        """A chunk of a lease comes."""
        return self.expect("chunk", lease=self.lease(label), **{"attempt": 1, **fields})

    def stream(self, label: str, text: str = STORY, at_most: int | None = None, **fields: Any) -> Self:
        """Chunks come, numbered on, until the result; with those before they make this text."""
        step: Fields = {"expect_stream": {"lease": self.lease(label), "fields": {"answer": text}}}
        if at_most is not None:
            step["expect_stream"]["at_most"] = at_most
        self.add(**step)
        return self.result(label, {"outputs": {"answer": text}}, chunks=get(f"{self.lease(label)}.chunks"), **fields)


class WorkerTranscript(Transcript):
    """A transcript with a worker under test."""

    role = "worker"

    def broker(self) -> Broker:
        """The broker."""
        self.peers["b"] = "broker"
        made = Broker(self, "b")
        made.epoch = self.name
        return made

    def data(self) -> Fields:
        """As JSON. Of `ready` and `hello` no more is asked than it needs, so that workers may offer less."""
        found = super().data()
        sent = [step["send"] for step in self.steps if step.get("send", {}).get("t") == "dispatch"]
        used = {each["program"] for each in sent} | {"echo"}
        streams = "story" in used
        steps = [_lessened(step, used, streams=streams) for step in found["steps"]]
        return {**found, "steps": nearer(steps)}


def _lessened(step: Fields, used: set[str], *, streams: bool) -> Fields:
    match step.get("expect"):
        case {"t": "ready", "programs": {"$all": offers}} as expect:
            offers = [each for each in offers if each["$contains"]["name"] in used]
            return {**step, "expect": {**expect, "programs": {"$all": offers}}}
        case {"t": "hello", "features": _} as expect if not streams:
            return {**step, "expect": {name: value for name, value in expect.items() if name != "features"}}
    return step


def new(name: str, rules: str, about: str) -> tuple[WorkerTranscript, Broker]:
    t = WorkerTranscript(name, rules, about)
    return t, t.broker()
