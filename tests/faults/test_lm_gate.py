"""Providers that throttle, fail or are gone: calls wait for their turn or end at once, and nobody hammers them."""

from __future__ import annotations

import os
import signal
import statistics
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from dspymq import Client, exceptions
from tests.faults.system import PATIENCE_S, PROGRAMS, System
from tests.lm import ScriptedLM, expected_answer
from tests.processes import running_broker, running_pool, wait_until

PROFILES: dict[str, dict[str, Any]] = {
    "waits": {"num_retries": 0},
    "bounded": {"max_throttle_wait_s": 4},
    "settles": {},
    "gone": {"num_retries": 0, "circuit_open_s": 1},
    "fails": {"num_retries": 0, "circuit_failures": 3, "circuit_open_s": 0.5},
    "blinks": {},
    "stubborn": {"num_retries": 0, "circuit_failures": 0},
    "turns": {"max_throttle_wait_s": 4},
    "dies": {},
}
"""One for each test: what that does to its gate is nothing to the others."""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    config = tmp_path_factory.mktemp("lm_gate") / "pool.toml"
    with (
        ScriptedLM() as lm,
        running_broker() as broker,
        Client(broker.clients, name="caller") as client,
    ):
        lines = []
        for name, settings in PROFILES.items():
            table = {"model": "'openai/scripted'", "api_base": f"'{lm.url}'", **settings}
            lines += [f"[profiles.{name}]", *(f"{key} = {value}" for key, value in table.items())]
        config.write_text("\n".join(lines))
        arguments = ("--config", str(config))
        with running_pool(broker, *arguments, targets=[PROGRAMS], lm=lm, processes=2, concurrency=16) as pool:
            yield System(broker, pool, lm, client)


class Side:
    """What a test does with its own profile."""

    def __init__(self, system: System, profile: str) -> None:
        self.lm = system.lm
        self.pool = system.pool
        self.profile = profile
        self.client = system.client.with_options(profile=profile, timeout_s=PATIENCE_S)
        self.seen_before = self.lm.total()

    def ask(self, question: str = "q", timeout_s: float = PATIENCE_S) -> str:
        """One call, and its answer."""
        answer: str = self.client.with_options(timeout_s=timeout_s).call("qa", question=question).answer
        return answer

    def reason(self) -> str:
        """Why a call fails, "" if it does not."""
        try:
            self.ask()
        except exceptions.DspymqError as error:
            return error.reason
        return ""

    def submit(self, job: str, program: str = "qa", **options: Any) -> Any:
        """A call whose question is `job`."""
        return self.client.submit(program, {"question": job}, **options)

    def row(self) -> dict[str, Any]:
        """What the pool tells of this gate; {} while it is free."""
        return next((row for row in self.pool.executors() if row.get("lm", {}).get("profile") == self.profile), {})

    @property
    def requests(self) -> int:
        """Requests at the LM since this test began."""
        return self.lm.requests - self.seen_before.requests

    @property
    def errors(self) -> int:
        """Those that failed."""
        return self.lm.total().errors - self.seen_before.errors

    @property
    def started_at_s(self) -> list[float]:
        """When they came."""
        return self.lm.total().started_at_s[self.seen_before.requests :]

    def logged(self, event: str) -> int:
        """Lines of the pool's log with this event of this gate."""
        return self.pool.process.stderr().count(f'"message": "event={event} profile={self.profile}')


@pytest.fixture
def side(running: System, request: pytest.FixtureRequest) -> Iterator[Side]:
    lm = running.lm
    try:
        yield Side(running, request.param)
    finally:
        lm.unscript()
        lm.most_open = None
        lm.throttle(0)
        lm.release()


def profile(name: str) -> pytest.MarkDecorator:
    assert name in PROFILES
    return pytest.mark.parametrize("side", [name], indirect=True)


