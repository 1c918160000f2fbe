"""What a transcript asks of a driver is seen from its steps, and said by docs/conformance-drivers.md."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dspymq.conformance.features import CLIENT, WORKER, needed
from dspymq.conformance.isolation import isolated
from dspymq.conformance.vectors import RULES, transcripts
from tests.conformance import make_rules

CONTRACT = (Path(__file__).resolve().parents[3] / "docs" / "conformance-drivers.md").read_text("utf-8")
CLIENTS = {each["name"]: each for each in transcripts("client")}
WORKERS = {each["name"]: each for each in transcripts("worker")}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("call", {"call"}),
        ("close", {"call", "close"}),
        ("lost-connection", {"call", "resume"}),
        ("no-session", {"call", "resume"}),
        ("failover", {"call", "failover"}),
        ("refused-at-the-door", {"call"}),
        ("options", {"call", "options", "stream"}),
        ("stream", {"call", "stream"}),
        ("credit", {"call", "stream", "read"}),
        ("own-pings", {"call", "stream"}),
        ("tools", {"call", "tools"}),
        ("attach", {"attach"}),
        ("requests", {"ask"}),
        ("one-shot", {"one-shot"}),
        ("cancel-ok", {"call", "cancel"}),
    ],
)
def test_what_transcripts_of_clients_need(name: str, words: set[str]) -> None:
    assert needed("client", CLIENTS[name]) == words


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("an-attempt", set()),
        ("results-are-kept", {"resume"}),
        ("stopped-and-continued", {"resume", "stop"}),
        ("stream", {"chunks"}),
        ("tools", {"tools"}),
        ("order-of-an-attempt", {"progress"}),
        ("crash", {"die", "isolate"}),
        ("define", {"inline"}),
        ("defined-at-the-broker", {"inline"}),
    ],
)
def test_what_transcripts_of_workers_need(name: str, words: set[str]) -> None:
    assert needed("worker", WORKERS[name]) == words


def test_every_word_is_needed_somewhere_and_explained() -> None:
    for role, known, made in (("client", CLIENT, CLIENTS), ("worker", WORKER, WORKERS)):
        used = frozenset().union(*(needed(role, each) for each in made.values()))
        assert used == known
    for word in CLIENT | WORKER:
        assert f"| `{word}` |" in CONTRACT


def test_every_tell_is_explained() -> None:
    told = {step["tell"] for each in CLIENTS.values() for step in each["steps"] if "tell" in step}
    assert told == set(re.findall(r'"tell": "(\w+)"', CONTRACT))


def test_brokers_need_no_words() -> None:
    assert {needed("broker", each) for each in transcripts("broker")} == {frozenset()}


def test_rules_are_those_of_the_specification() -> None:
    assert RULES.read_text("utf-8") == make_rules.text(), "run python -m tests.conformance.make_rules"


def test_names_differ_where_a_broker_is_shared() -> None:
    step = {"peer": "c", "send": {"t": "submit", "job": "j", "program": "qa", "want": ["chunks"]}, "body": {"a": "j"}}
    ready = {"t": "ready", "worker": "w", "programs": [{"name": "qa", "revision": "r1"}]}
    described = {"programs": {"qa": {"description": "qa"}}}
    steps = [
        {"peer": "w", "send": ready, "body": described},
        step,
        {"peer": "c", "expect": {"t": "result", "job": "j", "code": "OK"}, "body": {"$get": "j"}},
    ]
    made = isolated({"name": "x", "steps": steps}, "~1")["steps"]
    assert made[0]["send"] == {"t": "ready", "worker": "w~1", "programs": [{"name": "qa~1", "revision": "r1"}]}
    assert made[0]["body"]["programs"].keys() == {"qa~1"}
    assert made[1]["send"] == {"t": "submit", "job": "j~1", "program": "qa~1", "want": ["chunks"]}
    assert made[1]["body"] == {"a": "j~1"}
    assert made[2] == {"peer": "c", "expect": {"t": "result", "job": "j~1", "code": "OK"}, "body": {"$get": "j"}}
