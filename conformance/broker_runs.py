"""Runs of the kit against a broker: on one that runs already, or on those that it starts by a template."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgpack

from dspymq.conformance.broker_peers import PeersOfBroker
from dspymq.conformance.brokers import Control, Running, Started
from dspymq.conformance.command import CommandFault
from dspymq.conformance.isolation import isolated
from dspymq.conformance.matching import Mismatch, frame
from dspymq.conformance.runs import CannotRun, Choice, Report, Transcript, at_once, judged, outcome_of, play, reported
from dspymq.conformance.vectors import invalid
from dspymq.conformance.verdicts import Outcome, Verdict
from dspymq.protocol import TAG

NEEDS_START: Final = "needs a broker that the kit starts: --start"


@dataclass(frozen=True)
class Broker:
    """The broker under test: `addresses` of one that runs (clients, workers), a `template` that starts one, or both."""

    addresses: tuple[str, str] | None = None
    template: str | None = None


def run_broker(tested: Broker, choice: Choice, report: Report = lambda _: None) -> list[Outcome]:
    """Test a broker, `choice.jobs` transcripts at once. Raises CannotRun, NothingToRun.

    Transcripts that ask for settings, for an end of the broker, or for one that nobody has met, get one of their own;
    all others share one, each under names of its own.
    """
    chosen = choice.of("broker", cases())
    shared = _shared(tested)
    try:
        _see_that_it_answers(shared, choice)
        runs = at_once(choice.jobs, lambda each: judged(lambda: _run(tested, shared, each, choice)), chosen)
        return list(reported(runs, report))
    finally:
        shared.close()


def cases() -> list[Transcript]:
    """The frames of invalid.json, as far as they can be chosen like transcripts: they have `frames` for steps."""
    return [{**case, "name": f"invalid/{case['name']}", "about": _about(case)} for case in invalid()]


def _about(case: dict[str, Any]) -> str:
    answer = case["answer"]
    return "These frames are not answered." if answer is None else f"These frames are refused: {answer['reason']}."


def _shared(tested: Broker) -> Control:
    if tested.addresses is not None:
        return Running(*tested.addresses)
    assert tested.template is not None, "a broker runs, or can be started"
    try:
        return Started(tested.template, {})
    except CommandFault as fault:
        raise CannotRun(str(fault)) from None


def _see_that_it_answers(control: Control, choice: Choice) -> None:
    peers = PeersOfBroker(control)
    try:
        for kind in ("client", "worker"):
            peers.connect(kind, kind)
            _ask(peers, kind, {"t": "hello", "name": "conformance"}, choice)
            peers.say_bye()
    except AssertionError as problem:
        where = control.clients if kind == "client" else control.workers
        raise CannotRun(f"no broker answers hello of a {kind} at {where}: {problem}") from None
    finally:
        peers.close()


def _run(tested: Broker, shared: Control, transcript: Transcript, choice: Choice) -> Outcome:
    if not needs_its_own(transcript):
        if "frames" in transcript:
            return _run_case(shared, transcript, choice)
        return _play(shared, isolated(transcript, f"~{secrets.token_hex(4)}"), choice, says_bye=True)
    if tested.template is None:
        return outcome_of(transcript, Verdict.NOT_SUPPORTED, NEEDS_START)
    try:
        control = Started(tested.template, transcript.get("settings", {}))
    except CommandFault as fault:
        return outcome_of(transcript, Verdict.FAIL, str(fault))
    try:
        return _play(control, transcript, choice, says_bye=False)
    finally:
        control.close()


def needs_its_own(transcript: Transcript) -> bool:
    """Whether no other may have met its broker, or it must be stopped, or started in another way."""
    steps: Sequence[dict[str, Any]] = transcript.get("steps", ())
    ends = any("stop_broker" in step or "restart_broker" in step for step in steps)
    return ends or bool(transcript.get("settings")) or bool(transcript.get("fresh"))


def _play(control: Control, transcript: Transcript, choice: Choice, *, says_bye: bool) -> Outcome:
    peers = PeersOfBroker(control)
    try:
        outcome = play(peers, transcript, "broker", choice)
        if says_bye:
            peers.say_bye()
        return outcome
    finally:
        peers.close()


# -- invalid.json -----------------------------------------------------------------------------------------------------


def _run_case(control: Control, case: Transcript, choice: Choice) -> Outcome:
    begun = time.monotonic()
    outcome = outcome_of(case, Verdict.PASS)
    peers = PeersOfBroker(control)
    try:
        for endpoint in case["endpoints"]:
            _try_case(peers, case, endpoint, choice)
        peers.say_bye()
    except AssertionError as problem:
        outcome.verdict, outcome.text, outcome.wanted = Verdict.FAIL, str(problem), case["answer"]
        outcome.blamed = (problem.rule if isinstance(problem, Mismatch) else None) or case["rules"][0]
    except CommandFault as fault:
        outcome.verdict, outcome.text, outcome.blamed = Verdict.FAIL, str(fault), "R-2.10"
    finally:
        peers.close()
    outcome.took_ms = (time.monotonic() - begun) * 1000
    return outcome


def _try_case(peers: PeersOfBroker, case: Transcript, endpoint: str, choice: Choice) -> None:
    """Once before hello, once in a session; and somebody else is not disturbed."""
    kind = endpoint.removesuffix("s")
    bystander, peer = f"bystander-{endpoint}", f"peer-{endpoint}"
    for name in (bystander, peer):
        peers.connect(name, kind)
    hello = {"t": "hello", "name": "conformance"}
    _ask(peers, bystander, hello, choice)
    for place in ("before hello", "in a session"):
        peers.send(peer, [frame(each) for each in case["frames"]])
        if case["answer"] is not None:
            answer = _next(peers, peer, choice, f"{place}, these frames are not answered")
            found = {name: answer.get(name) for name in ("t", *case["answer"])}
            wanted = {"t": "error", **case["answer"]}
            if found != wanted:
                raise Mismatch(f"{place}, the answer at the {endpoint}' endpoint is {answer}, not {wanted}")
        answer = _ask(peers, peer, hello, choice)
        if answer["t"] != "welcome":
            raise Mismatch(f"{place}: then hello is answered by {answer}")
    if _ask(peers, bystander, {"t": "ping", "n": 7}, choice) != {"t": "pong", "n": 7}:
        raise Mismatch("somebody else is disturbed", rule="R-2.10")


def _ask(peers: PeersOfBroker, name: str, header: dict[str, Any], choice: Choice) -> dict[str, Any]:
    peers.send(name, [TAG, msgpack.packb(header)])
    rule = "R-3.13" if header["t"] == "ping" else "R-3.7"
    return _next(peers, name, choice, f"{header['t']} is not answered", rule)


def _next(peers: PeersOfBroker, name: str, choice: Choice, otherwise: str, rule: str | None = None) -> dict[str, Any]:
    """The next message for a peer, pings aside."""
    end = peers.now_ms() + choice.patience_ms
    while peers.now_ms() < end:
        for came, frames in peers.receive(20):
            header: dict[str, Any] = msgpack.unpackb(frames[1])
            if header["t"] == "ping":
                peers.send(came, [TAG, msgpack.packb({"t": "pong", "n": header.get("n", 0)})])
            elif came == name:
                return header
    raise Mismatch(f"{otherwise} within {choice.patience_ms / 1000:g} s", rule=rule)
