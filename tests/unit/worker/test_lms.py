"""Profiles to LMs over a real HTTP server: what reaches the provider, what its failures become, what a stop does."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import dspy
import pytest

from dspymq.worker.executor.context import CancelToken
from dspymq.worker.executor.failures import JobError
from dspymq.worker.executor.jobs import JobRunner
from dspymq.worker.executor.lms import LMSet, check_profile, make_adapter
from dspymq.worker.executor.programs import make_program
from dspymq.worker.profiles import LMProfile, ProfileError, local_profile
from tests.lm import GARBAGE, ScriptedLM, expected_answer
from tests.unit.worker.kit import Threaded, job, outputs, run, streamed, text_of

PROGRAMS = {"async": dspy.Predict("question -> answer"), "sync": Threaded()}


def profile(lm: ScriptedLM, **settings: Any) -> LMProfile:
    return LMProfile(
        **{"name": "default", "model": "openai/gpt-4o-mini", "api_base": lm.url, "api_key": "key-1234", **settings}
    )


@asynccontextmanager
async def runner_for(*profiles: LMProfile, local_url: Any = None) -> AsyncIterator[JobRunner]:
    lms = LMSet({one.name: one for one in profiles}, asyncio.get_running_loop(), local_url)
    programs = {name: make_program(name, module) for name, module in PROGRAMS.items()}
    yield JobRunner(programs, lms, concurrency=64, max_body_bytes=1 << 20)


@pytest.mark.parametrize("adapter", ["chat", "json", None])
@pytest.mark.parametrize("program", ["async", "sync"])
def test_an_answer_with_usage_and_cost(scripted_lm: ScriptedLM, program: str, adapter: Any) -> None:
    async def test() -> None:
        async with runner_for(profile(scripted_lm, adapter=adapter)) as made:
            outcome = await made.run(job(program, {"question": "hello"}), CancelToken())
            assert outputs(outcome) == {"answer": expected_answer("answer", "hello")}
            used = outcome.usage.models["openai/gpt-4o-mini"]
            assert used.input_tokens > 0
            assert used.output_tokens > 0
            assert used.cost is not None
            assert used.cost > 0
            assert scripted_lm.requests == outcome.usage.calls == 1

    run(test)


@pytest.mark.parametrize("chunk", [1, 3, 500])
@pytest.mark.parametrize("adapter", ["chat", "json"])
@pytest.mark.parametrize("program", ["async", "sync"])
def test_a_stream_over_http(scripted_lm: ScriptedLM, program: str, adapter: Any, chunk: int) -> None:
    async def test() -> None:
        async with runner_for(profile(scripted_lm, adapter=adapter)) as made:
            outcome, chunks = await streamed(made, job(program, {"question": f"#chunk={chunk} #tokens=30 hi"}))
            assert text_of(chunks) == outputs(outcome)
            assert outcome.usage.models["openai/gpt-4o-mini"].output_tokens > 30
            assert outcome.usage.calls == 1

    run(test)


@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize("program", ["async", "sync"])
@pytest.mark.parametrize("cause", ["cancel", "deadline"])
def test_a_stop_closes_the_request_at_the_provider(
    scripted_lm: ScriptedLM, program: str, cause: Any, streams: bool
) -> None:
    async def test() -> None:
        async with runner_for(profile(scripted_lm)) as made:
            hang = "#hang_after=2" if streams else "#hang"
            one = job(program, {"question": f"#job=j {hang}"}, timeout_ms=500 if cause == "deadline" else 30_000)
            token = CancelToken()
            if streams:
                from dspymq.worker.executor.streams import StreamBuffer

                running = asyncio.create_task(made.run(one, token, StreamBuffer()))
            else:
                running = asyncio.create_task(made.run(one, token))
            await asyncio.to_thread(scripted_lm.wait_open, "j")
            stopped_s = time.monotonic()
            if cause == "cancel":
                token.cancel("cancel")
            outcome = await running
            closed_s = await asyncio.to_thread(scripted_lm.wait_disconnected, "j")
            assert closed_s - stopped_s < (1 if cause == "cancel" else 1.5)
            assert outcome.code == ("CANCELLED" if cause == "cancel" else "DEADLINE_EXCEEDED")
            assert outcome.usage.calls == 1
            assert outcome.timings.lm_ms is not None

    run(test)


@pytest.mark.parametrize(
    ("directives", "reason", "requests"),
    [
        ("#status=401", "lm_auth", 1),
        ("#status=429 #code=insufficient_quota", "lm_billing", 1),
        ("#status=429 #retry_after=40", "lm_rate_limited", 1),
        ("#status=503", "lm_unavailable", 2),
        ("#status=404", "lm_invalid_request", 1),
        ("#status=400 #code=context_length_exceeded", "context_window_exceeded", 1),
        ("#drop", "lm_unavailable", 2),
        ("#garbage", "lm_output_unparsable", 2),
    ],
)
@pytest.mark.parametrize("program", ["async", "sync"])
def test_failures(scripted_lm: ScriptedLM, program: str, directives: str, reason: str, requests: int) -> None:
    async def test() -> None:
        async with runner_for(profile(scripted_lm)) as made:
            outcome = await made.run(job(program, {"question": f"q {directives}"}), CancelToken())
            assert outcome.reason == reason
            assert scripted_lm.requests == requests == outcome.usage.calls
            assert "To fix" not in (outcome.message or "")
            if reason == "lm_rate_limited":
                assert (outcome.retryable, outcome.retry_after_ms) == (True, 40_000)
            if reason == "lm_output_unparsable":
                assert outcome.details is not None
                assert outcome.details["lm_response"] == GARBAGE

    run(test)


def test_a_silent_provider_is_a_timeout(scripted_lm: ScriptedLM) -> None:
    async def test() -> None:
        async with runner_for(profile(scripted_lm, read_timeout_s=0.2, num_retries=0)) as made:
            outcome = await made.run(job("async", {"question": "#hang"}), CancelToken())
            assert (outcome.code, outcome.reason, outcome.retryable) == ("UNAVAILABLE", "lm_timeout", True)

    run(test)


def test_nobody_at_the_address_is_unavailable() -> None:
    async def test() -> None:
        one = LMProfile(name="default", model="openai/m", api_base="http://127.0.0.1:1/v1", num_retries=0)
        async with runner_for(one) as made:
            outcome = await made.run(job("async", {"question": "q"}), CancelToken())
            assert (outcome.code, outcome.reason) == ("UNAVAILABLE", "lm_unavailable")

    run(test)


def test_no_key_and_no_address_is_not_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)

    async def test() -> None:
        async with runner_for(LMProfile(name="default", model="openai/m")) as made:
            outcome = await made.run(job("async", {"question": "q"}), CancelToken())
            assert (outcome.code, outcome.reason) == ("FAILED_PRECONDITION", "lm_not_configured")

    run(test)


def test_more_requests_at_once_than_a_default_pool_has_connections(scripted_lm: ScriptedLM) -> None:
    async def test() -> None:
        async with runner_for(profile(scripted_lm)) as made:
            jobs = [job("async", {"question": f"n{n} #delay_ms=400"}) for n in range(150)]
            found = await asyncio.gather(*(made.run(one, CancelToken()) for one in jobs))
            assert len({outputs(outcome)["answer"] for outcome in found}) == 150
            assert scripted_lm.peak_open > 100

    run(test)


def test_the_embedded_models_address_is_asked_for_lazily_and_again_after_a_failure(scripted_lm: ScriptedLM) -> None:
    async def test() -> None:
        asked: list[bool] = []

        async def local_url(again: bool) -> str:
            asked.append(again)
            return scripted_lm.url if again else "http://127.0.0.1:1/v1"

        async with runner_for(local_profile("default"), local_url=local_url) as made:
            made._lms._made.clear()
            from dspymq.worker.executor import lms

            adapter, lms.make_adapter = lms.make_adapter, lambda _: dspy.JSONAdapter()
            try:
                assert asked == []
                for _ in range(2):
                    outputs(await made.run(job("async", {"question": "q"}), CancelToken()))
                assert asked == [False, True]
            finally:
                lms.make_adapter = adapter

    run(test)


def test_a_refusal_of_the_supervisor_becomes_the_jobs(scripted_lm: ScriptedLM) -> None:
    async def test() -> None:
        async def local_url(again: bool) -> str:
            raise JobError("lm_not_configured", "the embedded model is not installed")

        async with runner_for(local_profile("default"), local_url=local_url) as made:
            from dspymq.worker.executor import lms

            adapter, lms.make_adapter = lms.make_adapter, lambda _: dspy.JSONAdapter()
            try:
                outcome = await made.run(job("async", {"question": "q"}), CancelToken())
            finally:
                lms.make_adapter = adapter
            assert (outcome.reason, outcome.message) == ("lm_not_configured", "the embedded model is not installed")

    run(test)


def test_profiles_are_checked_without_a_connection() -> None:
    check_profile(LMProfile(name="a", model="openai/gpt-4o-mini"))
    check_profile(LMProfile(name="a", model="anthropic/claude-x"))
    check_profile(local_profile())
    with pytest.raises(ProfileError, match=r"profiles\.a"):
        check_profile(LMProfile(name="a", model="openai/o3", temperature=0.3))
    with pytest.raises(ProfileError, match=r"profiles\.a"):
        check_profile(LMProfile(name="a", model="no_such_provider/x"))


def test_adapters() -> None:
    assert make_adapter(LMProfile(name="a", model="m")) is None
    assert type(make_adapter(LMProfile(name="a", model="m", adapter="chat"))) is dspy.ChatAdapter
    assert type(make_adapter(LMProfile(name="a", model="m", adapter="json"))) is dspy.JSONAdapter
