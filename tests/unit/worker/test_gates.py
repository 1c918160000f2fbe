"""LM calls of jobs through the executor's side of a gate, with the supervisor's side at the other end of the pipe."""

import asyncio
from collections.abc import Callable
from typing import Any

import dspy
import pytest
from dspy.lm15 import AuthError, RateLimitError, ServerError, TransportError

from dspymq.protocol.messages import Error, Reply
from dspymq.worker import gate_messages as g
from dspymq.worker.executor.context import CancelToken
from dspymq.worker.executor.gates import Gates
from dspymq.worker.executor.jobs import JobRunner, Outcome
from dspymq.worker.executor.requests import Requests
from dspymq.worker.profiles import LMProfile
from dspymq.worker.supervisor.context import Context, PoolSettings
from dspymq.worker.supervisor.effects import ToExecutor
from dspymq.worker.supervisor.lm_gate_steps import State
from dspymq.worker.supervisor.lm_gates import LMGates, gate_settings
from tests.unit.worker.kit import (
    FakeEngine,
    Threaded,
    echo,
    job,
    last_line,
    outputs,
    profile_lm,
    run,
    runner,
    streamed,
    text_of,
)

QA = "question -> answer"


class OwnLoop(dspy.Module):  # type: ignore[misc]
    """Calls its LM on an event loop of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = dspy.Predict(QA)

    def forward(self, question: str) -> Any:
        return asyncio.run(self.inner.acall(question=question))


class StreamsToItself(dspy.Module):  # type: ignore[misc]
    """Reads its own LM's stream, as dspy.streamify lets it."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = dspy.Predict(QA)

    async def aforward(self, question: str) -> Any:
        program = dspy.streamify(self.inner, is_async_program=True)
        async for value in program(question=question):
            if isinstance(value, dspy.Prediction):
                return value
        raise AssertionError("no prediction")


MODULES = {"async": dspy.Predict(QA), "sync": Threaded(), "loop": OwnLoop(), "streams": StreamsToItself()}


class Rig:
    """One executor's gates and its supervisor's, joined by a pipe that keeps the order and takes its time."""

    def __init__(self, engine: FakeEngine, *, retries: int = 0, **settings: Any) -> None:
        self.loop = asyncio.get_running_loop()
        profile = LMProfile(name="default", model="fake/default", **settings)
        self.context = Context(
            PoolSettings(worker="w", name="p", lm_gates=gate_settings([profile])), random=lambda: 0.0
        )
        self.supervisor = LMGates(self.context)
        self.requests = Requests(self)  # type: ignore[arg-type]
        self.gates = Gates([profile], self.requests)
        self.sent: list[str] = []
        self.reports: list[str] = []
        self.supervise(lambda: self.supervisor.joined("e1"))
        self.runner: JobRunner = runner(engine, MODULES)
        self.runner._lms.adopt("default", profile_lm(engine, retries=retries, gate=self.gates.get("default")))

    @property
    def gate(self) -> Any:
        return self.supervisor._gates["default"]

    @property
    def mode(self) -> str:
        return self.gates._gates["default"]._mode

    def send(self, message: Any, body: bytes = b"") -> None:
        """The executor's end of the pipe."""
        self.sent.append(message.method)
        if message.method == g.REPORT:
            self.reports.append(g.read(body, g.Report).outcome)
        self.loop.call_soon(self.supervise, lambda: self.supervisor.request("e1", message, body))

    def supervise(self, event: Any) -> None:
        self.context.now_ms = round(self.loop.time() * 1000)
        self.context.effects = []
        event()
        if self.context.alarm.at_ms is not None:
            due_s, self.context.alarm.at_ms = self.context.alarm.at_ms / 1000, None
            self.loop.call_at(due_s + 0.001, self.supervise, self.supervisor.look)
        for effect in self.context.effects:
            if isinstance(effect, ToExecutor):
                self.loop.call_soon(self.received, effect.message, effect.body)

    def step(self, event: Any) -> None:
        """Something else happens to the gate."""
        self.supervise(lambda: self.supervisor._do(self.gate, event(self.context.now_ms)))

    def received(self, message: Any, body: bytes) -> None:
        if isinstance(message, Reply):
            self.requests.answered(message, body)
        elif isinstance(message, Error):
            self.requests.refused(str(message.rid), message)
        else:
            self.gates.news(body)

    async def call(
        self,
        program: str = "async",
        timeout_ms: int = 10_000,
        token: CancelToken | None = None,
        question: str = "q",
    ) -> Outcome:
        one = job(program, {"question": question}, timeout_ms=timeout_ms)
        return await self.runner.run(one, token or CancelToken())

    async def settled(self) -> None:
        """Nothing is on the pipe any more."""
        for _ in range(5):
            await asyncio.sleep(0)