@profile("waits")
def test_retry_after_is_waited_for_by_all_and_costs_no_attempt(side: Side) -> None:
    side.lm.script(delay_ms=20)
    side.lm.throttle(2.0)
    end_s = time.monotonic() + 2.0
    questions = [f"q{number}" for number in range(32)]
    streamed: dict[str, str] = {}

    def read(question: str) -> None:
        streamed[question] = "".join(chunk.text for chunk in side.client.stream("qa", question=question))

    readers = [threading.Thread(target=read, args=(question,)) for question in questions[:8]]
    for reader in readers:
        reader.start()
    jobs = {
        question: side.submit(question, "sync_qa" if number % 2 else "qa")
        for number, question in enumerate(questions[8:])
    }
    for question, job in jobs.items():
        answer = job.result(PATIENCE_S)
        assert (answer.answer, answer.attempt) == (expected_answer("answer", question), 1)
    for reader in readers:
        reader.join(PATIENCE_S)
    assert streamed == {question: expected_answer("answer", question) for question in questions[:8]}
    early = sum(at < end_s - 0.01 for at in side.started_at_s)
    assert early <= 32, "nobody asks twice before the time that the provider named"
    assert side.errors == early
    assert side.requests == 32 + early
    assert side.row()["state"] == "throttled"
    assert side.logged("lm_throttled") == 1


@profile("bounded")
def test_what_cannot_wait_that_long_is_told_so_at_once(side: Side) -> None:
    side.lm.throttle(60)
    for timeout_s in (30.0, 3.0):
        began_s = time.monotonic()
        with pytest.raises(exceptions.ResourceExhausted) as caught:
            side.ask(timeout_s=timeout_s)
        assert time.monotonic() - began_s < 2.5
        assert caught.value.reason == "lm_rate_limited"
        assert caught.value.retryable
        assert 40_000 < (caught.value.retry_after_ms or 0) <= 60_500
    assert side.requests == 1, "the second one was not even sent"


