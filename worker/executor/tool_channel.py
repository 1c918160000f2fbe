"""The way from a running program to the tools of its client, and back (SPEC section 9.6).

A program on the event loop awaits `ToolChannel.call`, a program in a thread waits in `call_from_thread`; both wait
under the job's deadline and stop, as for an LM call.
"""

import asyncio
import concurrent.futures
from collections.abc import Callable
from typing import Any, Final

from dspymq.protocol import body as bodies
from dspymq.protocol import worker_messages as w
from dspymq.protocol.errors import Code, ProtocolError
from dspymq.worker.executor import outputs
from dspymq.worker.executor.context import JobContext, JobStopped
from dspymq.worker.executor.inputs import neutral
from dspymq.worker.executor.tool_calls import OpenCall, OpenCalls
from dspymq.worker.executor.tool_specs import NO_TOOLS, Toolset, ToolSpec

MAX_OPEN_CALLS: Final = 32
"""Calls of one attempt that may wait at its client; further ones wait here."""

MAX_ERROR_CHARS: Final = 500


class ToolError(Exception):
    """A tool that gave no value: it failed, took too long, or was called with wrong arguments.

    The text is short and for the model too, which `dspy.ReAct` shows the whole traceback of what a tool raises. So
    this exception shows none: what happened at the client is in its text, and how the worker got there is nobody's
    business.
    """

    __traceback__ = property(lambda _: None, lambda _, __: None)

    def __init__(self, message: str) -> None:
        super().__init__(message if len(message) <= MAX_ERROR_CHARS else message[: MAX_ERROR_CHARS - 3] + "...")


class ToolChannel:
    """The tools of one attempt. For the event loop's thread, `call_from_thread` excepted."""

    def __init__(
        self,
        send: Callable[[OpenCall, int], None],
        *,
        loop: asyncio.AbstractEventLoop,
        max_body_bytes: int,
    ) -> None:
        """`send(call, timeout_ms)` gives a call to the client."""
        self.toolset: Toolset = NO_TOOLS
        """What the job's body offers; set before the program runs."""
        self._send = send
        self._loop = loop
        self._max_body_bytes = max_body_bytes
        self._open = OpenCalls()
        self._answers: dict[int, asyncio.Future[tuple[w.ToolResult, bytes]]] = {}
        self._room = asyncio.Semaphore(MAX_OPEN_CALLS)
        self._wanted = True

    async def call(self, job: JobContext, spec: ToolSpec, args: dict[str, Any]) -> Any:
        """The value that the client's tool gives. Raises ToolError, or CancelledError if the job is stopped."""
        body = self._encode(spec, args)
        task = job.enter_call()
        try:
            async with self._room:
                return await self._ask(job, spec, body)
        finally:
            job.leave_call(task)

    def call_from_thread(self, job: JobContext, spec: ToolSpec, args: dict[str, Any]) -> Any:
        """`call` for synchronous programs. Raises ToolError, or JobStopped the moment the job is stopped."""
        if job.token.cause is not None:
            raise JobStopped
        if _running_loop() is self._loop:
            raise ToolError("a synchronous tool call inside an asynchronous program; use `await tool.acall(...)`")
        future = asyncio.run_coroutine_threadsafe(self.call(job, spec, args), self._loop)
        try:
            return future.result()
        except (concurrent.futures.CancelledError, asyncio.CancelledError):
            raise JobStopped from None

    async def call_from_anywhere(self, job: JobContext, spec: ToolSpec, args: dict[str, Any]) -> Any:
        """`call` for coroutines that may run on another loop than the job's."""
        if asyncio.get_running_loop() is self._loop:
            return await self.call(job, spec, args)
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self.call(job, spec, args), self._loop))

    def answer(self, result: w.ToolResult, body: bytes) -> None:
        """The client answered; what is not open (any more) is ignored."""
        if self._open.close(result.call):
            self._answers[result.call].set_result((result, body))

    def attach(self, *, wanted: bool) -> None:
        """A client attached: it is sent the open calls again, if it takes any."""
        self._wanted = wanted
        if wanted:
            for call, left_ms in self._open.again(self._now_ms()):
                self._send(call, left_ms)

    async def _ask(self, job: JobContext, spec: ToolSpec, body: bytes) -> Any:
        left_ms = max(1, round((job.deadline_s - self._loop.time()) * 1000))
        timeout_ms = left_ms if spec.timeout_ms is None else min(spec.timeout_ms, left_ms)
        call = self._open.open(spec.name, body, self._now_ms(), timeout_ms)
        answer = self._answers[call.number] = self._loop.create_future()
        try:
            if self._wanted:
                self._send(call, timeout_ms)
            # A call that may take as long as the job ends as the job does, by its deadline.
            await asyncio.wait({answer}, timeout=timeout_ms / 1000 if timeout_ms < left_ms else None)
        finally:
            self._open.close(call.number)
            del self._answers[call.number]
        # The client keeps the time too; the model reads the same text, whoever was the first to see it.
        if not answer.done() or answer.result()[0].code == Code.DEADLINE_EXCEEDED:
            raise ToolError(f"the tool `{spec.name}` gave no answer within {timeout_ms} ms")
        return _value(spec.name, *answer.result())

    def _encode(self, spec: ToolSpec, args: dict[str, Any]) -> bytes:
        try:
            plain = {name: outputs.plain(value) for name, value in args.items()}
            problems = spec.parameters.problems(plain)
            if problems:
                raise ToolError(f"wrong arguments for the tool `{spec.name}`: {'; '.join(problems)}")
            body = bodies.encode(args=plain)
        except (ProtocolError, ValueError, TypeError, RecursionError) as error:
            problem = f"the arguments of the tool `{spec.name}` have no plain form: {type(error).__name__}"
            raise ToolError(problem) from None
        if len(body) > self._max_body_bytes:
            problem = f"the arguments of the tool `{spec.name}` have {len(body)} bytes"
            raise ToolError(f"{problem}, the limit is {self._max_body_bytes}")
        return body

    def _now_ms(self) -> int:
        return round(self._loop.time() * 1000)


def _value(name: str, result: w.ToolResult, body: bytes) -> Any:
    if result.code != Code.OK:
        raise ToolError(f"the tool `{name}` failed: {neutral(result.message or result.code)}")
    try:
        return neutral(bodies.decode(body).get("value"))
    except ProtocolError as problem:
        raise ToolError(f"the tool `{name}` gave something unreadable: {problem.message}") from None


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
