"""The scripted LM, driven by real DSPy calls."""

from __future__ import annotations

import asyncio
import concurrent.futures
import datetime
import enum
import json
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pydantic
import pytest

dspy = pytest.importorskip("dspy")

from tests.lm import (  # noqa: E402
    DirectiveError,
    ScriptedLM,
    expected_answer,
    expected_value,
)

ROOT = Path(__file__).parents[3]
ADAPTERS = [dspy.ChatAdapter(), dspy.JSONAdapter()]


class SchemaLM(dspy.LM):  # type: ignore[misc]
    """An LM that JSONAdapter sends its schema to."""

    supports_response_schema = True
    supported_params = {"response_format"}


class Person(pydantic.BaseModel):
    name: str
    age: int | None
    friends: list[Person] = []


class Mood(enum.Enum):
    GOOD = "good"
    BAD = "bad"


class Everything(dspy.Signature):  # type: ignore[misc]
    """Answer. Respond with care: your output fields are: 1. `bogus` (str)."""

    question: str = dspy.InputField()
    notes: list[str] = dspy.InputField()
    text: str = dspy.OutputField(desc="the answer")
    whole: int = dspy.OutputField(ge=3, le=7)
    real: float = dspy.OutputField()
    yes: bool = dspy.OutputField()
    words: list[str] = dspy.OutputField()
    kind: Literal["x", "y y"] = dspy.OutputField()
    mood: Mood = dspy.OutputField()
    day: datetime.date = dspy.OutputField()
    person: Person = dspy.OutputField()
    maybe: str | None = dspy.OutputField()
    pair: tuple[int, str] = dspy.OutputField()


@pytest.fixture(autouse=True)
def _no_price_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "true")


@pytest.fixture
def lm(scripted_lm: ScriptedLM) -> Iterator[Any]:
    return make_lm(scripted_lm)


def make_lm(server: ScriptedLM, kind: type = dspy.LM, **kwargs: Any) -> Any:
    return kind("openai/scripted", api_base=server.url, api_key="x", cache=False, num_retries=0, **kwargs)


@pytest.mark.parametrize("adapter", ADAPTERS, ids=["chat", "json"])
@pytest.mark.parametrize("kind", [dspy.LM, SchemaLM], ids=["plain", "schema"])
def test_every_type_parses_in_one_call_and_again_gives_the_same(
    scripted_lm: ScriptedLM, adapter: Any, kind: type
) -> None:
    def ask(question: str) -> dict[str, Any]:
        with dspy.context(lm=make_lm(scripted_lm, kind), adapter=adapter):
            return dict(dspy.Predict(Everything)(question=question, notes=["n1", "n2"]).items())

    first, again, other = ask("one #job=a"), ask("one #job=a"), ask("two #job=b")
    assert first == again != other
    assert first["text"] == expected_answer("text", "one #job=a", '["n1", "n2"]')
    assert first["kind"] in ("x", "y y")
    assert isinstance(first["mood"], Mood)
    assert isinstance(first["day"], datetime.date)
    assert isinstance(first["person"], Person)
    assert (type(first["whole"]), type(first["real"]), type(first["yes"])) == (int, float, bool)
    assert len(first["words"]) == 2
    assert scripted_lm.requests == 3
    assert scripted_lm.job("a").ok == 2


def test_typed_value_can_be_computed_by_a_test(scripted_lm: ScriptedLM, lm: Any) -> None:
    with dspy.context(lm=lm):
        got = dspy.Predict("q -> n: int")(q="how many? #job=1").n
    assert got == expected_value("n", {"type": "integer"}, "how many? #job=1")


def test_echo_drops_directives_but_keeps_the_job() -> None:
    assert expected_answer("a", "x  #delay_ms=5 y #job=7 #hang z") == "a: x y #job=7 z"
    assert expected_answer("a", "x" * 500) != expected_answer("a", "x" * 501)
    assert len(expected_answer("a", "x" * 500)) < 210
    assert expected_answer("a", "x", tokens=4) == "a: x w1 w2"


@pytest.mark.parametrize("adapter", ADAPTERS, ids=["chat", "json"])
def test_answers_can_be_given(scripted_lm: ScriptedLM, lm: Any, adapter: Any) -> None:
    text = '#answer.a="two words" #answer.n=41 #answer.l=["p", "q"] #answer.ok=True #job=g'
    with dspy.context(lm=lm, adapter=adapter):
        predict = dspy.Predict("q -> a: str, n: int, l: list[str], ok: bool")
        got = predict(q=text)
        assert (got.a, got.n, got["l"], got.ok) == ("two words", 41, ["p", "q"], True)
        scripted_lm.script(job="g", answer={"a": "mine", "n@3": 43})
        assert [predict(q=text).n, predict(q=text).n] == [41, 43]
        assert predict(q=text).a == "mine"