@profile("settles")
def test_calls_settle_near_what_the_provider_takes_at_once(side: Side) -> None:
    calls, most = 240, 12
    lm = side.lm
    lm.script(delay_ms=150)
    lm.most_open = most
    jobs = [side.submit(f"q{number}", timeout_s=2 * PATIENCE_S) for number in range(calls)]
    answered = side.seen_before.ok
    lm.wait_for(lambda: lm.total().ok - answered >= calls // 3, PATIENCE_S)
    errors, opens = side.errors, []
    while lm.total().ok - answered < calls - 32:
        opens.append(lm.open)
        time.sleep(0.02)
    late_errors = side.errors - errors
    for job in jobs:
        assert job.result(2 * PATIENCE_S).attempt == 1
    assert side.errors <= calls // 5
    assert late_errors <= calls // 20
    assert max(opens) <= most + 4
    assert statistics.mean(opens) >= most / 2


@profile("gone")
def test_a_provider_that_is_gone_is_left_alone_and_found_when_it_is_back(side: Side) -> None:
    assert side.ask("before") == expected_answer("answer", "before")
    with side.lm.down():
        assert [side.reason() for _ in range(5)] == ["lm_unavailable"] * 5
        took_s, probes = [], 0
        for _ in range(30):
            began_s = time.monotonic()
            try:
                side.ask()
            except exceptions.Unavailable as error:
                assert error.retryable
                if error.reason == "lm_circuit_open":
                    took_s.append(time.monotonic() - began_s)
                    assert 0 < (error.retry_after_ms or 0) <= 4_000
                else:
                    probes += 1
        assert statistics.median(took_s) < 0.1
        assert probes <= 3
        row = wait_until(side.row, what="the circuit to be shown")
        assert row["state"] == "open"
        assert "TransportError" in row["problem"]
    wait_until(lambda: side.reason() == "", what="an answer of the provider that is back")
    wait_until(lambda: not side.row(), what="the circuit to be shown no more")
    for number in range(10):
        side.ask(f"after {number}")
    assert side.logged("lm_circuit_open") == side.logged("lm_circuit_closed") == 1


@profile("fails")
def test_one_probe_a_period_reaches_a_provider_that_fails(side: Side) -> None:
    lm = side.lm
    lm.script(status=503)
    assert [side.reason() for _ in range(3)] == ["lm_unavailable"] * 3
    opened_s = side.started_at_s[2]
    stop = threading.Event()
    reasons: list[str] = []

    def call() -> None:
        while not stop.is_set():
            reasons.append(side.reason())

    callers = [threading.Thread(target=call) for _ in range(4)]
    for caller in callers:
        caller.start()
    try:
        # Each probe that fails doubles the time: one after 0.5 s, one after 1.5 s, the next not before 3.5 s.
        lm.wait_for(lambda: side.errors >= 5, PATIENCE_S)
        first_s, second_s = (at - opened_s for at in side.started_at_s[3:])
        lm.unscript()
        wait_until(lambda: reasons[-1] == "", what="the circuit to close")
    finally:
        stop.set()
        for caller in callers:
            caller.join(PATIENCE_S)
    assert first_s > 0.45
    assert second_s - first_s > 0.9
    assert side.errors == 5
    assert set(reasons) == {"lm_circuit_open", "lm_unavailable", ""}
    assert reasons.count("lm_unavailable") == 2


@profile("blinks")
def test_a_moment_in_which_every_connection_is_reset_fails_no_call(side: Side) -> None:
    """More calls fail at once than open a circuit; one of them finds out for all that it is over."""
    lm = side.lm
    lm.script(hang=True)
    jobs = [side.submit(f"q{number}") for number in range(20)]
    lm.wait_for(lambda: lm.open == 20)
    lm.unscript()
    with lm.down():
        pass
    for job in jobs:
        assert job.result(PATIENCE_S).attempt == 1
    assert side.requests == 40
    assert side.logged("lm_circuit_open") == side.logged("lm_circuit_closed") == 1


@profile("stubborn")
def test_circuits_can_be_turned_off(side: Side) -> None:
    with side.lm.down():
        assert {side.reason() for _ in range(20)} == {"lm_unavailable"}
        assert not side.row()


@profile("turns")
def test_a_call_that_waits_for_its_turn_can_be_cancelled_and_has_its_deadline(side: Side) -> None:
    lm = side.lm
    lm.most_open = 1
    holder = side.submit("#job=holder #hang")
    lm.wait_open("holder")
    bounded = side.submit("#job=bounded")
    wait_until(side.row, what="the throttle to be known")
    cancelled = side.submit("#job=cancelled")
    ended = side.submit("#job=ended", "sync_qa", timeout_s=2.5)
    wait_until(lambda: side.pool.row()["in_flight"].get("default") == 4, what="all calls to be dispatched")
    began_s = time.monotonic()
    cancelled.cancel()
    with pytest.raises(exceptions.Cancelled):
        cancelled.result(PATIENCE_S)
    assert time.monotonic() - began_s < 2
    with pytest.raises(exceptions.DeadlineExceeded):
        ended.result(PATIENCE_S)
    with pytest.raises(exceptions.ResourceExhausted) as caught:
        bounded.result(PATIENCE_S)
    assert caught.value.reason == "lm_rate_limited"
    assert side.requests <= 6, "once the limit is found nobody asks while the one place is taken"
    lm.release("holder")
    assert holder.result(PATIENCE_S).attempt == 1
    assert side.ask("after") == expected_answer("answer", "after")


@profile("dies")
def test_an_executor_that_dies_gives_back_what_it_was_granted(side: Side) -> None:
    lm = side.lm
    lm.most_open = 1
    first = side.submit("#job=first #hang")
    lm.wait_open("first")
    second = side.submit("#job=second #hang")
    wait_until(side.row, what="the throttle to be known")
    lm.release("first")
    first.result(PATIENCE_S)
    lm.wait_open("second")
    third = side.submit("#job=third")
    lm.wait_for(lambda: lm.job("third").errors)
    lm.script("second", hang=False)
    for pid in side.pool.executor_pids():
        os.kill(pid, signal.SIGKILL)
    assert third.result(PATIENCE_S).answer == expected_answer("answer", "#job=third")
    assert second.result(PATIENCE_S).attempt == 2
