"""Runs programs in this process, as an executor does, against the scripted LM."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import dspy
import msgpack
import pytest

from dspymq.protocol import worker_messages as w
from dspymq.worker.executor.context import CancelToken
from dspymq.worker.executor.jobs import Job, JobRunner, Outcome, Watcher
from dspymq.worker.executor.lms import LMSet
from dspymq.worker.executor.programs import make_program
from dspymq.worker.executor.registry import Registry
from dspymq.worker.executor.specs import INLINE, SpecCache
from dspymq.worker.executor.streams import StreamBuffer
from dspymq.worker.executor.tool_calls import OpenCall
from dspymq.worker.executor.tool_channel import ToolChannel
from dspymq.worker.profiles import LMProfile
from tests.lm.scripted import ScriptedLM
from tests.unit.worker.kit import FakeEngine, profile_lm


@dataclass
class Pool:
    """What a pool would have: profiles at a scripted LM, modules of its own, and what it lends to specs."""

    lm: ScriptedLM
    modules: dict[str, Any] = field(default_factory=dict)
    registry: Registry = field(default_factory=Registry)
    settings: dict[str, Any] = field(default_factory=dict)
    engine: Any = None
    """An LM in memory instead of the scripted one, for what that does not speak."""

    def call(self, program: str, inputs: dict[str, Any], **body: Any) -> Outcome:
        """Run one of the modules."""
        return self._run(program, inputs, body)[0]

    def spec(self, spec: dict[str, Any], inputs: dict[str, Any], **body: Any) -> Outcome:
        """Run a spec."""
        return self._run(INLINE, inputs, {"spec": spec, **body})[0]

    def streamed(self, spec: dict[str, Any], inputs: dict[str, Any], **body: Any) -> tuple[Outcome, dict[str, str]]:
        """Run a spec whose client wants chunks; also the text of each field as the client has it in the end."""
        return self._run(INLINE, inputs, {"spec": spec, **body}, wants_chunks=True)

    def _run(
        self, program: str, inputs: dict[str, Any], body: dict[str, Any], *, wants_chunks: bool = False
    ) -> tuple[Outcome, dict[str, str]]:
        functions: dict[str, Callable[..., Any]] = body.pop("functions", {})
        body["tools"] = [tool_of(one) for one in functions.values()]

        async def run() -> tuple[Outcome, dict[str, str]]:
            async with asyncio.timeout(50):
                return await self._job(Job(program, packed(inputs, body), 40_000), functions, wants_chunks)

        return asyncio.run(run())

    async def _job(
        self, job: Job, functions: dict[str, Callable[..., Any]], wants_chunks: bool
    ) -> tuple[Outcome, dict[str, str]]:
        loop = asyncio.get_running_loop()
        profiles = {
            name: LMProfile(name=name, model="openai/scripted", api_base=self.lm.url, num_retries=0, **self.settings)
            for name in ("default", "other")
        }
        lms = LMSet(profiles, loop)
        if self.engine is not None:
            lms.adopt("default", profile_lm(self.engine))
        runner = JobRunner(
            {name: make_program(name, module) for name, module in self.modules.items()},
            lms,
            concurrency=4,
            max_body_bytes=1 << 20,
            specs=SpecCache(registry=self.registry),
        )
        channel = ToolChannel(lambda call, _: answer(call), loop=loop, max_body_bytes=1 << 20)

        def answer(call: OpenCall) -> None:
            value = functions[call.name](**msgpack.unpackb(call.body)["args"])
            result = w.ToolResult(lease="l", attempt=1, call=call.number, code="OK")
            loop.call_soon(channel.answer, result, msgpack.packb({"value": value}))

        stream = StreamBuffer(wanted=wants_chunks)
        texts: dict[str, str] = {}

        def take(*, last: bool = False) -> None:
            while (chunk := stream.take(last=last)) is not None:
                if chunk.reset:
                    texts.clear()
                for name, text in chunk.fields.items():
                    texts[name] = texts.get(name, "") + text

        outcome = await runner.run(job, CancelToken(), stream, Watcher(on_text=take), channel)
        take(last=True)
        return outcome, texts


class Asked(FakeEngine):
    """An LM in memory that keeps the requests it got."""

    def __init__(self, answer: Callable[[str], str]) -> None:
        super().__init__(answer)
        self.requests: list[Any] = []

    async def complete(self, request: Any) -> Any:
        self.requests.append(request)
        return await super().complete(request)

    async def stream(self, request: Any) -> AsyncIterator[Any]:
        self.requests.append(request)
        async for event in super().stream(request):
            yield event


@pytest.fixture
def pool(scripted_lm: ScriptedLM) -> Pool:
    """A pool at a fresh scripted LM."""
    return Pool(scripted_lm)


def packed(inputs: dict[str, Any], body: dict[str, Any]) -> bytes:
    """The body of a job."""
    made: bytes = msgpack.packb({"inputs": inputs, **body})
    return made


def outputs(outcome: Outcome) -> dict[str, Any]:
    """The outputs of a job that must have succeeded."""
    assert outcome.code == "OK", outcome
    found: dict[str, Any] = msgpack.unpackb(outcome.body)["outputs"]
    return found


def tool_of(function: Callable[..., Any]) -> dict[str, Any]:
    """How a client offers a function."""
    made = dspy.Tool(function)
    schema = {"type": "object", "properties": made.args, "required": list(made.args)}
    return {"name": made.name, "description": made.desc or "", "parameters": schema}
