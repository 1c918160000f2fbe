"""Writes transcripts: who connects, what is sent, and what must come (the format: protocol/vectors/README.md).

    t = Transcript("name", "R-5.5", "What it shows.")
    c, w = t.client(), t.worker()
    c.submit("j")
    w.dispatch("j")
    w.result("j")
    c.expect("result", job="j", code="OK")

Leases are captured under the name of their job, or `label`.
"""

from __future__ import annotations

from typing import Any, Final, Self

from dspymq.protocol.errors import REASONS
from tests.conformance.step_rules import annotated
from tests.conformance.vector_encodings import Fields
from tests.conformance.vector_forms import write

NO_BODY: Final = {"$absent": True}
NS: Final = "anonymous"


def put(name: str) -> Fields:
    """A pattern that takes any value and remembers it."""
    return {"$set": name}


def get(name: str) -> Fields:
    """What was remembered."""
    return {"$get": name}


def octets(data: bytes | dict[str, Any] | list[Any]) -> Fields:
    """A body that is given octet by octet."""
    return {"$hex": (data if isinstance(data, bytes) else write(data)).hex()}


def question(text: str) -> Fields:
    """The body that `submit` sends if there is no other."""
    return {"inputs": {"question": text}}


class Transcript:
    """One transcript. `settings` are those of the broker under test (SPEC section 13)."""

    role = "broker"

    def __init__(self, name: str, rules: str, about: str, *, fresh: bool = False, **settings: Any) -> None:
        self.name = name
        self.rules = rules.split()
        self.about = about
        self.fresh = fresh
        self.settings = settings
        self.peers: dict[str, str] = {}
        self.steps: list[Fields] = []

    def data(self) -> Fields:
        """As JSON."""
        found: Fields = {"name": self.name, "rules": self.rules, "about": self.about}
        if self.settings:
            found["settings"] = self.settings
        if self.fresh or (self.role == "broker" and _is_of_a_fresh_broker(self.steps)):
            found["fresh"] = True
        return {**found, "peers": self.peers, "steps": annotated(self.role, self.rules, self.steps)}

    def add(self, **step: Any) -> Self:
        """A step as it stands in the file."""
        self.steps.append({name: value for name, value in step.items() if value is not None})
        return self

    def wait(self, ms: int) -> Self:
        """Time passes; peers that are neither lost nor silent keep their sessions."""
        return self.add(wait_ms=ms)

    def peer(self, name: str, kind: str) -> Peer:
        """Declare a peer: client, worker, one-shot, or broker (towards a client or worker under test)."""
        self.peers[name] = kind
        return Peer(self, name)

    def client(self, name: str = "c", *, flow: str | None = None, hello: bool = True) -> Peer:
        """A client, with a session unless `hello` is false."""
        peer = self.peer(name, "client")
        if hello:
            peer.hello(flow or name)
        return peer

    def worker(self, name: str = "w", worker: str | None = None, *, slots: int | None = 1, **fields: Any) -> Peer:
        """A worker that has said `ready` with an empty page of held; slots None: only `hello`."""
        peer = self.peer(name, "worker")
        peer.hello(name, features=fields.pop("features", ["chunks"]))
        peer.worker = worker or name
        if slots is not None:
            keep = fields.pop("keep", [])
            peer.ready(slots, **{"held": [], **fields})
            peer.expect("synced", keep=keep)
        return peer

    def one_shot(self, name: str = "o") -> Peer:
        """A REQ socket."""
        return self.peer(name, "one-shot")


def _is_of_a_fresh_broker(steps: list[Fields]) -> bool:
    """Whether others at the broker would be noticed.

    With other workers there, a program that nobody has offered yet is unknown (R-11.8). And digests are those of the
    names as they stand, which runners change where a broker is shared.
    """
    offered: set[str] = set()
    for step in steps:
        sent = step.get("send", {})
        if sent.get("t") == "ready":
            offered |= {each["name"] for each in sent.get("programs", ())}
        if sent.get("t") == "submit" and sent["program"] not in offered:
            return True
    return _has_digests(steps)


def _has_digests(value: Any) -> bool:
    if isinstance(value, dict):
        return isinstance(value.get("digest"), str) or any(_has_digests(each) for each in value.values())
    return isinstance(value, list) and any(_has_digests(each) for each in value)