async def until(happens: Callable[[], Any]) -> None:
    """Let the loop turn until this is so."""
    while not happens():  # noqa: ASYNC110 -- of what runs on this loop nothing tells
        await asyncio.sleep(0.001)


def failing(*errors: Exception) -> FakeEngine:
    """An engine that raises these, one a call, and then answers."""
    left = list(errors)

    def answer(prompt: str) -> str:
        if left:
            raise left.pop(0)
        return echo(prompt)

    return FakeEngine(answer)


def test_while_nothing_is_wrong_nothing_is_said() -> None:
    async def test() -> None:
        rig = Rig(failing(AuthError("no", status=401)))
        assert (await rig.call()).reason == "lm_auth"
        for program in MODULES:
            outputs(await rig.call(program))
        assert rig.sent == []

    run(test)


@pytest.mark.parametrize("program", MODULES)
def test_a_throttle_is_waited_for_and_costs_no_retry(program: str) -> None:
    async def test() -> None:
        engine = failing(RateLimitError("slow", status=429, retry_after=0.2), RateLimitError("slow", status=429))
        rig = Rig(engine, retries=0)
        began_s = rig.loop.time()
        outcome = await rig.call(program)
        assert outputs(outcome) == {"answer": "re: q"}
        assert outcome.usage.calls == engine.calls == 3
        assert rig.loop.time() - began_s >= 0.2
        assert (outcome.timings.lm_ms or 0) < 150, "waiting is no time at the LM"
        await rig.settled()
        assert rig.reports == ["throttled", "census", "throttled", "ok"]
        assert rig.gate._in_flight() == 0

    run(test)


def test_a_stream_waits_too_and_is_whole() -> None:
    async def test() -> None:
        rig = Rig(failing(RateLimitError("slow", status=429, retry_after=0.1)))
        outcome, chunks = await streamed(rig.runner, job("async", {"question": "q"}))
        assert text_of(chunks) == outputs(outcome) == {"answer": "re: q"}

    run(test)


@pytest.mark.parametrize("program", MODULES)
def test_an_open_circuit_ends_calls_at_once(program: str) -> None:
    async def test() -> None:
        engine = failing(*[TransportError("connection refused")] * 3)
        rig = Rig(engine, circuit_failures=3, circuit_open_s=30)
        for _ in range(3):
            assert (await rig.call("async")).reason == "lm_unavailable"
        await rig.settled()
        assert rig.gate.state is State.OPEN
        outcome = await rig.call(program)
        assert (outcome.code, outcome.reason, outcome.retryable) == ("UNAVAILABLE", "lm_circuit_open", True)
        assert 29_000 < (outcome.retry_after_ms or 0) <= 30_000
        assert "the last time with TransportError" in (outcome.message or "")
        assert engine.calls == 3

    run(test)


def test_a_retry_of_what_failed_before_it_opened_keeps_its_own_error() -> None:
    async def test() -> None:
        rig = Rig(failing(*[ServerError("oops", status=503)] * 9), retries=1, circuit_failures=3, circuit_open_s=30)
        ends = await asyncio.gather(*(rig.call() for _ in range(3)))
        assert {end.reason for end in ends} == {"lm_unavailable"}
        assert sum(end.usage.calls for end in ends) == 4, "one of them found out for all that it is still so"
        assert (await rig.call()).reason == "lm_circuit_open"

    run(test)


def test_after_a_failure_one_success_is_reported() -> None:
    async def test() -> None:
        rig = Rig(failing(ServerError("oops", status=500)), retries=1)
        outputs(await rig.call())
        await rig.settled()
        for _ in range(3):
            outputs(await rig.call())
        assert rig.reports == ["failed", "ok"]
        assert rig.mode == "free"
        assert rig.gate._failures == 0

    run(test)


@pytest.mark.parametrize("program", MODULES)
@pytest.mark.parametrize("cause", ["cancel", "deadline"])
def test_a_call_that_waits_ends_with_its_job(program: str, cause: Any) -> None:
    async def test() -> None:
        engine = failing(RateLimitError("slow", status=429, retry_after=5))
        rig = Rig(engine)
        first = asyncio.create_task(rig.call(timeout_ms=10_000))
        await engine.entered.wait()
        await rig.settled()
        assert rig.mode == "ask"
        token = CancelToken()
        # A pause that is over before the deadline, and a deadline that is over before the pause.
        rig.gate._paused_until_ms = rig.context.now_ms + 200
        waiting = asyncio.create_task(rig.call(program, 600 if cause == "deadline" else 10_000, token))
        rig.gate._limit.value = 0
        await until(lambda: len(rig.gate._row) == 2)
        if cause == "cancel":
            token.cancel("cancel")
        outcome = await asyncio.wait_for(waiting, 2)
        assert outcome.reason == ("cancelled" if cause == "cancel" else "deadline")
        await rig.settled()
        assert len(rig.gate._row) == 1
        assert engine.calls == 1
        first.cancel()

    run(test)


