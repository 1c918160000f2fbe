"""The LM engine of a job's calls: one request at a time towards a provider, under the job's deadline and stop.

DSPy calls `JobEngine` from programs on the event loop and `SyncBridge` from programs in threads; both end in
`JobEngine.run` on the loop, so that a stopped job closes its request at the provider at once. Retries are made here
and not by DSPy, whose synchronous ones sleep in the thread for as long as the provider says. Streaming is decided
here too, call by call: DSPy's own needs listeners per job and cannot serve programs in threads.
"""

import asyncio
import concurrent.futures
from collections.abc import AsyncIterator, Collection, Coroutine
from typing import Any, Protocol, TypeVar

from dspy.clients.call_result import usage_dict
from dspy.clients.costs import estimate_cost
from dspy.dsp.utils.settings import settings
from dspy.lm15 import RETRYABLE_ERRORS, AsyncResponseStream
from dspy.utils.exceptions import LMError

from dspymq.worker.executor.context import SETTING, JobContext, JobStopped
from dspymq.worker.executor.gates import Gate, Permit, outcome_of
from dspymq.worker.executor.splitters import AutoSplitter, JSONSplitter, Splitter
from dspymq.worker.executor.tries import Tries

T = TypeVar("T")


class BlockingCallError(LMError):  # type: ignore[misc]
    """A program on the event loop called its LM without `await`, which would stall every other job."""


class InnerEngine(Protocol):
    """An asynchronous DSPy engine (dspy.clients.engines.base.AsyncEngine) that makes one attempt."""

    async def complete(self, request: Any) -> Any:
        """The response to a request."""

    def stream(self, request: Any) -> AsyncIterator[Any]:
        """The events of the response."""


class JobEngine:
    """DSPy's `async_engine=`. One for each profile and event loop."""

    def __init__(
        self,
        inner: InnerEngine,
        *,
        model: str,
        loop: asyncio.AbstractEventLoop,
        retries: int = 0,
        gate: Gate | None = None,
        provider: str | None = None,
        json_answers: bool = False,
    ) -> None:
        """`provider` and `model` find the price; `json_answers` says that answers are JSON whatever they begin with.

        `gate` is the profile's; without one calls go out as they come.
        """
        self._inner = inner
        self._model = model
        self._loop = loop
        self._retries = retries
        self._gate = gate
        self._provider = provider
        self._json_answers = json_answers

    async def complete(self, request: Any) -> Any:
        """DSPy's entry for asynchronous programs."""
        job, fields = _caller()
        return await self._on_loop(self.run(request, job, fields))

    async def stream(self, request: Any) -> AsyncIterator[Any]:
        """For programs that stream to themselves (dspy.streamify). A failure is not tried again, a throttle is."""
        job, _ = _caller()
        if job is None:
            raise BlockingCallError("no job owns this LM call")
        task = job.enter_call()
        tries = Tries(self._gate, 0, job.deadline_s, self._loop)
        try:
            while True:
                permit = await self._on_loop(tries.begin())
                has_begun = False
                job.usage.begin()
                try:
                    async with AsyncResponseStream(self._inner.stream(request), request) as response:
                        async for event in response.events():
                            has_begun = True
                            yield event
                        self._record(job, request, await response.response())
                except BaseException as error:
                    self._end(tries, permit, error)
                    if has_begun or outcome_of(error) != "throttled" or not isinstance(error, Exception):
                        raise
                    throttle = error
                else:
                    self._end(tries, permit, None)
                    return
                finally:
                    job.usage.end()
                await self._on_loop(tries.again(throttle))
        finally:
            job.leave_call(task)

    async def run(self, request: Any, job: JobContext | None, fields: frozenset[str] | None) -> Any:
        """The response, after retries. On the engine's loop; raises CancelledError if the job is stopped.

        `fields` are the text fields of the calling predictor, or None if its answer is not for the stream.
        """
        if job is None:
            return await self._inner.complete(request)
        task = job.enter_call()
        tries = Tries(self._gate, self._retries, job.deadline_s, self._loop)
        try:
            while True:
                permit = await tries.begin()
                job.usage.begin()
                try:
                    response = await self._attempt(request, job, fields)
                except RETRYABLE_ERRORS as error:
                    tries.end(permit, error)
                    failure = error
                except BaseException as error:
                    tries.end(permit, error)
                    raise
                else:
                    tries.end(permit, None)
                    return response
                finally:
                    job.usage.end()
                await tries.again(failure)
        finally:
            job.leave_call(task)

    async def _on_loop(self, work: Coroutine[Any, Any, T]) -> T:
        """Programs may have loops of their own; what belongs to the executor's is done there."""
        if asyncio.get_running_loop() is self._loop:
            return await work
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))

    def _end(self, tries: Tries, permit: Permit | None, error: BaseException | None) -> None:
        if _running_loop() is self._loop:
            tries.end(permit, error)
        else:
            self._loop.call_soon_threadsafe(tries.end, permit, error)

    async def _attempt(self, request: Any, job: JobContext, fields: frozenset[str] | None) -> Any:
        stream = job.stream
        if stream is None or not stream.wanted or fields is None:
            response = await self._inner.complete(request)
        else:
            response = await self._streamed(request, job, frozenset(filter(stream.takes, fields)))
        self._record(job, request, response)
        return response

    async def _streamed(self, request: Any, job: JobContext, fields: frozenset[str]) -> Any:
        splitter: Splitter = JSONSplitter(fields) if self._json_answers else AutoSplitter(fields)
        call = job.next_call()
        async with AsyncResponseStream(self._inner.stream(request), request) as response:
            async for text in response:
                _write(job, call, splitter, text)
            _write(job, call, splitter, "", final=True)
            return await response.response()

    def _record(self, job: JobContext, request: Any, response: Any) -> None:
        usage = usage_dict(response, self._provider)
        cost, _ = estimate_cost(response, provider=self._provider, requested_model=self._model, request=request)
        job.usage.record(self._model, usage.get("prompt_tokens"), usage.get("completion_tokens"), cost)