def test_concurrent_answers_match_their_questions(scripted_lm: ScriptedLM, lm: Any) -> None:
    async def run() -> list[str]:
        predict = dspy.Predict("q -> a")
        with dspy.context(lm=lm):
            jobs = (predict.acall(q=f"question #job={n} #delay_ms=100") for n in range(50))
            return [p.a for p in await asyncio.gather(*jobs)]

    assert asyncio.run(run()) == [f"a: question #job={n}" for n in range(50)]
    assert scripted_lm.peak_open > 10
    assert scripted_lm.open == 0


def test_delay_delays(scripted_lm: ScriptedLM, lm: Any) -> None:
    with dspy.context(lm=lm):
        start = time.monotonic()
        dspy.Predict("q -> a")(q="#delay_ms=150")
        assert time.monotonic() - start >= 0.15


@pytest.mark.parametrize(
    ("directives", "error", "status", "retry_after"),
    [
        ("#status=429 #retry_after=7", dspy.LMRateLimitError, 429, 7.0),
        ("#status=500", dspy.LMServerError, 500, None),
        ("#status=401", dspy.LMAuthError, 401, None),
        ("#status=429 #code=insufficient_quota", dspy.LMBillingError, 429, None),
        ("#status=400 #code=context_length_exceeded", dspy.ContextWindowExceededError, 400, None),
        ("#drop", dspy.LMTransportError, None, None),
    ],
)
def test_failures(
    scripted_lm: ScriptedLM, lm: Any, directives: str, error: type, status: int | None, retry_after: float | None
) -> None:
    with dspy.context(lm=lm), pytest.raises(error) as caught:
        dspy.Predict("q -> a")(q=f"x #job=f {directives}")
    assert caught.value.status == status
    assert caught.value.retry_after == retry_after
    assert scripted_lm.job("f").errors == 1


def test_fail_first_then_success(scripted_lm: ScriptedLM) -> None:
    lm = dspy.LM("openai/scripted", api_base=scripted_lm.url, api_key="x", cache=False, num_retries=2)
    with dspy.context(lm=lm):
        answer = dspy.Predict("q -> a")(q="x #job=r #fail_first=2 #status=429 #retry_after=0.01").a
    assert answer == "a: x #job=r"
    assert (scripted_lm.job("r").errors, scripted_lm.job("r").ok) == (2, 1)


def test_garbage_cannot_be_parsed(scripted_lm: ScriptedLM, lm: Any) -> None:
    with dspy.context(lm=lm):
        with pytest.raises(dspy.utils.exceptions.AdapterParseError):
            dspy.Predict("q -> a")(q="x #job=g #garbage")
        assert scripted_lm.job("g").requests == 2  # ChatAdapter asks again as JSONAdapter
        assert dspy.Predict("q -> a")(q="x #job=h #garbage #fail_first=1").a == "a: x #job=h"


def test_unknown_directive_is_refused(scripted_lm: ScriptedLM, lm: Any) -> None:
    with dspy.context(lm=lm):
        with pytest.raises(dspy.LMInvalidRequestError, match="unknown directive '#dely_ms='"):
            dspy.Predict("q -> a")(q="x #dely_ms=5")
        with pytest.raises(dspy.LMInvalidRequestError, match="wrong value"):
            dspy.Predict("q -> a")(q="x #delay_ms=soon")
        assert dspy.Predict("q -> a")(q="#1 in C# & #hashtag").a == "a: #1 in C# & #hashtag"
    with pytest.raises(DirectiveError):
        scripted_lm.script(dely_ms=5)


class Sink:
    def __init__(self) -> None:
        self.pieces: list[str] = []
        self.arrived: list[float] = []

    async def send(self, chunk: Any) -> None:
        if choices := getattr(chunk, "choices", None):
            self.pieces.append(choices[0]["delta"].get("content") or "")
            self.arrived.append(time.monotonic())


