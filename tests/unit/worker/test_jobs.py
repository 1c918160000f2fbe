"""One job, and many side by side, over an LM in memory."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import dspy
import msgpack
import pytest
from dspy.lm15 import AuthError, RateLimitError, ServerError
from hypothesis import given, settings
from hypothesis import strategies as st

from dspymq.worker.executor.context import CancelToken
from dspymq.worker.executor.jobs import Job, Watcher
from dspymq.worker.executor.specs import INLINE
from tests.unit.worker.kit import (
    FakeEngine,
    Threaded,
    Twice,
    chat,
    echo,
    job,
    last_line,
    outputs,
    run,
    runner,
)

QA = "question -> answer"


async def until(predicate: Callable[[], bool]) -> None:
    while not predicate():  # noqa: ASYNC110 - what changes has no event
        await asyncio.sleep(0.002)


def test_fifty_jobs_at_once_share_nothing() -> None:
    async def test() -> None:
        engines = {name: FakeEngine(lambda p, n=name: chat(answer=f"{n}: {last_line(p)}")) for name in ("default", "b")}
        made = runner(engines, {"a": Twice(), "s": Threaded()})
        jobs = [job("a" if n % 2 else "s", {"question": f"q{n}"}, profile="b" if n % 3 else None) for n in range(50)]
        found = await asyncio.gather(*(made.run(one, CancelToken()) for one in jobs))
        for n, outcome in enumerate(found):
            name = "b" if n % 3 else "default"
            calls = 2 if n % 2 else 1
            assert outputs(outcome) == {"answer": f"{name}: " * calls + f"q{n}"}
            assert outcome.usage.calls == calls
            assert {m: u.input_tokens for m, u in outcome.usage.models.items()} == {f"fake/{name}": 10 * calls}
        assert set(engines["b"].models) == {"fake/b"}

    run(test)


@pytest.mark.parametrize("program", ["async", "sync"])
@pytest.mark.parametrize("inputs", [{}, {"question": 5}, {"question": "q", "extra": 1}, {"qestion": "q"}, [], "x", 5])
def test_wrong_inputs_cause_no_lm_call(program: str, inputs: Any) -> None:
    async def test() -> None:
        engine = FakeEngine(echo)
        made = runner(engine, {"async": dspy.Predict(QA), "sync": Threaded()})
        outcome = await made.run(job(program, inputs), CancelToken())
        assert outcome.code == "INVALID_ARGUMENT"
        assert outcome.reason in ("invalid_inputs", "invalid_body")
        assert engine.calls == 0
        assert outcome.usage.calls == 0
        if isinstance(inputs, dict):
            assert outcome.details is not None
            assert outcome.details["fields"]

    run(test)


@pytest.mark.parametrize(
    ("one", "reason"),
    [
        (Job("qa", b"", 1000), "invalid_inputs"),
        (Job("qa", b"\xc1", 1000), "invalid_body"),
        (Job("qa", msgpack.packb([1]), 1000), "invalid_body"),
        (Job("qa", b"\x91" * 100_000, 1000), "invalid_body"),
        (job("nope", {}), "unknown_program"),
        (Job("qa", msgpack.packb({"inputs": {"question": "q"}}), 1000, "other-revision"), "unknown_revision"),
        (job("qa", {"question": "q"}, profile="nope"), "unknown_profile"),
        (job("qa", {"question": "q"}, spec={"signature": "a -> b"}), "invalid_body"),
        (job("qa", {"question": "q"}, tools=[{"name": "t", "parameters": {}}]), "invalid_tools"),
        (job("qa", {"question": "q"}, config={"api_key": "x"}), "invalid_body"),
        (job("qa", {"question": "q"}, config={"max_tokens": 1.5}), "invalid_body"),
        (job(INLINE, {"question": "q"}), "invalid_spec"),
        (job(INLINE, {}, spec={"signature": "a -> b: os.path"}), "invalid_spec"),
    ],
)
def test_refusals_before_any_lm_call(one: Job, reason: str) -> None:
    async def test() -> None:
        engine = FakeEngine(echo)
        outcome = await runner(engine, {"qa": dspy.Predict(QA)}).run(one, CancelToken())
        assert outcome.reason == reason
        assert engine.calls == 0

    run(test)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=60))
def test_any_body_becomes_an_outcome(body: bytes) -> None:
    async def test() -> None:
        outcome = await runner(FakeEngine(echo), {"qa": dspy.Predict(QA)}).run(Job("qa", body, 1000), CancelToken())
        assert outcome.code == "INVALID_ARGUMENT"

    run(test)


def test_an_inline_spec_runs_under_its_hash() -> None:
    async def test() -> None:
        engine = FakeEngine(lambda _: chat(name="Maria", age="34", cities='["Lisbon", "Porto"]'))
        made = runner(engine, {})
        spec = {"signature": "text -> name, age: int, cities: list[str]", "instructions": "Extract."}
        outcome = await made.run(job(INLINE, {"text": "t"}, spec=spec), CancelToken())
        assert outputs(outcome) == {"name": "Maria", "age": 34, "cities": ["Lisbon", "Porto"]}
        assert outcome.revision is not None
        assert len(outcome.revision) == 32

    run(test)


def test_a_jobs_config_is_its_own() -> None:
    async def test() -> None:
        seen: list[Any] = []

        class Noting(FakeEngine):
            async def complete(self, request: Any) -> Any:
                seen.append((request.config.temperature, request.config.max_tokens))
                return await super().complete(request)

        made = runner(Noting(echo), {"qa": dspy.Predict(QA)})
        config = {"temperature": 0.5, "max_tokens": 7.0}
        outputs(await made.run(job("qa", {"question": "q"}, config=config), CancelToken()))
        outputs(await made.run(job("qa", {"question": "q"}), CancelToken()))
        assert seen == [(0.5, 7), (None, None)]

    run(test)


@pytest.mark.parametrize("program", ["async", "sync"])
@pytest.mark.parametrize("cause", ["cancel", "fenced", "deadline"])
def test_a_stopped_job_closes_its_call_and_reports_its_usage(program: str, cause: Any) -> None:
    async def test() -> None:
        blocked = asyncio.Event()
        engine = FakeEngine(echo)

        class TwoThreaded(dspy.Module):  # type: ignore[misc]
            def __init__(self) -> None:
                super().__init__()
                self.inner = dspy.Predict(QA)

            def forward(self, question: str) -> Any:
                self.inner(question=question)
                loop.call_soon_threadsafe(block)
                try:
                    return self.inner(question="second")
                except Exception:
                    return self.inner(question="a program that does not give up")

        class TwoAsync(TwoThreaded):
            async def aforward(self, question: str) -> Any:
                await self.inner.acall(question=question)
                block()
                return await self.inner.acall(question="second")

        def block() -> None:
            engine.wait = blocked
            engine.entered.clear()

        loop = asyncio.get_running_loop()
        made = runner(engine, {"async": TwoAsync(), "sync": TwoThreaded()})
        token = CancelToken()
        running = asyncio.create_task(
            made.run(job(program, {"question": "q"}, timeout_ms=300 if cause == "deadline" else 10_000), token)
        )
        await until(lambda: engine.calls == 2)
        began = time.monotonic()
        if cause != "deadline":
            token.cancel(cause)
        outcome = await running
        assert time.monotonic() - began < 1
        expected = {"cancel": "cancelled", "fenced": "cancelled", "deadline": "deadline"}[cause]
        assert outcome.reason == expected
        assert engine.cancelled == 1
        assert engine.calls == 2
        assert outcome.usage.calls == 2
        assert outcome.usage.models["fake/default"].input_tokens == 10
        assert outcome.body == b""

    run(test)


def test_a_job_that_was_cancelled_before_it_began_never_starts() -> None:
    async def test() -> None:
        engine = FakeEngine(echo)
        started: list[str] = []
        token = CancelToken()
        token.cancel("cancel")
        made = runner(engine, {"qa": dspy.Predict(QA)})
        outcome = await made.run(job("qa", {"question": "q"}), token, None, Watcher(on_start=started.append))
        assert (outcome.reason, started, engine.calls) == ("cancelled", [], 0)

    run(test)


def test_what_a_job_left_running_calls_no_lm_after_it() -> None:
    async def test() -> None:
        engine = FakeEngine(echo)
        orphans: list[asyncio.Task[Any]] = []
        go = asyncio.Event()

        class Careless(dspy.Module):  # type: ignore[misc]
            def __init__(self) -> None:
                super().__init__()
                self.inner = dspy.Predict(QA)

            async def later(self) -> None:
                await go.wait()
                await self.inner.acall(question="late")

            async def aforward(self, question: str) -> Any:
                orphans.append(asyncio.create_task(self.later()))
                return dspy.Prediction(answer="done")

        made = runner(engine, {"p": Careless()})
        outputs(await made.run(job("p", {"question": "q"}), CancelToken()))
        go.set()
        await asyncio.wait(orphans)
        assert orphans[0].cancelled()
        assert engine.calls == 0

    run(test)


@pytest.mark.parametrize("program", ["async", "sync"])
def test_retries_are_bounded_by_the_time_left(program: str) -> None:
    async def test() -> None:
        def refuse(_: str) -> str:
            raise RateLimitError("slow down", retry_after=20, status=429)

        engine = FakeEngine(refuse)
        made = runner(engine, {"async": dspy.Predict(QA), "sync": Threaded()}, retries=3)
        began = time.monotonic()
        outcome = await made.run(job(program, {"question": "q"}, timeout_ms=5_000), CancelToken())
        assert time.monotonic() - began < 1, "a wait that the deadline cannot hold is not begun"
        assert (outcome.reason, outcome.retry_after_ms, engine.calls) == ("lm_rate_limited", 20_000, 1)

    run(test)


@pytest.mark.parametrize("program", ["async", "sync"])
def test_a_transient_failure_is_tried_again_and_a_final_one_is_not(program: str) -> None:
    async def test() -> None:
        def flaky(prompt: str) -> str:
            if engine.calls == 1:
                raise ServerError("oops", status=500)
            return echo(prompt)

        def deny(_: str) -> str:
            raise AuthError("no", status=401)

        engine = FakeEngine(flaky)
        modules = {"async": dspy.Predict(QA), "sync": Threaded()}
        outcome = await runner(engine, modules, retries=1).run(job(program, {"question": "q"}), CancelToken())
        assert outputs(outcome) == {"answer": "re: q"}
        assert outcome.usage.calls == 2
        denied = FakeEngine(deny)
        outcome = await runner(denied, modules, retries=1).run(job(program, {"question": "q"}), CancelToken())
        assert (outcome.reason, denied.calls) == ("lm_auth", 1)

    run(test)


def test_a_retrys_wait_is_cancellable() -> None:
    async def test() -> None:
        def fail(_: str) -> str:
            raise RateLimitError("wait", retry_after=20)

        engine = FakeEngine(fail)
        made = runner(engine, {"sync": Threaded()}, retries=3)
        token = CancelToken()
        running = asyncio.create_task(made.run(job("sync", {"question": "q"}, timeout_ms=60_000), token))
        await engine.entered.wait()
        await asyncio.sleep(0.05)
        token.cancel("cancel")
        assert (await asyncio.wait_for(running, 1)).reason == "cancelled"

    run(test)


def test_a_blocking_call_on_the_loop_is_refused_and_not_a_deadlock() -> None:
    async def test() -> None:
        class Blocking(dspy.Module):  # type: ignore[misc]
            def __init__(self) -> None:
                super().__init__()
                self.inner = dspy.Predict(QA)

            async def aforward(self, question: str) -> Any:
                return self.inner(question=question)

        outcome = await runner(FakeEngine(echo), {"p": Blocking()}).run(job("p", {"question": "q"}), CancelToken())
        assert outcome.reason == "program_error"
        assert "acall" in (outcome.message or "")

    run(test)


def test_threads_and_loops_of_a_program_reach_its_lm_and_count_for_it() -> None:
    async def test() -> None:
        class Spreading(dspy.Module):  # type: ignore[misc]
            def __init__(self) -> None:
                super().__init__()
                self.inner = dspy.Predict(QA)

            def forward(self, question: str) -> Any:
                examples = [dspy.Example(question=f"{question}{n}").with_inputs("question") for n in range(3)]
                found = self.inner.batch(examples, num_threads=2, disable_progress_bar=True)
                own_loop = asyncio.run(self.inner.acall(question=f"{question}L"))
                return dspy.Prediction(answer=", ".join(one.answer for one in [*found, own_loop]))

        made = runner(FakeEngine(echo), {"p": Spreading()})
        outcome = await made.run(job("p", {"question": "q"}), CancelToken())
        assert outputs(outcome) == {"answer": "re: q0, re: q1, re: q2, re: qL"}
        assert outcome.usage.calls == 4
        assert outcome.usage.models["fake/default"].input_tokens == 40

    run(test)


def test_an_lm_of_the_programs_own_is_counted_too() -> None:
    async def test() -> None:
        class Own(dspy.Module):  # type: ignore[misc]
            def __init__(self) -> None:
                super().__init__()
                self.inner = dspy.Predict(QA)
                engine = FakeEngine(echo)

                class Sync:
                    def complete(self, request: Any) -> Any:
                        return asyncio.run(engine.complete(request))

                self.inner.lm = dspy.LM("own/model", engine=Sync(), async_engine=engine, cache=False)

            def forward(self, question: str) -> Any:
                with dspy.track_usage():
                    self.inner(question=question)
                examples = [dspy.Example(question="q").with_inputs("question")] * 2
                return self.inner.batch(examples, num_threads=2, disable_progress_bar=True)[0]

        engine = FakeEngine(echo)
        outcome = await runner(engine, {"p": Own()}).run(job("p", {"question": "q"}), CancelToken())
        assert engine.calls == 0
        assert outcome.usage.calls == 3
        assert outcome.usage.models["own/model"].input_tokens == 30

    run(test)


def test_without_a_profile_the_program_is_told() -> None:
    async def test() -> None:
        made = runner({}, {"qa": dspy.Predict(QA)})
        outcome = await made.run(job("qa", {"question": "q"}), CancelToken())
        assert (outcome.code, outcome.reason) == ("FAILED_PRECONDITION", "lm_not_configured")

    run(test)
