"""The pool asks the broker for a defined program once, for all of its executors."""

from __future__ import annotations

from typing import Any

from dspymq.protocol import body as bodies
from dspymq.protocol.messages import Error, Reply, Request
from dspymq.worker.supervisor import definitions
from dspymq.worker.supervisor.definitions import Definitions
from dspymq.worker.supervisor.effects import ToBroker, ToExecutor

SPEC = {"signature": "a -> b"}
PARAMS = bodies.encode(params={"name": "sum", "revision": "r1"})
ANSWER = bodies.encode(result={"name": "sum", "revision": "r1", "spec": SPEC})


def ask(pool: Definitions, executor: str = "e1", rid: str = "x1", body: bytes = PARAMS) -> list[Any]:
    return list(pool.asked(executor, Request(rid=rid, method="programs.get"), body))


def asked(effects: list[Any]) -> str:
    (effect,) = effects
    assert isinstance(effect, ToBroker)
    assert isinstance(effect.message, Request)
    assert bodies.part(effect.body, "params") == {"name": "sum", "revision": "r1", "spec": True}
    return str(effect.message.rid)


def test_it_is_asked_once_and_told_to_all_that_wait_and_then_from_memory() -> None:
    pool = Definitions()
    rid = asked(ask(pool))
    assert ask(pool, "e2", "x7") == []
    told = pool.answered(Reply(rid=rid), ANSWER)
    assert told == [ToExecutor("e1", Reply(rid="x1"), ANSWER), ToExecutor("e2", Reply(rid="x7"), ANSWER)]
    assert ask(pool, "e3", "x9") == [ToExecutor("e3", Reply(rid="x9"), ANSWER)]


def test_what_the_broker_does_not_know_is_told_and_asked_again_the_next_time() -> None:
    pool = Definitions()
    rid = asked(ask(pool))
    (told,) = pool.refused(Error(code="NOT_FOUND", reason="unknown_revision", message="no", rid=rid))
    assert isinstance(told, ToExecutor)
    assert (told.message.reason, told.message.rid) == ("unknown_revision", "x1")  # type: ignore[attr-defined]
    rid = asked(ask(pool))
    (told,) = pool.answered(Reply(rid=rid), bodies.encode(result={"name": "sum", "spec": None}))
    assert isinstance(told, ToExecutor)
    assert told.message.reason == "unknown_revision"  # type: ignore[attr-defined]


def test_a_new_session_is_asked_again_and_the_answers_of_the_last_one_are_nothing() -> None:
    pool = Definitions()
    before = asked(ask(pool))
    after = asked(list(pool.session_up()))
    assert pool.answered(Reply(rid=before), ANSWER) == []
    assert pool.answered(Reply(rid=after), ANSWER) == [ToExecutor("e1", Reply(rid="x1"), ANSWER)]
    assert pool.session_up() == []


def test_an_executor_that_is_gone_waits_no_more() -> None:
    pool = Definitions()
    rid = asked(ask(pool))
    ask(pool, "e2", "x7")
    pool.gone("e1")
    assert pool.answered(Reply(rid=rid), ANSWER) == [ToExecutor("e2", Reply(rid="x7"), ANSWER)]
    asked(ask(Definitions()))
    pool.gone("e2")
    assert pool.session_up() == []


def test_what_is_kept_is_bounded(monkeypatch: Any) -> None:
    monkeypatch.setattr(definitions, "KEPT_BYTES", len(ANSWER) + 5)
    pool = Definitions()
    pool.answered(Reply(rid=asked(ask(pool))), ANSWER)
    other = bodies.encode(params={"name": "other", "revision": "r1"})
    (effect,) = ask(pool, body=other)
    pool.answered(Reply(rid=effect.message.rid), bodies.encode(result={"spec": {"signature": "c -> d"}}))
    asked(ask(pool))


def test_a_question_without_a_name_is_refused() -> None:
    (told,) = ask(Definitions(), body=bodies.encode(params={}))
    assert told.message.reason == "internal"
