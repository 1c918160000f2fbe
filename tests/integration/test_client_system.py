"""The client against a real broker, a real pool and real DSPy programs on a scripted LM."""

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dspymq import AsyncClient, Client, exceptions
from tests.integration.client_router import until
from tests.integration.client_system import System, free_address

Main = Callable[[AsyncClient], Awaitable[None]]


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    made = System(tmp_path_factory.mktemp("system"))
    try:
        with Client(made.address) as client:
            assert client.call("nap", ms=0).pid
        yield made
    finally:
        made.close()


def run(system: System, main: Main) -> None:
    async def go() -> None:
        async with AsyncClient(system.address) as client:
            await main(client)

    asyncio.run(asyncio.wait_for(go(), 50))


async def started(mark: Path, times: int = 1) -> None:
    await until(lambda: mark.exists() and len(mark.read_text().split()) >= times, 20)


def test_prediction_usage_timings_revision(system: System):
    async def main(client: AsyncClient) -> None:
        prediction = await client.call("qa", question="What is it? #answer.answer=zeromq")
        assert prediction.answer == "zeromq"
        assert prediction.usage is not None
        assert prediction.usage.calls == 1
        assert [usage.output_tokens > 0 for usage in prediction.usage.models.values()] == [True]
        assert prediction.timings is not None
        assert prediction.timings.run_ms is not None
        assert (prediction.attempt, bool(prediction.revision)) == (1, True)

    run(system, main)


def test_inline_signatures(system: System):
    async def main(client: AsyncClient) -> None:
        assert (await client.call("question -> answer", question="#answer.answer=inline")).answer == "inline"
        thinking = client.with_options(kind="chain_of_thought", instructions="Be brief.")
        prediction = await thinking.call("question -> score: int", question="#answer.score=7")
        assert prediction.score == 7
        assert "reasoning" in prediction
        with pytest.raises(exceptions.InvalidArgument) as caught:
            await client.call("question -> ", question="x")
        assert caught.value.reason == "invalid_spec"

    run(system, main)


def test_stream_shows_the_text_while_it_is_written(system: System):
    async def main(client: AsyncClient) -> None:
        job = client.stream("qa", question="#job=streamed #tokens=50 #chunk=4 #hang_after=12")
        reader = job.__aiter__()
        pieces = [await anext(reader)]
        # The LM is held in the middle of its answer, and what it has said is here.
        assert pieces[0].text
        assert not job.done()
        system.lm.release("streamed")
        pieces += [piece async for piece in reader]
        answer = (await job).answer
        assert {piece.field for piece in pieces} == {"answer"}
        assert "".join(piece.text for piece in pieces) == answer == job.text["answer"]
        assert not any(piece.reset for piece in pieces)

    run(system, main)


def test_slow_reader_of_a_small_window_gets_all_of_it(system: System):
    async def main(client: AsyncClient) -> None:
        job = client.submit("qa", {"question": "#tokens=600 #chunk=4 #token_ms=1"}, stream=True, window=2)
        pieces = []
        async for piece in job:
            pieces.append(piece.text)
            await asyncio.sleep(0.02)
        assert "".join(pieces) == (await job).answer

    run(system, main)


def test_reader_that_does_not_read_holds_nobody_up(system: System):
    async def main(client: AsyncClient) -> None:
        job = client.submit("qa", {"question": "#tokens=400 #chunk=4"}, stream=True, window=1)
        answer = (await job.result(timeout_s=20)).answer
        assert job.text["answer"] == answer
        assert "".join([piece.text async for piece in job]) == answer

    run(system, main)


def test_what_is_wrong_with_inputs_is_said_by_field(system: System):
    async def main(client: AsyncClient) -> None:
        requests = system.lm.requests
        with pytest.raises(exceptions.InvalidArgument) as caught:
            await client.call("qa", qestion="misspelt")
        assert set(caught.value.fields) == {"question", "qestion"}
        assert caught.value.reason == "invalid_inputs"
        assert system.lm.requests == requests
        with pytest.raises(exceptions.ProgramError, match="boom") as raised:
            await client.call("fails", text="boom")
        assert raised.value.reason == "program_error"
        with pytest.raises(exceptions.NotFound) as missing:
            await client.call("qaa", question="x")
        assert "qa" in missing.value.details["close_matches"]

    run(system, main)


def test_lm_errors_have_codes_and_say_whether_to_retry(system: System):
    async def main(client: AsyncClient) -> None:
        with pytest.raises(exceptions.DspymqError) as caught:
            await client.call("qa", question="#status=401")
        assert (caught.value.reason, caught.value.retryable) == ("lm_auth", False)
        with pytest.raises(exceptions.ResourceExhausted) as limited:
            await client.with_options(profile="limited").call("qa", question="#status=429 #retry_after=1")
        assert (limited.value.reason, limited.value.retryable) == ("lm_rate_limited", True)

    run(system, main)


