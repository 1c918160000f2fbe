"""AsyncClient over the in-memory broker."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator

import pytest

from dspymq import exceptions
from dspymq.async_client import AsyncClient
from dspymq.chunks import Chunk
from dspymq.prediction import Prediction
from dspymq.protocol import client_messages as cm
from dspymq.protocol import messages as m
from dspymq.testing import FakeBroker


def upper(question: str) -> dict[str, str]:
    return {"answer": question.upper()}


def letters(question: str) -> Iterator[dict[str, str]]:
    for letter in question:
        yield {"answer": letter}
    return {"answer": question}


class Gate:
    """A program whose jobs run until they are let go."""

    def __init__(self) -> None:
        self.running = 0
        self.most = 0
        self.cancelled = 0
        self.opened = asyncio.Event()
        self.entered = asyncio.Condition()

    async def __call__(self, question: str) -> dict[str, str]:
        self.running += 1
        self.most = max(self.most, self.running)
        async with self.entered:
            self.entered.notify_all()
        try:
            await self.opened.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1
        return {"answer": question}

    async def wait_running(self, count: int) -> None:
        async with self.entered:
            await asyncio.wait_for(self.entered.wait_for(lambda: self.running >= count), 5)


def run(main) -> None:
    """Run an async test on a loop of its own, with a broker and a client for it."""

    async def go() -> None:
        broker = FakeBroker({"qa": upper, "letters": letters})
        async with AsyncClient(transport=broker.transport()) as client:
            await asyncio.wait_for(main(broker, client), 20)

    asyncio.run(go())


def test_call_gives_the_outputs():
    async def main(broker: FakeBroker, client: AsyncClient) -> None:
        prediction = await client.call("qa", question="why")
        assert isinstance(prediction, Prediction)
        assert prediction.answer == prediction["answer"] == "WHY"

    run(main)


def test_inputs_may_have_any_name():
    async def main(broker: FakeBroker, client: AsyncClient) -> None:
        broker.programs["odd"] = lambda **inputs: inputs
        inputs = {"program": 1, "self": 2, "timeout_s": 3, "stream": 4, "inputs": 5, "job_id": 6, "profile": 7}
        assert dict(await client.call("odd", **inputs)) == inputs

    run(main)


def test_error_of_a_job_is_raised_each_time_afresh():
    async def main(broker: FakeBroker, client: AsyncClient) -> None:
        job = client.submit("nothing", {})
        with pytest.raises(exceptions.NotFound) as first:
            await job
        with pytest.raises(exceptions.NotFound) as second:
            await job.result()
        assert first.value is not second.value
        assert first.value.job == job.id
        assert job.done()
        assert isinstance(job.exception(), exceptions.NotFound)

    run(main)


def test_options_reach_the_submit():
    async def main(broker: FakeBroker, client: AsyncClient) -> None:
        slow = client.with_options(timeout_s=5, profile="fast", priority=9, lane="batch", revision="r1")
        await slow.call("qa", question="x")
        await slow.submit("qa", {"question": "x"}, timeout_s=1.5, fail_fast=True, job_id="mine", resume=True)
        await client.call("qa", question="x")
        first, second, third = broker.seen(cm.Submit)
        assert (first.profile, first.priority, first.lane, first.revision) == ("fast", 9, "batch", "r1")
        assert 4_000 < first.timeout_ms <= 5_000
        assert (second.job, second.fail_fast, second.priority, second.known_epoch) == ("mine", True, 9, "unknown")
        assert second.timeout_ms <= 1_500
        assert (third.profile, third.priority, third.lane) == (None, 4, "default")

    run(main)


def test_inline_signature_travels_as_a_spec():
    async def main(broker: FakeBroker, client: AsyncClient) -> None:
        seen = {}

        def look(message, body):
            if isinstance(message, cm.Submit):
                seen["message"], seen["body"] = message, body

        broker.intercept = look
        broker.programs["_inline"] = upper
        view = client.with_options(kind="chain_of_thought", instructions="Be brief.", config={"temperature": 0.0})
        await view.call("question -> answer", question="x")
        assert seen["message"].program == "_inline"
        from dspymq.protocol import body as bodies

        assert bodies.decode(seen["body"]) == {
            "inputs": {"question": "x"},
            "spec": {"signature": "question -> answer", "kind": "chain_of_thought", "instructions": "Be brief."},
            "config": {"temperature": 0.0},
        }

    run(main)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"priority": 11}, "priority"),
        ({"timeout_s": 0}, "timeout_s"),
        ({"timeout_s": float("nan")}, "timeout_s"),
        ({"lane": ""}, "lane"),
        ({"on_disconnect": "shrug"}, "on_disconnect"),
        ({"no_such": 1}, "no_such"),
        ({"job_id": "ä"}, "job"),
        ({"job_id": ""}, "job"),
    ],
)
def test_wrong_options_are_named_and_nothing_is_sent(options, named):
    async def main(broker: FakeBroker, client: AsyncClient) -> None:
        with pytest.raises(exceptions.InvalidArgument, match=named):
            client.submit("qa", {"question": "x"}, **options)
        with pytest.raises(exceptions.InvalidArgument, match="inputs"):
            client.submit("qa", ["question"])  # type: ignore[arg-type]
        with pytest.raises(exceptions.InvalidArgument, match="inputs"):
            client.submit("qa", {"question": object()})
        assert broker.received == []

    run(main)


def test_stream_brings_the_text_then_the_prediction():
    async def main(broker: FakeBroker, client: AsyncClient) -> None:
        job = client.stream("letters", question="abc")
        chunks = [chunk async for chunk in job]
        assert chunks == [Chunk("answer", letter, False, 1, seq) for seq, letter in enumerate("abc")]
        assert job.text == {"answer": "abc"}
        assert (await job).answer == "abc"
        assert [chunk async for chunk in job] == []

    run(main)


def test_stream_of_a_failing_job_raises_at_its_end():
    def fails(question: str) -> Iterator[dict[str, str]]:
        yield {"answer": "so far"}
        raise ValueError("boom")

    async def main(broker: FakeBroker, client: AsyncClient) -> None:
        broker.programs["fails"] = fails
        job = client.stream("fails", question="x")
        texts = []
        with pytest.raises(exceptions.ProgramError, match="boom"):
            async for chunk in job:
                texts += [chunk.text]
        assert texts == ["so far"]

    run(main)


def test_reset_drops_what_was_not_read_and_shows_itself():
    async def main(broker: FakeBroker, client: AsyncClient) -> None:
        gate = Gate()
        broker.programs["gate"] = gate
        job = client.stream("gate", question="x")
        await gate.wait_running(1)

        def chunk(seq: int, text: str, attempt: int, reset: bool = False) -> None:
            from dspymq.protocol import body as bodies

            body = bodies.encode(fields={"answer": text})
            broker.push(cm.Chunk(job=job.id, attempt=attempt, seq=seq, reset=reset), body)

        chunk(0, "old", 1)
        chunk(1, "older", 1)
        chunk(0, "new", 2, reset=True)
        reader = job.__aiter__()
        await client.ping()
        assert await anext(reader) == Chunk("answer", "new", True, 2, 0)
        assert job.text == {"answer": "new"}
        assert job.attempt == 2
        chunk(1, "er", 2)
        assert (await anext(reader)).text == "er"
        assert job.text == {"answer": "newer"}

    run(main)


def test_iterating_a_job_that_does_not_stream_says_so():
    async def main(broker: FakeBroker, client: AsyncClient) -> None:
        with pytest.raises(exceptions.FailedPrecondition, match="stream=True"):
            async for _ in client.submit("qa", {"question": "x"}):
                pass

    run(main)


def test_reading_gives_credit():
    async def main(broker: FakeBroker, client: AsyncClient) -> None:
        job = client.submit("letters", {"question": "x" * 100}, stream=True, window=4)
        assert len([chunk async for chunk in job]) == 100
        assert broker.seen(cm.Submit)[0].window == 4

        gate = Gate()
        broker.programs["gate"] = gate
        job = client.submit("gate", {"question": "x"}, stream=True, window=2)
        await gate.wait_running(1)
        reader = job.__aiter__()
        for seq in range(3):
            broker.push(cm.Chunk(job=job.id, attempt=1, seq=seq), b"\x81\xa6fields\x81\xa1a\xa1x")
            await anext(reader)
        await client.ping()
        assert [credit.upto for credit in broker.seen(cm.Credit)] == [3, 4, 5]

    run(main)


def test_wait_that_is_given_up_leaves_the_job_alone():
    async def main(broker: FakeBroker, client: AsyncClient) -> None:
        gate = Gate()
        broker.programs["gate"] = gate
        job = client.submit("gate", {"question": "x"})
        with pytest.raises(TimeoutError):
            await job.result(timeout_s=0.02)
        assert not job.done()
        gate.opened.set()
        assert (await job.result(timeout_s=5)).answer == "x"
        assert broker.seen(cm.Cancel) == []

    run(main)


def test_cancelled_call_cancels_its_job():
    async def main(broker: FakeBroker, client: AsyncClient) -> None:
        gate = Gate()
        broker.programs["gate"] = gate
        task = asyncio.create_task(client.call("gate", question="x"))
        await gate.wait_running(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await client.ping()
        assert gate.cancelled == 1

    run(main)


def test_cancel_ends_the_job_as_cancelled():
    async def main(broker: FakeBroker, client: AsyncClient) -> None:
        gate = Gate()
        broker.programs["gate"] = gate
        job = client.submit("gate", {"question": "x"})
        await gate.wait_running(1)
        job.cancel()
        job.cancel()
        with pytest.raises(exceptions.Cancelled):
            await job
        job.cancel()
        assert len(broker.seen(cm.Cancel)) == 1

    run(main)


@pytest.mark.parametrize("how", ["cut", "restart", "forget_sessions"])
def test_job_outlasts_the_broker(how):
    async def main(broker: FakeBroker, client: AsyncClient) -> None:
        gate = Gate()
        broker.programs["gate"] = gate
        job = client.submit("gate", {"question": "x"})
        await gate.wait_running(1)
        getattr(broker, how)()
        if how == "forget_sessions":
            await client.ping()
        gate.opened.set()
        assert (await job).answer == "x"
        submits = broker.seen(cm.Submit)
        assert len(submits) == 2
        assert submits[1].known_epoch is not None

    run(main)


def test_failover_along_the_list():
    async def go() -> None:
        broker = FakeBroker({"qa": upper}, addresses=["tcp://c:3"])
        where = "tcp://a:1,tcp://b:2,c:3"
        async with AsyncClient(where, transport=broker.transport()) as client:
            assert client.addresses == ("tcp://a:1", "tcp://b:2", "tcp://c:3")
            assert (await client.call("qa", question="x")).answer == "X"

    asyncio.run(go())


def test_no_broker_fails_within_the_connect_timeout():
    async def go() -> None:
        broker = FakeBroker(addresses=[])
        async with AsyncClient("a:1,b:2", transport=broker.transport(), connect_timeout_s=0.1) as client:
            for attempt in (client.call("qa"), client.request("stats.get"), client.ping()):
                with pytest.raises(exceptions.BrokerUnreachable, match="tcp://a:1, tcp://b:2 "):
                    await attempt

    asyncio.run(go())


def test_broker_that_comes_later_is_found():
    async def main(broker: FakeBroker, client: AsyncClient) -> None:
        broker.stop()
        job = client.submit("qa", {"question": "late"})
        with pytest.raises(TimeoutError):
            await job.result(timeout_s=0.05)
        broker.start()
        assert (await job).answer == "LATE"

    run(main)


def test_close_fails_open_jobs_and_later_calls():
    async def main(broker: FakeBroker, client: AsyncClient) -> None:
        gate = Gate()
        broker.programs["gate"] = gate
        job = client.submit("gate", {"question": "x"})
        request = asyncio.create_task(client.request("stats.get"))
        await gate.wait_running(1)
        await request
        view = client.with_options(timeout_s=1)
        await client.close()
        with pytest.raises(exceptions.ClientClosed, match="while this job was open"):
            await job
        with pytest.raises(exceptions.ClientClosed):
            await view.call("qa", question="x")
        with pytest.raises(exceptions.ClientClosed):
            await client.ping()
        await asyncio.sleep(0)
        assert len(broker.seen(m.Bye)) == 1
        await client.close()

    run(main)


def test_same_id_twice_in_one_client_is_refused():
    async def main(broker: FakeBroker, client: AsyncClient) -> None:
        gate = Gate()
        broker.programs["gate"] = gate
        first = client.submit("gate", {"question": "x"}, job_id="same")
        with pytest.raises(exceptions.AlreadyExists):
            await client.submit("gate", {"question": "x"}, job_id="same")
        gate.opened.set()
        await first

    run(main)


def test_attach_joins_a_job():
    async def main(broker: FakeBroker, client: AsyncClient) -> None:
        gate = Gate()
        broker.programs["gate"] = gate
        job = client.submit("gate", {"question": "x"})
        await gate.wait_running(1)
        async with AsyncClient(transport=broker.transport()) as other:
            joined = other.attach(job.id)
            await other.ping()
            gate.opened.set()
            assert (await joined).answer == "x"
            with pytest.raises(exceptions.NotFound):
                await other.attach("nobody")

    run(main)


def test_news_of_a_watched_job():
    async def main(broker: FakeBroker, client: AsyncClient) -> None:
        gate = Gate()
        broker.programs["gate"] = gate
        job = client.submit("gate", {"question": "x"}, watch=["accepted", "started", "progress"])
        await gate.wait_running(1)
        assert broker.seen(cm.Submit)[0].want == ["accepted", "started", "progress"]
        assert job.status == "open"
        broker.push(cm.Accepted(job=job.id, state="queued", attempt=0, waiting=True, missing=["program"]))
        await client.ping()
        assert (job.status, job.missing) == ("queued", ("program",))
        broker.push(cm.Started(job=job.id, attempt=1, revision="r", worker="w1"))
        broker.push(cm.Progress(job=job.id, attempt=1, done=1, total=4, note="reading"))
        await client.ping()
        assert (job.status, job.missing, job.attempt, job.worker) == ("running", (), 1, "w1")
        assert job.progress is not None
        assert (job.progress.done, job.progress.total, job.progress.note) == (1, 4, "reading")
        gate.opened.set()
        await job
        assert job.status == "done"

    run(main)


def test_requests():
    async def main(broker: FakeBroker, client: AsyncClient) -> None:
        assert [row["name"] for row in await client.programs()] == ["letters", "qa"]
        assert await client.workers() == []
        assert (await client.stats())["epoch"] == broker.epoch
        assert 0 < await client.ping() < 5
        with pytest.raises(exceptions.Unimplemented):
            await client.request("no.such", {"a": 1})
        with pytest.raises(exceptions.InvalidArgument):
            await client.request("stats.get", {"a": object()})

    run(main)


def test_client_stays_with_its_loop():
    broker = FakeBroker({"qa": upper})
    client = AsyncClient(transport=broker.transport())

    async def first() -> None:
        await client.call("qa", question="x")

    async def second() -> None:
        with pytest.raises(exceptions.FailedPrecondition, match="another event loop"):
            await client.call("qa", question="x")

    asyncio.run(first())
    asyncio.run(second())


# map


def questions(count: int) -> Iterator[dict[str, str]]:
    for number in range(count):
        yield {"question": f"q{number}"}


def test_map_keeps_order_and_bounds_what_is_in_flight():
    async def main(broker: FakeBroker, client: AsyncClient) -> None:
        running = most = 0

        async def uneven(question: str) -> dict[str, str]:
            nonlocal running, most
            running += 1
            most = max(most, running)
            for _ in range(hash(question) % 7):
                await asyncio.sleep(0)
            running -= 1
            return {"answer": question}

        broker.programs["uneven"] = uneven
        answers = [p.answer async for p in client.map("uneven", questions(100), concurrency=5)]
        assert answers == [f"q{n}" for n in range(100)]
        assert most == 5

    run(main)


def test_map_does_not_let_one_slow_job_idle_the_others():
    async def main(broker: FakeBroker, client: AsyncClient) -> None:
        gate = asyncio.Event()
        started = 0

        async def slow_first(question: str) -> dict[str, str]:
            nonlocal started
            started += 1
            if question == "q0":
                await gate.wait()
            elif question == "q7":
                gate.set()
            return {"answer": question}

        broker.programs["slow"] = slow_first
        answers = [p.answer async for p in client.map("slow", questions(8), concurrency=2)]
        assert answers == [f"q{n}" for n in range(8)]

    run(main)


def test_map_reads_its_inputs_only_as_far_as_needed():
    async def main(broker: FakeBroker, client: AsyncClient) -> None:
        taken = 0

        def endless() -> Iterator[dict[str, str]]:
            nonlocal taken
            while True:
                taken += 1
                yield {"question": "x"}

        async with contextlib.aclosing(client.map("qa", endless(), concurrency=3)) as results:
            async for _ in results:
                break
        assert taken <= 3 * 8

    run(main)


def test_map_takes_async_inputs_and_does_not_wait_for_them_with_results_at_hand():
    async def main(broker: FakeBroker, client: AsyncClient) -> None:
        more = asyncio.Event()

        async def slowly() -> AsyncIterator[dict[str, str]]:
            yield {"question": "a"}
            await more.wait()
            yield {"question": "b"}

        answers = []
        async for prediction in client.map("qa", slowly()):
            answers.append(prediction.answer)
            more.set()
        assert answers == ["A", "B"]

    run(main)


def test_map_that_is_left_cancels_what_is_in_flight():
    async def main(broker: FakeBroker, client: AsyncClient) -> None:
        gate = Gate()
        broker.programs["gate"] = lambda question: upper(question) if question == "q0" else gate(question)
        async with contextlib.aclosing(client.map("gate", questions(50), concurrency=4)) as results:
            async for _ in results:
                await gate.wait_running(3)
                break
        await client.ping()
        assert gate.running == 0
        assert gate.cancelled >= 3

    run(main)


def test_map_raises_the_first_error_or_returns_them():
    def picky(question: str) -> dict[str, str]:
        if question == "q2":
            raise exceptions.ResourceExhausted("too much", reason="lm_rate_limited", retryable=True)
        return {"answer": question}

    async def main(broker: FakeBroker, client: AsyncClient) -> None:
        broker.programs["picky"] = picky
        got = []
        with pytest.raises(exceptions.ResourceExhausted):
            async for prediction in client.map("picky", questions(10)):
                got += [prediction.answer]
        assert got == ["q0", "q1"]
        results = [r async for r in client.map("picky", questions(4), return_exceptions=True)]
        assert [type(r).__name__ for r in results] == ["Prediction", "Prediction", "ResourceExhausted", "Prediction"]

    run(main)


def test_map_refuses_a_concurrency_of_nothing():
    async def main(broker: FakeBroker, client: AsyncClient) -> None:
        with pytest.raises(exceptions.InvalidArgument, match="concurrency"):
            async for _ in client.map("qa", questions(1), concurrency=0):
                pass

    run(main)
