"""The embedded language model: its server as a process, and DSPy on it. Skipped where it is not installed."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any, Literal

import pydantic
import pytest

dspy = pytest.importorskip("dspy")

from dspymq import Client  # noqa: E402
from dspymq.worker.executor.local_adapter import LocalAdapter, local_lm  # noqa: E402
from dspymq.worker.executor.splitters import JSONSplitter  # noqa: E402
from dspymq.worker.local.install import status  # noqa: E402
from dspymq.worker.local.process import LocalLM, LocalLMError  # noqa: E402
from tests.processes import is_alive, running_broker, running_pool, wait_until  # noqa: E402

STATUS = status()
pytestmark = [
    pytest.mark.local_lm,
    pytest.mark.timeout(180),
    pytest.mark.skipif(not STATUS.usable, reason=f"the embedded model is {STATUS.fix}"),
]

SERVER = [sys.executable, "-m", "dspymq.worker.local.server"]


class Person(dspy.Signature):  # type: ignore[misc]
    """Find the person that a text is about."""

    text: str = dspy.InputField()
    name: str = dspy.OutputField()
    age: int = dspy.OutputField()
    mood: Literal["happy", "sad", "angry", "calm"] = dspy.OutputField()
    cities: list[str] = dspy.OutputField()


class Node(pydantic.BaseModel):
    name: str
    born: datetime.date | None
    children: list[Node] = []


class Everything(dspy.Signature):  # type: ignore[misc]
    text: str = dspy.InputField()
    day: datetime.date = dspy.OutputField()
    root: Node = dspy.OutputField()
    maybe: str | None = dspy.OutputField()
    pair: tuple[int, str] = dspy.OutputField()
    counts: dict[str, int] = dspy.OutputField()
    share: float = dspy.OutputField()
    known: bool = dspy.OutputField()
    code: Literal[1, 2] = dspy.OutputField()


@contextlib.contextmanager
def serving(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server and its URL."""
    command = [*SERVER, *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            said = json.loads(process.stdout.readline())
            assert said["pid"] == process.pid
            yield process, said["url"]
        finally:
            process.kill()


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """One slot, so that a request which is not freed would block the next."""
    with serving("--parallel", "1") as (_, url):
        yield url


@pytest.fixture
def on_model(url: str) -> Iterator[Any]:
    lm = local_lm(url)
    with dspy.context(lm=lm, adapter=LocalAdapter()):
        yield lm


@pytest.mark.usefixtures("on_model")
def test_extraction() -> None:
    got = dspy.Predict(Person)(
        text="Maria Silva, 34, moved from Lisbon to Porto last year. She says she has never been happier."
    )
    assert dict(got.items()) == {"name": "Maria Silva", "age": 34, "mood": "happy", "cities": ["Lisbon", "Porto"]}


@pytest.mark.usefixtures("on_model")
def test_sentiment() -> None:
    judge = dspy.Predict("review -> sentiment: Literal['positive', 'negative']")
    reviews = {
        "I loved every minute of it.": "positive",
        "The food was cold and the waiter was rude.": "negative",
        "Best purchase I have made in years!": "positive",
        "A complete waste of time and money.": "negative",
        "Fast delivery and excellent quality.": "positive",
        "The worst hotel I have ever stayed in.": "negative",
    }
    right = sum(judge(review=review).sentiment == sentiment for review, sentiment in reviews.items())
    assert right >= 5


@pytest.mark.usefixtures("on_model")
@pytest.mark.parametrize("program", [dspy.Predict, dspy.ChainOfThought])
def test_questions(program: Any) -> None:
    ask = program("question -> answer")
    capitals = {"France": "Paris", "Japan": "Tokyo", "Germany": "Berlin", "Greece": "Athens", "Cuba": "Havana"}
    answers = {country: ask(question=f"What is the capital of {country}?").answer for country in capitals}
    assert sum(capital in answers[country] for country, capital in capitals.items()) >= 4, answers


@pytest.mark.usefixtures("on_model")
def test_every_type_comes_out_right_and_generation_ends() -> None:
    got = dspy.Predict(Everything)(text="On 3 May 2021 Ann (30) met her sons Bob (4) and Tim (2). Apples cost 3 euros.")
    assert isinstance(got.day, datetime.date)
    assert isinstance(got.root, Node)
    assert isinstance(got.pair, tuple)
    assert isinstance(got.counts, dict)
    assert (type(got.share), type(got.known)) == (float, bool)
    assert got.code in (1, 2)


@pytest.mark.usefixtures("on_model")
def test_text_that_the_model_would_repeat_for_ever_has_an_end() -> None:
    for text in ("Who are you?", "Say la la la la la la la la la la la.", "Россия?", "🎉🎉🎉🎉🎉"):
        got = dspy.ChainOfThought("question -> answer")(question=text)
        assert 0 < len(got.answer) <= 600
        assert got.reasoning[-1] in ".!?"


def test_a_stream_is_one_json_object_and_comes_in_pieces(on_model: Any) -> None:
    pieces: list[tuple[float, str]] = []

    class Sink:
        async def send(self, chunk: Any) -> None:
            if choices := getattr(chunk, "choices", None):
                pieces.append((time.monotonic(), choices[0]["delta"].get("content") or ""))

    async def run() -> Any:
        with dspy.context(send_stream=Sink(), stream_listeners=[]):
            return await dspy.Predict("topic -> story").acall(topic="a fox who learns to swim")

    got = asyncio.run(run())
    splitter = JSONSplitter(["story"])
    assert "".join(part.text for _, piece in pieces for part in splitter.feed(piece)) == got.story
    assert len(got.story) > 40
    assert len(pieces) > 10
    assert pieces[-1][0] > pieces[0][0]


@pytest.mark.parametrize("is_streaming", [False, True])
def test_a_cancelled_request_frees_its_slot(on_model: Any, is_streaming: bool) -> None:
    begun = asyncio.Event()

    class Sink:
        async def send(self, chunk: Any) -> None:
            begun.set()

    async def run() -> None:
        question = "Count from one to two thousand, in words, one after another."
        settings = {"send_stream": Sink(), "stream_listeners": []} if is_streaming else {}
        with dspy.context(**settings):
            # Without an adapter nothing bounds the answer but the server: a minute and more for each of these.
            long = [asyncio.create_task(on_model.acall(question, logit_bias={"2": -100})) for _ in range(6)]
        if is_streaming:
            await begun.wait()
        else:
            done, _ = await asyncio.wait(long, timeout=1)
            assert not done
        for task in long:
            task.cancel()
        await asyncio.gather(*long, return_exceptions=True)
        began = time.monotonic()
        await dspy.Predict("review -> sentiment: Literal['good', 'bad']").acall(review="I love it.")
        assert time.monotonic() - began < 15

    asyncio.run(run())


@pytest.mark.usefixtures("on_model")
def test_more_requests_than_slots_wait_for_their_turn() -> None:
    async def run() -> list[Any]:
        judge = dspy.Predict("review -> sentiment: Literal['positive', 'negative']")
        return await asyncio.gather(*(judge.acall(review=f"I love it, {n} times.") for n in range(12)))

    assert {answer.sentiment for answer in asyncio.run(run())} == {"positive"}


@pytest.mark.usefixtures("on_model")
def test_a_prompt_that_is_too_long_is_refused() -> None:
    with pytest.raises(dspy.LMError, match="context size"):
        dspy.Predict("text -> summary")(text="word " * 6000)


def test_the_owner_starts_one_and_another_after_it_died() -> None:
    async def run() -> None:
        lm = LocalLM(arguments=["--parallel", "1"])
        assert lm.pid is None
        assert len(set(await asyncio.gather(*(lm.start() for _ in range(3))))) == 1
        first = lm.pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        await asyncio.to_thread(wait_until, lambda: lm.pid is None)
        url = await lm.start()
        second = lm.pid
        assert second not in (None, first)
        assert url.endswith("/v1")
        await lm.stop()
        assert not is_alive(second or 0)
        await lm.stop()

    asyncio.run(run())


def test_a_start_that_fails_says_why_and_leaves_nothing() -> None:
    async def run(lm: LocalLM, says: str) -> None:
        with pytest.raises(LocalLMError, match=says):
            await lm.start()
        assert lm.pid is None

    asyncio.run(run(LocalLM(start_timeout_s=0.01), "not ready within"))
    asyncio.run(run(LocalLM(arguments=["--no-such-option"]), "no-such-option"))


@pytest.mark.parametrize("how", ["SIGTERM", "end of input"])
def test_the_server_ends_when_told_to_and_ignores_sigint(how: str) -> None:
    with serving("--parallel", "1") as (process, _):
        process.send_signal(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.3)
        if how == "SIGTERM":
            process.terminate()
        else:
            assert process.stdin is not None
            process.stdin.close()
        assert process.wait(10) in (0, -signal.SIGTERM)


def test_the_server_ends_with_its_parent() -> None:
    # The pipe to its standard input is held open here, so that only its parent's death can end it.
    reading, writing = os.pipe()
    parent = (
        "import subprocess, sys, time; "
        f"subprocess.Popen({[*SERVER, '--parallel', '1']!r}, stdin={reading}); time.sleep(600)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", parent], stdout=subprocess.PIPE, pass_fds=[reading], text=True
    ) as process:
        try:
            assert process.stdout is not None
            pid = json.loads(process.stdout.readline())["pid"]
            assert is_alive(pid)
            process.kill()
            wait_until(lambda: not is_alive(pid), what="the end of the server")
        finally:
            process.kill()
            os.close(reading)
            os.close(writing)


def test_the_whole_way_from_client_to_model_and_nothing_is_left() -> None:
    environ = {"DSPYMQ_LM_MODEL": "local"}
    with (
        running_broker() as broker,
        running_pool(broker, targets=["examples.programs"], processes=2, environ=environ) as pool,
        Client(broker.clients) as client,
    ):
        got = client.with_options(timeout_s=120).call("sentiment", review="The best coffee I ever had.")
        assert got.sentiment == "positive"
        servers = [line for line in pool.process.members().values() if "dspymq.worker.local.server" in line]
        assert len(servers) == 1