def test_cancel_reaches_the_lm(system: System):
    async def main(client: AsyncClient) -> None:
        job = client.submit("qa", {"question": "#job=cancelled #hang"})
        await asyncio.to_thread(system.lm.wait_open, "cancelled")
        began = time.monotonic()
        job.cancel()
        with pytest.raises(exceptions.Cancelled) as caught:
            await job
        assert time.monotonic() - began < 2
        assert caught.value.reason == "cancelled"
        await asyncio.to_thread(system.lm.wait_disconnected, "cancelled")

    run(system, main)


def test_deadline_is_the_brokers_and_carries_usage(system: System):
    async def main(client: AsyncClient) -> None:
        began = time.monotonic()
        with pytest.raises(exceptions.DeadlineExceeded) as caught:
            await client.with_options(timeout_s=0.5).call("qa", question="#job=late #hang")
        assert 0.4 < time.monotonic() - began < 2.4
        assert caught.value.reason == "deadline"
        assert caught.value.usage is not None
        await asyncio.to_thread(system.lm.wait_disconnected, "late")

    run(system, main)


def test_progress_and_other_news(system: System):
    async def main(client: AsyncClient) -> None:
        job = client.submit("counts", {"to": 20}, watch=["accepted", "started", "progress"])
        await until(lambda: job.progress is not None and (job.progress.done or 0) > 3)
        assert job.progress is not None
        assert job.progress.total == 20
        assert (job.status, job.attempt) == ("running", 1)
        assert job.worker
        assert (await job).to == 20

    run(system, main)


def test_attach_from_another_client_supersedes_the_first(system: System, tmp_path: Path):
    async def main(client: AsyncClient) -> None:
        mark = tmp_path / "mark"
        first = client.submit("nap", {"ms": 1_500, "mark": str(mark)}, on_disconnect="keep")
        await started(mark)
        async with AsyncClient(system.address) as other:
            second = other.attach(first.id)
            with pytest.raises(exceptions.Aborted) as caught:
                await first
            assert caught.value.reason == "superseded"
            assert (await second).mark == str(mark)
        assert len(mark.read_text().split()) == 1

    run(system, main)


def test_same_id_and_content_from_another_process_runs_once(system: System, tmp_path: Path):
    async def main(client: AsyncClient) -> None:
        mark = tmp_path / "mark"
        inputs = {"ms": 500, "mark": str(mark)}
        async with AsyncClient(system.address) as other:
            first = other.submit("nap", inputs, job_id=f"once-{time.time_ns()}", on_disconnect="keep")
            await started(mark)
        again = await client.submit("nap", inputs, job_id=first.id)
        assert again.job == first.id
        assert len(mark.read_text().split()) == 1
        with pytest.raises(exceptions.DspymqError):
            await client.submit("nap", {"ms": 1}, job_id=first.id)

    run(system, main)


def test_on_disconnect_cancel_ends_the_job_with_its_client(system: System):
    async def main(client: AsyncClient) -> None:
        async with AsyncClient(system.address) as other:
            other.submit("qa", {"question": "#job=orphan #hang"})
            await asyncio.to_thread(system.lm.wait_open, "orphan")
        await asyncio.to_thread(system.lm.wait_disconnected, "orphan")

    run(system, main)


def test_map_of_many_through_the_lm(system: System):
    async def main(client: AsyncClient) -> None:
        questions = [f"q{n} #answer.answer=a{n} #delay_ms={n % 7 * 5}" for n in range(200)]
        inputs = [{"question": question} for question in questions]
        answers = [p.answer async for p in client.map("qa", inputs, concurrency=32)]
        assert answers == [f"a{n}" for n in range(200)]

    run(system, main)


def test_threads_share_a_client(system: System):
    with Client(system.address) as client, ThreadPoolExecutor(8) as pool:
        ask = "#answer.answer=t{}"
        answers = list(pool.map(lambda n: client.call("qa", question=ask.format(n)).answer, range(60)))
    assert answers == [f"t{n}" for n in range(60)]


def test_sync_stream_and_map(system: System):
    with Client(system.address) as client:
        job = client.stream("qa", question="#tokens=50")
        assert "".join(chunk.text for chunk in job) == job.result().answer
        inputs = ({"question": f"#answer.answer=s{n}"} for n in range(30))
        assert [p.answer for p in client.map("qa", inputs, concurrency=8)] == [f"s{n}" for n in range(30)]


def test_what_the_broker_tells(system: System):
    async def main(client: AsyncClient) -> None:
        assert {"qa", "nap", "counts", "fails"} <= {row["name"] for row in await client.programs()}
        described = await client.program("qa")
        assert "question" in str(described["inputs"])
        (worker,) = await client.workers()
        assert worker["state"] == "ready"
        assert (await client.stats())["workers"] == 1
        with pytest.raises(exceptions.NotFound):
            await client.program("qaa")
        with pytest.raises(exceptions.Unimplemented) as caught:
            await client.request("no.such")
        assert "stats.get" in caught.value.details["methods"]

    run(system, main)