def test_a_leave_that_crosses_a_cancel_is_given_back() -> None:
    async def test() -> None:
        engine = failing(RateLimitError("slow", status=429, retry_after=5))
        rig = Rig(engine)
        token = CancelToken()
        calling = asyncio.create_task(rig.call(token=token))
        await until(lambda: rig.gate._row)
        rig.gate._paused_until_ms = 0
        rig.step(lambda now_ms: rig.gate.look(now_ms))
        # The reply comes in the loop's next turn, before the task that waits for it, and after the cancel.
        rig.loop.call_soon(token.cancel, "cancel")
        assert (await calling).reason == "cancelled"
        await rig.settled()
        assert rig.gate._in_flight() == 0
        assert rig.reports[-1] == "neutral"
        assert engine.calls == 1

    run(test)


def test_a_call_that_is_throttled_again_is_before_those_that_came_after_it() -> None:
    async def test() -> None:
        asked: list[str] = []

        def answer(prompt: str) -> str:
            asked.append(last_line(prompt))
            if len(asked) <= 2:
                raise RateLimitError("slow", status=429, retry_after=0.1)
            return echo(prompt)

        rig = Rig(FakeEngine(answer))
        first = asyncio.create_task(rig.call(question="first"))
        await until(lambda: rig.gate._row)
        second = asyncio.create_task(rig.call(question="second"))
        await until(lambda: len(rig.gate._row) == 2)
        for outcome in await asyncio.gather(first, second):
            outputs(outcome)
        assert asked == ["first", "first", "first", "second"]

    run(test)


def test_what_is_open_is_told_when_the_gate_closes_and_ends_are_counted() -> None:
    async def test() -> None:
        hold = asyncio.Event()
        engine = FakeEngine(echo, wait=hold)
        rig = Rig(engine)
        calls = [asyncio.create_task(rig.call()) for _ in range(4)]
        await until(lambda: engine.calls == 4)
        throttle = g.Report(profile="default", outcome="throttled", serial=0, free=0)
        rig.step(lambda now_ms: rig.gate.report("e2", throttle, now_ms))
        await rig.settled()
        assert rig.gate._peers["e1"].free == 4
        assert rig.gate._limit.value == 2, "half of four here and one there"
        hold.set()
        for outcome in await asyncio.gather(*calls):
            outputs(outcome)
        await rig.settled()
        assert rig.gate._in_flight() == 0

    run(test)


def test_a_throttle_that_cannot_be_waited_for_is_the_jobs_end() -> None:
    async def test() -> None:
        rig = Rig(failing(RateLimitError("slow", status=429, retry_after=8)), max_throttle_wait_s=7)
        outcome = await rig.call()
        assert (outcome.code, outcome.reason, outcome.retry_after_ms) == (
            "RESOURCE_EXHAUSTED",
            "lm_rate_limited",
            8_000,
        )
        assert outcome.usage.calls == 1
        second = await rig.call()
        assert (second.reason, second.usage.calls) == ("lm_rate_limited", 0)
        assert 7_000 < (second.retry_after_ms or 0) <= 8_000

    run(test)


def test_a_time_beyond_the_bound_is_not_waited_for_though_the_gate_would_ask_again_before() -> None:
    async def test() -> None:
        rig = Rig(failing(RateLimitError("slow", status=429, retry_after=3_600)), max_throttle_wait_s=600)
        outcome = await asyncio.wait_for(rig.call(timeout_ms=10_000_000), 5)
        assert (outcome.reason, outcome.retry_after_ms) == ("lm_rate_limited", 3_600_000)

    run(test)


def test_the_bound_is_on_all_the_waiting_of_a_call() -> None:
    async def test() -> None:
        engine = failing(*[RateLimitError("slow", status=429, retry_after=0.4)] * 50)
        rig = Rig(engine, max_throttle_wait_s=1, circuit_failures=0)
        outcome = await rig.call()
        assert outcome.reason == "lm_rate_limited"
        assert 2 <= engine.calls <= 3

    run(test)
