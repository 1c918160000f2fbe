"""Helpers for tests of jobs: an LM engine in memory, and a runner over it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from typing import Any

import dspy
import msgpack
from dspy.lm15 import (
    Message,
    Response,
    StreamDeltaEvent,
    StreamEndEvent,
    StreamStartEvent,
    TextDelta,
    Usage,
)

from dspymq.worker.executor.context import CancelToken
from dspymq.worker.executor.engine import JobEngine, SyncBridge
from dspymq.worker.executor.gates import Gate
from dspymq.worker.executor.jobs import Job, JobRunner, Outcome, Watcher
from dspymq.worker.executor.lms import LOCAL_CAPABILITIES, LMSet, ProfileLM, make_lm
from dspymq.worker.executor.programs import make_program
from dspymq.worker.executor.streams import ChunkText, StreamBuffer
from dspymq.worker.profiles import LMProfile

Answer = Callable[[str], str]


def chat(**fields: str) -> str:
    """An answer as ChatAdapter reads it."""
    return "".join(f"[[ ## {name} ## ]]\n{text}\n\n" for name, text in fields.items()) + "[[ ## completed ## ]]"


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run an asynchronous test, for at most 40 s."""

    async def bounded() -> None:
        async with asyncio.timeout(40):
            await test()

    asyncio.run(bounded())


def last_line(prompt: str) -> str:
    """The question that stands in a prompt."""
    return prompt.split("[[ ## question ## ]]\n")[1].split("\n")[0]


def echo(prompt: str) -> str:
    """Answers `re: QUESTION`."""
    return chat(answer=f"re: {last_line(prompt)}")


class FakeEngine:
    """An LM in memory. `answer` makes the text from the last user message; may raise lm15 errors."""

    def __init__(self, answer: Answer, *, pieces: int = 3, wait: asyncio.Event | None = None) -> None:
        self.answer = answer
        self.pieces = pieces
        self.wait = wait
        self.calls = 0
        self.cancelled = 0
        self.entered = asyncio.Event()
        self.models: list[str] = []

    async def complete(self, request: Any) -> Any:
        text = await self._text(request)
        usage = Usage(input_tokens=10, output_tokens=3)
        return Response(id="1", model=request.model, message=Message.assistant(text), finish_reason="stop", usage=usage)

    async def stream(self, request: Any) -> AsyncIterator[Any]:
        text = await self._text(request)
        yield StreamStartEvent(id="1", model=request.model)
        for at in range(0, len(text), self.pieces):
            yield StreamDeltaEvent(TextDelta(text[at : at + self.pieces]))
            await asyncio.sleep(0)
        yield StreamEndEvent(finish_reason="stop", usage=Usage(input_tokens=10, output_tokens=3))

    async def _text(self, request: Any) -> str:
        self.calls += 1
        self.models.append(request.model)
        self.entered.set()
        try:
            if self.wait is not None:
                await self.wait.wait()
            else:
                await asyncio.sleep(0)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return self.answer(request.messages[-1].text)


def profile_lm(
    engine: Any, *, name: str = "default", retries: int = 0, adapter: Any = None, gate: Gate | None = None
) -> ProfileLM:
    """A profile's LM over an engine in memory; for the running loop."""
    loop = asyncio.get_running_loop()
    made = JobEngine(engine, model=f"fake/{name}", loop=loop, retries=retries, gate=gate)
    bridge = SyncBridge(made, loop, LOCAL_CAPABILITIES)
    profile = LMProfile(name=name, model=f"fake/{name}")
    return ProfileLM(make_lm(profile, f"fake/{name}", bridge, made), adapter)


def runner(
    engines: Mapping[str, Any] | Any, modules: Mapping[str, Any], *, retries: int = 0, **settings: Any
) -> JobRunner:
    """A runner over these modules, whose profiles are engines in memory (one alone is `default`)."""
    named = engines if isinstance(engines, Mapping) else {"default": engines}
    profiles = {name: LMProfile(name=name, model=f"fake/{name}") for name in named}
    lms = LMSet(profiles, asyncio.get_running_loop())
    for name, engine in named.items():
        lms.adopt(name, profile_lm(engine, name=name, retries=retries))
    programs = {name: make_program(name, module) for name, module in modules.items()}
    return JobRunner(programs, lms, **{"concurrency": 64, "max_body_bytes": 1 << 20, **settings})


def job(program: str, inputs: Any, *, timeout_ms: int = 10_000, profile: str | None = None, **parts: Any) -> Job:
    """A job with these inputs."""
    return Job(program, msgpack.packb({"inputs": inputs, **parts}), timeout_ms, None, profile)


def outputs(outcome: Outcome) -> dict[str, Any]:
    """The outputs of an outcome that must be OK."""
    assert outcome.code == "OK", outcome
    found: dict[str, Any] = msgpack.unpackb(outcome.body)["outputs"]
    return found


async def streamed(made: JobRunner, one: Job, **buffer: Any) -> tuple[Outcome, list[ChunkText]]:
    """Run a job that wants chunks, reading them as they come."""
    stream = StreamBuffer(**buffer)
    chunks: list[ChunkText] = []

    def take() -> None:
        while (chunk := stream.take()) is not None:
            chunks.append(chunk)

    outcome = await made.run(one, CancelToken(), stream, Watcher(on_text=take))
    while (chunk := stream.take(last=True)) is not None:
        chunks.append(chunk)
    return outcome, chunks


def text_of(chunks: list[ChunkText]) -> dict[str, str]:
    """What a client has in the end, following `reset`."""
    found: dict[str, str] = {}
    for number, chunk in enumerate(chunks):
        assert chunk.seq == number
        if chunk.reset:
            found = {}
        for name, text in chunk.fields.items():
            found[name] = found.get(name, "") + text
    return found


class Threaded(dspy.Module):  # type: ignore[misc]
    """A synchronous program: one call, `question -> answer`."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = dspy.Predict("question -> answer")

    def forward(self, question: str) -> Any:
        return self.inner(question=question)


class Twice(dspy.Module):  # type: ignore[misc]
    """Asynchronous, two calls one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = dspy.Predict("question -> answer")

    async def aforward(self, question: str) -> Any:
        first = await self.inner.acall(question=question)
        return await self.inner.acall(question=first.answer)