class Side:
    """Writes the steps of one peer."""

    def __init__(self, transcript: Transcript, name: str) -> None:
        self._transcript = transcript
        self.name = name

    def add(self, **step: Any) -> Self:
        """A step of this peer as it stands in the file."""
        self._transcript.add(peer=self.name, **step)
        return self

    def send(self, t: str, body: Any = None, **fields: Any) -> Self:
        """Send a message; fields that are None are left out."""
        header = {"t": t, **{name: value for name, value in fields.items() if value is not None}}
        return self.add(send=header, body=body)

    def expect(
        self,
        t: str,
        body: Any = None,
        *,
        within: int | None = None,
        after: int | None = None,
        rule: str | dict[str, str] | None = None,
        recommended: bool | None = None,
        **f: Any,
    ) -> Self:
        """The next message: these fields at least, and this body if one is given; `rule` as in step_rules.py."""
        times = {"within_ms": within, "not_before_ms": after}
        return self.add(expect={"t": t, **f}, body=body, **times, rule=rule, recommended=recommended)

    def refused(self, reason: str, **fields: Any) -> Self:
        """The next message is this `error`."""
        return self.expect("error", code=str(REASONS[reason].code), reason=reason, **fields)

    def any_order(self, *patterns: Fields) -> Self:
        """The next messages are these, in any order."""
        return self.add(expect_in_any_order=[{"expect": each} for each in patterns])

    def nothing(self, rule: str | None = None) -> Self:
        """Nothing has been sent to this peer."""
        return self.add(expect_nothing=True, rule=rule)

    def frames(self, *frames: bytes) -> Self:
        """Send these frames."""
        return self.add(send_frames=[frame.hex() for frame in frames])

    def lost(self) -> Self:
        """The connection is gone, without a word."""
        return self.add(lost=True)

    def silent(self) -> Self:
        """From now on nothing is sent by itself: neither `pong` nor `ping`."""
        return self.add(silent=True)


class Peer(Side):
    """Writes the steps of a client or worker of a broker under test."""

    def __init__(self, transcript: Transcript, name: str) -> None:
        super().__init__(transcript, name)
        self.worker = name

    # -- sessions -----------------------------------------------------------------------------------------------------

    def hello(self, name: str, features: list[str] | None = None) -> Self:
        """Get a session."""
        self.send("hello", name=name, features=["ack"] if features is None else features)
        return self.expect("welcome", epoch=put("epoch"))

    # -- clients ------------------------------------------------------------------------------------------------------

    def submit(self, job: str, program: str = "qa", body: Any = None, **fields: Any) -> Self:
        """Submit, with `{inputs: {question: job}}` unless a body is given."""
        fields = {"timeout_ms": 60000, **fields}
        return self.send("submit", question(job) if body is None else body, job=job, program=program, **fields)

    def done(self, job: str, code: str = "OK", **fields: Any) -> Self:
        """The next message is this job's result."""
        return self.expect("result", job=job, code=code, **fields)

    def ask(self, method: str, result: Any = None, rid: str = "r1", **params: Any) -> Self:
        """A request, and its reply."""
        self.send("request", {"params": params} if params else None, rid=rid, method=method)
        return self.expect("reply", None if result is None else {"result": result}, rid=rid)

    def ask_refused(self, method: str, reason: str, rid: str = "r1", **params: Any) -> Self:
        """A request that is refused."""
        self.send("request", {"params": params} if params else None, rid=rid, method=method)
        return self.refused(reason, rid=rid)

    # -- workers ------------------------------------------------------------------------------------------------------

    def ready(self, slots: int = 1, body: Any = None, **fields: Any) -> Self:
        """Say what is offered: qa at r1, in the lane `default`, unless fields say otherwise."""
        offers = [{"name": "qa", "revision": "r1"}]
        return self.send(
            "ready", body, **{"worker": self.worker, "slots": {"default": slots}, "programs": offers, **fields}
        )

    def dispatch(self, job: str, label: str | None = None, body: Any = None, **fields: Any) -> Self:
        """The next message is this job's dispatch; its lease and digest are remembered."""
        name = label or job
        fields = {"attempt": 1, "lease": put(f"{name}.lease"), "digest": put(f"{name}.digest"), "ns": NS, **fields}
        return self.expect("dispatch", body, job=job, **fields)

    def say(self, t: str, label: str, body: Any = None, attempt: int | None = 1, **fields: Any) -> Self:
        """Send a message under a lease."""
        return self.send(t, body, lease=get(f"{label}.lease"), attempt=attempt, **fields)

    def result(self, label: str, code: str = "OK", body: Any = None, *, acked: bool = True, **fields: Any) -> Self:
        """End an attempt; the acknowledgement must come."""
        if body is None and code == "OK":
            body = {"outputs": {"answer": label}}
        self.say("result", label, body, code=code, **fields)
        return self.acked(label) if acked else self

    def acked(self, *labels: str) -> Self:
        """The next message acknowledges these leases."""
        return self.expect("ack", leases=[get(f"{label}.lease") for label in labels])

    def released(self, label: str, *, started: bool, cause: str = "crash", **fields: Any) -> Self:
        """Give an attempt back."""
        return self.say("released", label, None, None, started=started, cause=cause, **fields)

    def held(self, label: str, job: str | None = None, attempt: int = 1, state: str = "running", **more: Any) -> Fields:
        """The entry of a lease in a page of held."""
        ids = {"lease": get(f"{label}.lease"), "ns": NS, "job": job or label, "attempt": attempt}
        return {**ids, "digest": get(f"{label}.digest"), "state": state, **more}

    def resync(self, slots: int, held: list[Fields], keep: list[str], **fields: Any) -> Self:
        """Report what is held; `keep` are the labels that go on."""
        self.ready(slots, held=held, **fields)
        return self.expect("synced", keep=[get(f"{label}.lease") for label in keep])