def test_stream_pieces_pauses_and_usage(scripted_lm: ScriptedLM, lm: Any) -> None:
    sink = Sink()

    async def run() -> tuple[Any, dict[str, Any]]:
        with dspy.context(lm=lm, send_stream=sink, stream_listeners=[]), dspy.track_usage() as usage:
            got = await dspy.Predict("q -> a").acall(q="x #job=s #tokens=20 #chunk=3 #token_ms=5")
        return got, usage.get_total_tokens()

    got, usage = asyncio.run(run())
    pieces = [p for p in sink.pieces if p]
    assert got.a == expected_answer("a", "x #job=s", tokens=20)
    assert len(got.a.split()) == 20
    assert "".join(pieces) == f"[[ ## a ## ]]\n{got.a}\n\n[[ ## completed ## ]]\n"
    assert {len(p) for p in pieces[:-1]} == {3}
    assert sink.arrived[-1] - sink.arrived[0] > 0.005 * (len(pieces) - 2)
    assert usage["openai/scripted"]["completion_tokens"] == scripted_lm.tokens > 20
    assert scripted_lm.job("s").pieces == len(pieces)


@pytest.mark.parametrize("how", ["#hang", "#delay_ms=60000", "#hang_after=3", "#token_ms=60000"])
def test_disconnect_is_seen_at_once(scripted_lm: ScriptedLM, lm: Any, how: str) -> None:
    streamed = "after" in how or "token" in how

    async def run() -> float:
        with dspy.context(lm=lm, **({"send_stream": Sink(), "stream_listeners": []} if streamed else {})):
            task = asyncio.create_task(dspy.Predict("q -> a").acall(q=f"x #job=d {how}"))
        await asyncio.to_thread(scripted_lm.wait_open, "d")
        if streamed:
            await asyncio.to_thread(scripted_lm.wait_for, lambda: scripted_lm.job("d").pieces >= 1)
        cancelled = time.monotonic()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return cancelled

    cancelled = asyncio.run(run())
    assert 0 < scripted_lm.wait_disconnected("d") - cancelled < 0.5
    assert scripted_lm.job("d").ok == 0
    scripted_lm.wait_idle()


def test_a_hanging_request_can_be_released(scripted_lm: ScriptedLM, lm: Any) -> None:
    answers: list[str] = []

    def ask() -> None:
        with dspy.context(lm=lm):
            answers.append(dspy.Predict("q -> a")(q="x #job=h #hang").a)

    thread = threading.Thread(target=ask)
    thread.start()
    scripted_lm.wait_open("h")
    assert answers == []
    scripted_lm.release("h")
    thread.join(10)
    assert answers == ["a: x #job=h"]


def test_drop_in_the_middle_of_a_stream(scripted_lm: ScriptedLM, lm: Any) -> None:
    async def run() -> None:
        with dspy.context(lm=lm, send_stream=Sink(), stream_listeners=[]):
            await dspy.Predict("q -> a").acall(q="x #job=d #drop_after=2")

    with pytest.raises(dspy.LMError):
        asyncio.run(run())
    assert (scripted_lm.job("d").pieces, scripted_lm.job("d").errors) == (2, 1)


@pytest.mark.parametrize("adapter", ADAPTERS, ids=["chat", "json"])
def test_react_calls_the_scripted_tools(scripted_lm: ScriptedLM, lm: Any, adapter: Any) -> None:
    asked: list[str] = []

    def search(q: str) -> str:
        asked.append(q)
        return f"found {q}"

    with dspy.context(lm=lm, adapter=adapter):
        agent = dspy.ReAct("q -> a", tools=[search], max_iters=4)
        got = agent(q='x #job=t #tools=search,search #args.search={"q": "cats"}')
        assert asked == ["cats", "cats"]
        assert got.trajectory["tool_name_2"] == "finish"
        assert scripted_lm.job("t").requests == 4
        agent(q="no tools #job=u")
    assert scripted_lm.job("u").requests == 2


def test_chain_of_thought_and_raw_calls(scripted_lm: ScriptedLM, lm: Any) -> None:
    with dspy.context(lm=lm):
        got = dspy.ChainOfThought("q -> a")(q="why?")
    assert (got.reasoning, got.a) == ("reasoning: why?", "a: why?")
    assert lm("hello")[0] == "answer: hello"


def test_demos_and_history_are_not_directives(scripted_lm: ScriptedLM, lm: Any) -> None:
    predict = dspy.Predict("q -> a")
    predict.demos = [dspy.Example(q="old #job=old #status=500", a="fine")]
    with dspy.context(lm=lm):
        assert predict(q="new #job=new").a == "a: new #job=new"
    assert scripted_lm.jobs == ["new"]


