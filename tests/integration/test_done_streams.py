"""Inline signatures of both kinds, and streams: text in order, put together equal to the result, within credit."""

import contextlib
import itertools
import time
from collections.abc import Iterator
from typing import Any

import pytest

from dspymq import Client
from dspymq.exceptions import DspymqError
from dspymq.job import Job
from dspymq.protocol import body as bodies
from dspymq.protocol import client_messages as c
from dspymq.protocol import new_uuid7
from tests.faults.peers import RawClient
from tests.faults.system import PATIENCE_S, System, running_system
from tests.integration.test_done_restarts import Restartable, pool_at
from tests.lm import ScriptedLM, expected_answer

TYPED = "text -> name, age: int, mood: Literal['happy','sad'], cities: list[str]"


@pytest.fixture(scope="module")
def system() -> Iterator[System]:
    with running_system(processes=1, concurrency=4) as made:
        yield made


def test_inline_predict_gives_typed_outputs(system: System) -> None:
    text = '#answer.name=Ada #answer.age=36 #answer.mood=happy #answer.cities=["London","Paris"]'
    prediction = system.client.call(TYPED, text=text)
    assert prediction.outputs == {"name": "Ada", "age": 36, "mood": "happy", "cities": ["London", "Paris"]}
    assert prediction.usage is not None
    assert prediction.usage.calls == 1


def test_inline_chain_of_thought_reasons_first(system: System) -> None:
    thinking = system.client.with_options(kind="chain_of_thought")
    prediction = thinking.call("question -> answer: int", question="#answer.reasoning=because #answer.answer=7")
    assert (prediction.reasoning, prediction.answer) == ("because", 7)
    assert list(prediction.outputs) == ["reasoning", "answer"]


def test_both_kinds_of_one_signature_have_revisions_of_their_own(system: System) -> None:
    kinds = [system.client.with_options(kind=kind) for kind in ("predict", "chain_of_thought")]
    revisions = {client.call("question -> answer", question="x").revision for client in kinds}
    again = {client.call("question -> answer", question="y").revision for client in kinds}
    assert len(revisions) == 2
    assert again == revisions


def read(job: Job) -> tuple[dict[str, str], int]:
    """The text by field as a reader puts it together who follows the rule of `reset`, and the number of resets."""
    fields: dict[str, str] = {}
    resets = 0
    for chunk in job:
        if chunk.reset:
            fields, resets = {}, resets + 1
        if chunk.field:
            fields[chunk.field] = fields.get(chunk.field, "") + chunk.text
    return fields, resets


@pytest.mark.parametrize("program", ["qa", "sync_qa", "question -> answer", "question -> answer, summary"])
@pytest.mark.parametrize("size", [1, 7, 4_000])
def test_a_stream_put_together_is_the_result(system: System, program: str, size: int) -> None:
    job = system.client.submit(program, {"question": f"#tokens=300 #chunk={size}"}, stream=True)
    fields, resets = read(job)
    outputs = job.result(PATIENCE_S).outputs
    assert fields == outputs == dict(job.text)
    assert resets == 0
    assert all(len(text.split()) == 300 for text in fields.values())


def test_a_chain_of_thought_streams_its_fields_in_order(system: System) -> None:
    thinking = system.client.with_options(kind="chain_of_thought")
    job = thinking.submit("question -> answer", {"question": "#tokens=120 #chunk=9"}, stream=True)
    order = [chunk.field for chunk in job]
    assert [field for field, _ in itertools.groupby(order)] == ["reasoning", "answer"]
    assert dict(job.text) == job.result(PATIENCE_S).outputs


def test_the_first_words_are_there_long_before_the_last(system: System) -> None:
    job = system.client.submit("qa", {"question": "#job=early #tokens=100 #chunk=6 #hang_after=50"}, stream=True)
    chunks = iter(job)
    first = next(chunks)
    assert first.text
    assert system.lm.job("early").open == 1
    system.lm.release("early")
    text = first.text + "".join(chunk.text for chunk in chunks)
    assert text == job.result(PATIENCE_S).answer


def test_twenty_streams_at_once_do_not_mix(system: System) -> None:
    words = [f"word{n}" for n in range(20)]
    jobs = [
        system.client.submit("qa", {"question": f"{word} #tokens=80 #chunk=5 #token_ms=1"}, stream=True)
        for word in words
    ]
    for word, job in zip(words, jobs, strict=True):
        fields, resets = read(job)
        assert fields["answer"] == job.result(PATIENCE_S).answer == expected_answer("answer", word, tokens=80)
        assert resets == 0


def submit_stream(client: RawClient, question: str, window: int | None, want: list[Any] | None = None) -> str:
    job = new_uuid7()
    submit = c.Submit(job=job, program="qa", timeout_ms=60_000, want=want or ["chunks"], window=window)
    client.send(submit, bodies.encode(inputs={"question": question}))
    return job


def text_of(chunks: list[tuple[c.Chunk, bytes]]) -> str:
    """By the rule: a reset replaces all that came before."""
    text = ""
    for chunk, body in chunks:
        piece = bodies.decode(body)["fields"].get("answer", "")
        text = piece if chunk.reset else text + piece
    return text


