"""Subscriptions on the client's core: each a list of events (SPEC section 10.4)."""

from __future__ import annotations

from typing import Any

from dspymq import events as ev
from dspymq.core import ClientCore, CoreConfig
from dspymq.protocol import body as bodies
from dspymq.protocol import client_messages as cm
from dspymq.protocol import messages as m
from dspymq.protocol.limits import Limits


class Rig:
    """A core, and what it said."""

    def __init__(self) -> None:
        self.core = ClientCore(CoreConfig(addresses=["tcp://one"]), lambda: 0.5)
        self.now_ms = 1_000

    def feed(self, event: ev.Input) -> list[ev.Output]:
        return self.core.handle(event, self.now_ms)

    def welcome(self, epoch: str = "e1") -> list[ev.Output]:
        welcome = m.Welcome(
            epoch=epoch,
            session="s",
            ping_ms=10_000,
            dead_ms=30_000,
            adopt_ms=0,
            orphan_ms=0,
            retain_ms=0,
            limits=Limits(),
        )
        return self.feed(ev.Received(welcome, b""))

    def subscribed(self, key: str = "k", sub: str = "e1") -> list[ev.Output]:
        return self.feed(ev.Received(m.Reply(rid=f"sub-{key}"), bodies.encode(result={"sub": sub})))

    def event(self, seq: int, sub: str = "e1", kind: str = "job.done") -> list[Any]:
        message = cm.Event(sub=sub, seq=seq, kind=kind, at_ms=5)
        outputs = self.feed(ev.Received(message, bodies.encode(event={"job": f"j{seq}"})))
        return [output.event for output in outputs if isinstance(output, ev.EventArrived)]


def requests(outputs: list[ev.Output]) -> list[str]:
    return [o.message.method for o in outputs if isinstance(o, ev.Send) and isinstance(o.message, m.Request)]


def live() -> Rig:
    rig = Rig()
    rig.feed(ev.Subscribe("k", ["job"]))
    assert requests(rig.welcome()) == ["events.subscribe"]
    assert rig.subscribed() == [ev.SubscriptionReady("k")]
    return rig


def test_events_arrive_in_order_without_a_gap() -> None:
    rig = live()
    assert [(e.kind, e.details, e.gap) for e in rig.event(0) + rig.event(1)] == [
        ("job.done", {"job": "j0"}, False),
        ("job.done", {"job": "j1"}, False),
    ]


def test_a_missing_seq_is_a_gap() -> None:
    rig = live()
    rig.event(0)
    assert rig.event(2)[0].gap
    assert not rig.event(3)[0].gap


def test_a_new_session_subscribes_again_and_the_next_event_has_a_gap() -> None:
    rig = live()
    rig.event(0)
    outputs = rig.feed(ev.LinkDown("gone"))
    while not any(isinstance(output, ev.Connect) for output in outputs):
        rig.now_ms += 10
        outputs = rig.feed(ev.Tick())
    assert requests(rig.welcome("e2")) == ["events.subscribe"]
    assert rig.subscribed(sub="e7") == []
    assert rig.event(1, sub="e1") == [], "the old session's name means nothing now"
    assert [e.gap for e in rig.event(0, sub="e7") + rig.event(1, sub="e7")] == [True, False]


def test_a_refusal_ends_it() -> None:
    rig = Rig()
    rig.feed(ev.Subscribe("k", ["nonsense"]))
    rig.welcome()
    error = m.Error(code="INVALID_ARGUMENT", reason="invalid_params", message="no kind", rid="sub-k")
    (ended,) = rig.feed(ev.Received(error, b""))
    assert isinstance(ended, ev.SubscriptionEnded)
    assert ended.error.reason == "invalid_params"


def test_unsubscribing_tells_the_broker_and_drops_what_still_comes() -> None:
    rig = live()
    assert requests(rig.feed(ev.Unsubscribe("k"))) == ["events.unsubscribe"]
    assert rig.event(0) == []
    assert not rig.core.is_busy()


def test_closing_the_client_ends_it() -> None:
    rig = live()
    ended = [o for o in rig.feed(ev.CloseClient()) if isinstance(o, ev.SubscriptionEnded)]
    assert [type(o.error).__name__ for o in ended] == ["ClientClosed"]