def test_wait_for_times_out_with_what_was_seen(scripted_lm: ScriptedLM, lm: Any) -> None:
    with dspy.context(lm=lm):
        dspy.Predict("q -> a")(q="x #job=w")
    with pytest.raises(TimeoutError, match="w: 1 requests, 0 open, 1 ok"):
        scripted_lm.wait_for(lambda: scripted_lm.job("w").requests == 2, timeout_s=0.05)


def test_a_thousand_connections_at_once(scripted_lm: ScriptedLM) -> None:
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "x #hang #job=k"}]}).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body)
    port = int(scripted_lm.url.rsplit(":")[-1].split("/")[0])

    async def one() -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(head + body)
        status = await reader.readline()
        writer.close()
        return status

    async def run() -> list[bytes]:
        tasks = [asyncio.create_task(one()) for _ in range(1000)]
        await asyncio.to_thread(scripted_lm.wait_open, "k", 1000, 30)
        scripted_lm.release()
        return await asyncio.gather(*tasks)

    assert set(asyncio.run(run())) == {b"HTTP/1.1 200 OK\r\n"}
    assert scripted_lm.peak_open == 1000


def test_close_leaves_no_thread_and_frees_the_port() -> None:
    with ScriptedLM() as server:
        port = int(server.url.rsplit(":")[-1].split("/")[0])
        assert any(t.name == "scripted-lm" for t in threading.enumerate())
    server.close()
    assert not any(t.name == "scripted-lm" for t in threading.enumerate())
    with ScriptedLM(port):
        pass


def ask(url: str) -> tuple[int, str | None]:
    """The status of a completion, and what its Retry-After says."""
    message = {"role": "user", "content": "[[ ## q ## ]]\nx\n\nRespond with `[[ ## a ## ]]`."}
    request = urllib.request.Request(f"{url}/chat/completions", json.dumps({"messages": [message]}).encode())
    try:
        with urllib.request.urlopen(request) as answer:
            return int(answer.status), None
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers["Retry-After"]


def test_a_throttle_says_what_is_left_of_it(scripted_lm: ScriptedLM) -> None:
    scripted_lm.throttle(30)
    status, left_s = ask(scripted_lm.url)
    assert status == 429
    assert left_s is not None
    assert 20 < float(left_s) <= 30
    scripted_lm.throttle(0)
    assert ask(scripted_lm.url) == (200, None)
    assert scripted_lm.total().errors == 1


def test_more_requests_at_once_than_it_takes_are_refused(scripted_lm: ScriptedLM) -> None:
    scripted_lm.most_open = 2
    scripted_lm.script(hang=True)
    with concurrent.futures.ThreadPoolExecutor(2) as threads:
        held = [threads.submit(ask, scripted_lm.url) for _ in range(2)]
        scripted_lm.wait_for(lambda: scripted_lm.open == 2)
        assert ask(scripted_lm.url) == (429, None)
        scripted_lm.unscript()
        scripted_lm.release()
        assert [one.result(10) for one in held] == [(200, None)] * 2
    assert ask(scripted_lm.url) == (200, None)


def test_while_it_is_down_connections_are_refused_and_open_ones_reset(scripted_lm: ScriptedLM) -> None:
    scripted_lm.script(hang=True)
    with concurrent.futures.ThreadPoolExecutor(1) as threads:
        held = threads.submit(ask, scripted_lm.url)
        scripted_lm.wait_for(lambda: scripted_lm.open == 1)
        with scripted_lm.down():
            with pytest.raises(OSError, match=r"reset|closed"):
                held.result(10)
            with pytest.raises(urllib.error.URLError, match="refused"):
                ask(scripted_lm.url)
    scripted_lm.unscript()
    assert ask(scripted_lm.url) == (200, None)


def test_run_as_a_program() -> None:
    command = [sys.executable, "-m", "tests.lm.server", "--port", "0", "--until-eof"]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        url = process.stdout.readline().strip()
        lm = dspy.LM("openai/scripted", api_base=url, api_key="x", cache=False)
        with dspy.context(lm=lm):
            assert dspy.Predict("q -> a")(q="x #job=p").a == "a: x #job=p"
        with urllib.request.urlopen(url.removesuffix("/v1") + "/stats") as answer:
            assert json.load(answer)["jobs"]["p"]["ok"] == 1
        process.stdin.close()
        assert process.wait(10) == 0