@pytest.mark.parametrize("window", [1, 3, 20])
def test_without_credit_no_chunk_comes_and_no_text_is_lost(system: System, window: int) -> None:
    """At most `window` chunks, then silence though the LM talks on; the rest comes as one, and the result waits not."""
    with RawClient(system.broker.clients) as client:
        client.hello()
        name = f"credit{window}"
        job = submit_stream(client, f"#job={name} #tokens=500 #chunk=5", window)
        result, outputs = client.result(job)
        chunks = [(m, b) for m, b in client.seen if isinstance(m, c.Chunk)]
        assert len(chunks) <= window + 1
        assert [m.seq for m, _ in chunks] == list(range(len(chunks)))
        assert result.chunks == len(chunks)
        assert text_of(chunks) == outputs["answer"]
        assert not any(m.reset for m, _ in chunks)


def test_credit_lets_so_many_chunks_through_and_no_more(system: System) -> None:
    with RawClient(system.broker.clients) as client:
        client.hello()
        job = submit_stream(client, "#job=doled #tokens=400 #chunk=4 #token_ms=1 #hang_after=300", 2)
        system.lm.wait_for(lambda: system.lm.job("doled").pieces >= 300)
        client.round_trip()
        for upto in (3, 3, 2, 5):
            client.send(c.Credit(job=job, attempt=1, upto=upto))
            client.send(c.Credit(job=job, attempt=2, upto=1_000))
        end = time.monotonic() + PATIENCE_S
        while len(seqs := [m.seq for m, _ in client.seen if isinstance(m, c.Chunk)]) < 3:
            assert time.monotonic() < end
            client.receive(0.1)
        client.round_trip()
        assert seqs == list(range(len(seqs)))
        assert len(seqs) <= 5
        system.lm.release("doled")
        result, outputs = client.result(job)
        chunks = [(m, b) for m, b in client.seen if isinstance(m, c.Chunk)]
        assert len(chunks) == result.chunks <= 6
        assert text_of(chunks) == outputs["answer"]


def test_a_stream_taken_over_in_its_middle_is_whole_for_the_next_reader(system: System) -> None:
    """One `reset` chunk with the full text so far, then the rest; the first reader is told, once."""
    with RawClient(system.broker.clients) as first, RawClient(system.broker.clients) as second:
        first.hello(name="first")
        second.hello(name="second")
        job = submit_stream(first, "#job=handed #tokens=300 #chunk=5 #hang_after=150", None)
        system.lm.wait_for(lambda: system.lm.job("handed").pieces >= 150)
        _, begun = first.expect(c.Chunk)
        second.send(c.Attach(job=job, want=["chunks"]))
        second.expect(c.Accepted)
        # What was under way to the first reader shows as a gap in seq; then comes all of it.
        _, body = second.expect(c.Chunk, lambda chunk: chunk.reset)
        so_far = bodies.decode(body)["fields"]["answer"]
        assert so_far.startswith(bodies.decode(begun)["fields"]["answer"])
        system.lm.release("handed")
        result, outputs = second.result(job)
        chunks = [(m, b) for m, b in second.seen if isinstance(m, c.Chunk)]
        assert text_of(chunks) == outputs["answer"]
        assert chunks[-1][0].seq + 1 == result.chunks
        assert sum(m.reset for m, _ in chunks) == 1
        first.round_trip()
        assert not [m for m, _ in first.seen if isinstance(m, c.Result)]


@pytest.mark.parametrize("window", [None, 4])
def test_streams_over_a_restarted_broker_are_whole(window: int | None) -> None:
    """The broker is killed in the middle of twelve streams, twice: no reader loses, doubles or mixes a word."""
    with (
        ScriptedLM() as lm,
        Restartable() as brokers,
        pool_at(brokers.workers, lm, "--concurrency", "12"),
        Client(brokers.clients, timeout_s=60) as client,
    ):
        client.call("qa", question="ready?")
        texts = [f"#job=s{n} stream {n}" for n in range(12)]
        talk = "#tokens=300 #chunk=5 #token_ms=4"
        jobs = [client.submit("qa", {"question": f"{text} {talk}"}, stream=True, window=window) for text in texts]
        for pieces in (60, 150):
            lm.wait_for(lambda pieces=pieces: all(lm.job(f"s{n}").pieces >= pieces for n in range(12)), PATIENCE_S)
            brokers.kill()
            brokers.start()
        for n, (text, job) in enumerate(zip(texts, jobs, strict=True)):
            fields, _ = read(job)
            prediction = job.result(PATIENCE_S)
            assert fields["answer"] == prediction.answer == job.text["answer"]
            assert prediction.answer == expected_answer("answer", text, tokens=300)
            assert prediction.attempt == 1
            assert lm.job(f"s{n}").requests == 1


def test_a_stream_that_fails_in_its_middle_ends_with_the_error(system: System) -> None:
    job = system.client.submit("qa", {"question": "#job=torn #tokens=200 #chunk=5 #drop_after=60"}, stream=True)
    with contextlib.suppress(DspymqError):
        read(job)
    with pytest.raises(DspymqError) as caught:
        job.result(PATIENCE_S)
    assert caught.value.reason == "lm_unavailable"
    assert caught.value.retryable
