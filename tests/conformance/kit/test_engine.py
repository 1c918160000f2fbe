"""The engine against a driver that plays what a test says: what is blamed, and what is only advice."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest

from dspymq.conformance.engine import Engine, Failure
from dspymq.conformance.runs import judged
from dspymq.conformance.verdicts import Outcome, Verdict

HELLO = {"t": "hello", "name": "x", "features": ["ack"]}


class Played:
    """A client that says these messages, one at each turn, and answers pings."""

    def __init__(self, *messages: dict[str, Any]) -> None:
        self._messages = list(messages)
        self._now_ms = 0.0
        self.afterwards: list[dict[str, Any]] = []
        """What it says when it is asked something."""

    def now_ms(self) -> float:
        return self._now_ms

    def connect(self, name: str, kind: str) -> None:
        pass

    def lose(self, name: str) -> None:
        pass

    def other(self, step: dict[str, Any]) -> bool:
        return True

    def send(self, name: str, frames: list[bytes]) -> None:
        header = msgpack.unpackb(frames[1])
        if header["t"] == "ping":
            self._messages += [*self.afterwards, {"t": "pong", "n": header["n"]}]

    def receive(self, wait_ms: int) -> list[tuple[str, list[bytes]]]:
        self._now_ms += 10
        if not self._messages:
            return []
        return [("b", [b"DJP1", msgpack.packb(self._messages.pop(0))])]


def play(driver: Played, *steps: dict[str, Any], rules: str = "R-1.1 R-1.2") -> None:
    transcript = {"name": "x", "rules": rules.split(), "peers": {"b": "broker"}, "steps": list(steps)}
    Engine(driver, transcript, "client", patience_ms=200).run()


def expect(rule: Any = None, **fields: Any) -> dict[str, Any]:
    return {"peer": "b", "expect": fields, **({} if rule is None else {"rule": rule})}


@pytest.mark.parametrize(
    ("rule", "came", "blamed"),
    [
        (None, {"t": "submit", "job": "k"}, "R-1.1"),
        ("R-5.1", {"t": "submit", "job": "k"}, "R-5.1"),
        ({"job": "R-5.2"}, {"t": "submit", "job": "k"}, "R-5.2"),
        ({"": "R-5.3"}, {"t": "submit", "job": "k"}, "R-1.1"),
        ({"": "R-5.3"}, {"t": "attach", "job": "j"}, "R-5.3"),
        ({"": "R-5.3", "t": "R-5.4"}, {"t": "attach", "job": "j"}, "R-5.4"),
        ({"": "R-5.3", "t": "R-5.4"}, None, "R-5.3"),
    ],
)
def test_what_a_failing_step_breaks(rule: Any, came: dict[str, Any] | None, blamed: str) -> None:
    driver = Played(*([] if came is None else [came]))
    with pytest.raises(Failure) as caught:
        play(driver, expect(rule, t="submit", job="j"))
    assert (caught.value.rule, caught.value.step) == (blamed, 0)


def test_advice_comes_after_all_that_is_demanded() -> None:
    advised = {**expect("R-2.1", t="ack", jobs=["j"]), "recommended": True}
    with pytest.raises(Failure) as caught:
        play(Played(), advised, {"peer": "b", "expect_nothing": True})
    assert caught.value.recommended
    with pytest.raises(Failure) as caught:
        play(Played(), advised, expect("R-2.2", t="bye"))
    assert (caught.value.rule, caught.value.recommended) == ("R-2.2", False)


def test_whoever_says_no_ack_is_not_asked_for_one() -> None:
    silent = {"t": "hello", "name": "x"}
    play(Played(silent), expect(t="hello"), expect(t="ack"))
    with pytest.raises(Failure):
        play(Played(HELLO), expect(t="hello"), expect(t="ack"))


def test_an_answer_to_an_error_is_blamed_wherever_it_comes() -> None:
    with pytest.raises(Failure) as caught:
        play(Played({"t": "error", "code": "UNKNOWN", "reason": "x"}), expect(t="submit"))
    assert caught.value.rule == "R-3.19"


def test_something_between_hello_and_welcome() -> None:
    welcome = {"peer": "b", "send": {"t": "welcome", "ping_ms": 1000}}
    with pytest.raises(Failure) as caught:
        play(Played(HELLO, {"t": "submit", "job": "j"}), expect(t="hello"), welcome)
    assert caught.value.rule == "R-3.6"


def test_something_more_at_the_end() -> None:
    welcome = {"peer": "b", "send": {"t": "welcome", "ping_ms": 1000}}
    play(Played(HELLO), expect(t="hello"), welcome)
    driver = Played(HELLO)
    driver.afterwards = [{"t": "bye"}]
    with pytest.raises(Failure) as caught:
        play(driver, expect(t="hello"), welcome)
    assert caught.value.step is None


def test_a_ping_that_keeps_alive_does_not_hide_that_a_peer_was_heard() -> None:
    """The answer came, and then it was time for the next one, all in one turn."""
    driver = Slow({"t": "welcome", "epoch": "e", "session": "s", "features": [], "ping_ms": 100, "dead_ms": 300})
    transcript: dict[str, Any] = {"name": "x", "rules": ["R-1.1"], "peers": {"w": "worker"}}
    transcript["steps"] = [
        {"peer": "w", "send": HELLO},
        {"peer": "w", "expect": {"t": "welcome"}},
        {"peer": "w", "send": {"t": "ready", "worker": "w", "slots": {}, "programs": []}},
        {"tell": "anything"},
    ]
    engine = Engine(driver, transcript, patience_ms=2_000)
    engine.run()
    assert engine.stood_still_ms >= 60


class Slow(Played):
    """A broker to whose pings each answer takes 80 ms."""

    def send(self, name: str, frames: list[bytes]) -> None:
        header = msgpack.unpackb(frames[1])
        if header["t"] == "ping":
            self._messages.append({"t": "pong", "n": header["n"]})
        elif header["t"] == "request":
            self._messages.append({"t": "reply", "rid": header["rid"]})

    def receive(self, wait_ms: int) -> list[tuple[str, list[bytes]]]:
        self._now_ms += 80
        if not self._messages:
            return []
        return [("w", [b"DJP1", msgpack.packb(self._messages.pop(0))])]


def outcome(verdict: Verdict, stood_still_ms: float) -> Outcome:
    return Outcome("x", "", ["R-1.1"], verdict, stood_still_ms=stood_still_ms)


def test_what_fails_while_the_kit_stands_still_is_run_again() -> None:
    runs = [outcome(Verdict.FAIL, 200), outcome(Verdict.FAIL, 130), outcome(Verdict.PASS, 300)]
    assert judged(lambda: runs.pop(0)).verdict is Verdict.PASS
    runs = [outcome(Verdict.FAIL, 20), outcome(Verdict.PASS, 0)]
    assert judged(lambda: runs.pop(0)).verdict is Verdict.FAIL
    assert judged(lambda: outcome(Verdict.FAIL, 999)).verdict is Verdict.FAIL, "in the end"