def test_workers_endpoint_instead_of_the_clients_is_named(system: System):
    async def main(client: AsyncClient) -> None:
        async with AsyncClient(system.broker.workers) as lost:
            with pytest.raises(exceptions.FailedPrecondition) as caught:
                await lost.call("nap", ms=0)
            assert caught.value.reason == "wrong_endpoint"

    run(system, main)


# Faults.


def test_executor_that_dies_costs_an_attempt_not_the_job(system: System, tmp_path: Path):
    async def main(client: AsyncClient) -> None:
        mark = tmp_path / "mark"
        job = client.submit("nap", {"ms": 1_000, "mark": str(mark)}, watch=["started"])
        await started(mark)
        system.kill_an_executor_of(mark)
        prediction = await job
        assert prediction.attempt == job.attempt == 2
        assert len(mark.read_text().split()) == 2

    run(system, main)


def test_stream_of_an_executor_that_dies_starts_over_visibly(system: System):
    async def main(client: AsyncClient) -> None:
        question = "#job=dies #tokens=300 #chunk=4 #token_ms=4"
        job = client.submit("qa", {"question": question}, stream=True, watch=["started"])
        text, resets, killed = "", 0, False
        async for chunk in job:
            if chunk.reset:
                text = ""
                resets += 1
            text += chunk.text
            if not killed and len(text) > 40:
                killed = True
                for row in (await client.workers())[0]["executors"]:
                    if row["pid"]:
                        os.kill(row["pid"], signal.SIGKILL)
        prediction = await job
        assert prediction.attempt == 2
        assert resets >= 1
        assert text == prediction.answer

    run(system, main)


def test_broker_killed_and_restarted_costs_no_second_run(system: System, tmp_path: Path):
    async def main(client: AsyncClient) -> None:
        mark = tmp_path / "mark"
        jobs = [
            client.submit("nap", {"ms": 2_500, "mark": str(mark)}, timeout_s=40, job_id=f"outlast-{n}-{time.time_ns()}")
            for n in range(5)
        ]
        await started(mark, 5)
        system.broker.stop()
        await asyncio.sleep(0.3)
        system.broker.start()
        for job in jobs:
            prediction = await job
            assert prediction.attempt == 1
        assert len(mark.read_text().split()) == 5

    run(system, main)


def test_stream_goes_on_over_a_restarted_broker(system: System):
    async def main(client: AsyncClient) -> None:
        job = client.submit("qa", {"question": "#tokens=400 #chunk=4 #token_ms=5"}, stream=True, timeout_s=40)
        text, restarted = "", False
        async for chunk in job:
            text = chunk.text if chunk.reset else text + chunk.text
            if not restarted and len(text) > 40:
                restarted = True
                system.broker.stop()
                system.broker.start()
        prediction = await job
        assert restarted
        assert text == prediction.answer
        assert prediction.attempt == 1

    run(system, main)


def test_broker_that_stops_in_order_says_so_and_its_jobs_wait_for_the_next(system: System, tmp_path: Path):
    async def main(client: AsyncClient) -> None:
        mark = tmp_path / "mark"
        job = client.submit("nap", {"ms": 1_500, "mark": str(mark)}, timeout_s=40)
        await started(mark)
        system.broker.stop(signal.SIGTERM)
        later = client.submit("nap", {"ms": 0}, timeout_s=40)
        system.broker.start()
        assert (await later).pid
        assert (await job).mark == str(mark)
        assert len(mark.read_text().split()) == 1

    run(system, main)


def test_frozen_broker_is_waited_for(system: System):
    async def main(client: AsyncClient) -> None:
        assert (await client.call("nap", ms=0)).pid
        process = system.broker.process
        assert process is not None
        process.send_signal(signal.SIGSTOP)
        job = client.submit("nap", {"ms": 0}, timeout_s=40)
        try:
            # Longer than dead_ms (3 s): the session is given up, and the next one waits for the broker.
            with pytest.raises(TimeoutError):
                await job.result(timeout_s=5)
        finally:
            process.send_signal(signal.SIGCONT)
        assert (await job).pid

    run(system, main)


def test_failover_from_a_broker_that_is_not_there(system: System):
    async def main(client: AsyncClient) -> None:
        async with AsyncClient([free_address(), system.address]) as other:
            assert (await other.call("nap", ms=0)).pid
            assert other.address == system.address

    run(system, main)


def test_storm_of_jobs_over_a_restart_answers_each_once(system: System):
    async def main(client: AsyncClient) -> None:
        jobs = [client.submit("nap", {"ms": 200}, timeout_s=45) for _ in range(200)]
        await jobs[3]
        system.broker.stop()
        system.broker.start()
        outcomes = await asyncio.gather(*(job.result() for job in jobs), return_exceptions=True)
        failed = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
        assert failed == []

    run(system, main)