class SyncBridge:
    """DSPy's `engine=`: what programs in threads call. Waits for the loop, and not one moment after a stop.

    It also declares what the model can do, which DSPy reads off this engine for both kinds of calls.
    """

    def __init__(self, engine: JobEngine, loop: asyncio.AbstractEventLoop, capabilities: Any) -> None:
        """`capabilities` is a dspy.clients.capabilities.Capabilities."""
        self._engine = engine
        self._loop = loop
        self.supports_function_calling: bool = capabilities.function_calling
        self.supports_reasoning: bool = capabilities.reasoning
        self.supports_response_schema: bool = capabilities.response_schema
        self.supported_params: Collection[str] = capabilities.params

    def complete(self, request: Any) -> Any:
        """DSPy's entry for synchronous programs. Raises JobStopped in the program's thread."""
        job, fields = _caller()
        if job is not None and job.token.cause is not None:
            raise JobStopped
        if _running_loop() is self._loop:
            raise BlockingCallError(
                "a synchronous LM call inside an asynchronous program; use `await predictor.acall(...)`, or give the "
                "module a `forward` and no `aforward` so that it runs in a thread"
            )
        future = asyncio.run_coroutine_threadsafe(self._engine.run(request, job, fields), self._loop)
        try:
            return future.result()
        except (concurrent.futures.CancelledError, asyncio.CancelledError):
            raise JobStopped from None


def _caller() -> tuple[JobContext | None, frozenset[str] | None]:
    job = settings.get(SETTING)
    if not isinstance(job, JobContext):
        return None, None
    if job.stream is None or not job.stream.wanted:
        return job, None
    callers = settings.get("caller_modules") or []
    signature = getattr(callers[-1], "signature", None) if callers else None
    outputs = getattr(signature, "output_fields", None)
    if not outputs:
        return job, None
    return job, frozenset(name for name, field in outputs.items() if field.annotation is str)


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _write(job: JobContext, call: int, splitter: Splitter, text: str, *, final: bool = False) -> None:
    pieces = splitter.feed(text, final)
    if pieces and job.stream is not None:
        for piece in pieces:
            job.stream.write(call, piece.field, piece.text, restart=piece.restart)
        if job.on_text is not None:
            job.on_text()
