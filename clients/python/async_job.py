"""`AsyncJob`: one job as its submitter sees it, on the event loop of its client."""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable, Generator, Mapping, Sequence
from typing import Any, Literal

from dspymq import events as ev
from dspymq import exceptions
from dspymq.chunks import Chunk
from dspymq.driver import Driver
from dspymq.exceptions import DspymqError
from dspymq.prediction import Prediction
from dspymq.protocol.client_messages import Accepted, Progress, Started
from dspymq.tool_calls import Answer
from dspymq.tool_runner import ToolRunner
from dspymq.tools import Tool

log = logging.getLogger("dspymq.client")

JobStatus = Literal["open", "queued", "dispatched", "running", "cancelling", "done"]


class AsyncJob:
    """A submitted job. `await job` (or `await job.result()`) gives its Prediction or raises its error.

    A job that was submitted with `stream=True` can be iterated once, for its text as it is written:

        async for chunk in job:
            if chunk.reset:
                clear_all_fields()
            show(chunk.field, chunk.text)

    The iteration ends with the job and raises its error, if it has one. `chunk.reset` says that all text before it
    is void (see Chunk); whoever only wants the text as it stands looks at `job.text`, where that is done already.
    What the reader has not read is bounded by the job's `window`, without slowing the job down.
    """

    def __init__(self, driver: Driver, job_id: str, program: str, *, stream: bool, tools: Sequence[Tool] = ()) -> None:
        self.id = job_id
        self.program = program
        self.status: JobStatus = "open"
        """Where it stands, as far as it was said: submit with `watch=[...]` to hear of it."""
        self.attempt = 0
        """The attempt heard of last; 0 before any."""
        self.worker: str | None = None
        """Who runs it (with `watch=["started"]`)."""
        self.missing: tuple[str, ...] = ()
        """What no worker offers now, so that it waits (with `watch=["accepted"]`)."""
        self.progress: Progress | None = None
        """How far it is (with `watch=["progress"]`)."""
        self._driver = driver
        self._streams = stream
        self._value: Prediction | DspymqError | None = None
        self._pieces: dict[str, list[str]] = {}
        self._unread: deque[Chunk] = deque()
        self._waiters: list[asyncio.Future[None]] = []
        self._on_end: list[Callable[[], None]] = []
        self._tools = ToolRunner(tools, self._tool_answered) if tools else None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id} {self.program!r} {self.status}>"

    @property
    def text(self) -> Mapping[str, str]:
        """The text so far, by output field, of a job that streams."""
        return {name: "".join(pieces) for name, pieces in list(self._pieces.items())}

    def done(self) -> bool:
        """Whether it has ended, in whatever way."""
        return self._value is not None

    def exception(self) -> DspymqError | None:
        """The error it ended with; None when it went well or has not ended."""
        return self._value.fresh() if isinstance(self._value, DspymqError) else None

    def cancel(self) -> None:
        """Stop it; idempotent, and without effect on a job that is done. It ends as its result says, soon."""
        if self._value is None:
            self._driver.feed(ev.CancelJob(self.id))

    async def result(self, timeout_s: float | None = None) -> Prediction:
        """Wait for its end. Raises its error, or TimeoutError after `timeout_s` (the job goes on)."""
        async with asyncio.timeout(timeout_s):
            while self._value is None:
                await self._news()
        return self.outcome()

    def outcome(self) -> Prediction:
        """The Prediction of a job that is done. Raises its error, or RuntimeError when it is not done."""
        if self._value is None:
            raise RuntimeError(f"job {self.id} is not done")
        if isinstance(self._value, DspymqError):
            raise self._value.fresh()
        return self._value

    def add_done_callback(self, callback: Callable[[], None]) -> None:
        """Call this, on the client's loop, once the job has ended; at once if it has."""
        if self._value is None:
            self._on_end.append(callback)
        else:
            callback()

    def __await__(self) -> Generator[Any, None, Prediction]:
        return self.result().__await__()

    async def __aiter__(self) -> AsyncIterator[Chunk]:
        while chunks := await self.next_chunks(1):
            for chunk in chunks:
                yield chunk

    async def next_chunks(self, at_most: int = 1_000) -> list[Chunk]:
        """The next chunks that were not read yet, waiting for at least one; [] at the end of a job that went well.

        Raises the job's error at the end of one that did not, FailedPrecondition for a job that does not stream.
        """
        if not self._streams:
            text = f"job {self.id} was submitted without stream=True"
            raise exceptions.FailedPrecondition(text, reason="not_streamed", job=self.id)
        while not self._unread:
            if self._value is not None:
                self.outcome()
                return []
            await self._news()
        taken = [self._unread.popleft() for _ in range(min(at_most, len(self._unread)))]
        if self._value is None:
            self._driver.feed(ev.ReadChunk(self.id, taken[-1].attempt, taken[-1].seq))
        return taken

    # What the driver tells.

    def job_updated(self, message: Accepted | Started | Progress) -> None:
        """See driver.JobHandle."""
        self.attempt = message.attempt
        if isinstance(message, Accepted):
            self.status = message.state
            self.missing = tuple(message.missing)
        else:
            self.status = "running"
            self.missing = ()
            if isinstance(message, Started):
                self.worker = message.worker
            else:
                self.progress = message
        self._tell()

    def job_text(self, chunks: Sequence[Chunk]) -> None:
        """See driver.JobHandle."""
        for chunk in chunks:
            if chunk.reset:
                self._pieces.clear()
                self._unread.clear()
            if chunk.field:
                self._pieces.setdefault(chunk.field, []).append(chunk.text)
            self._unread.append(chunk)
        self.attempt = chunks[-1].attempt
        self.status = "running"
        self.missing = ()
        self._tell()

    def tool_called(self, called: ev.ToolCalled) -> None:
        """See driver.JobHandle."""
        self.status = "running"
        if self._tools is not None:
            self._tools.call(called)

    def tools_void(self) -> None:
        """See driver.JobHandle."""
        if self._tools is not None:
            self._tools.stop()

    def job_ended(self, value: Prediction | DspymqError) -> None:
        """See driver.JobHandle."""
        self._value = value
        if self._tools is not None:
            self._tools.stop()
        self.status = "done"
        self._tell()
        callbacks, self._on_end = self._on_end, []
        run_callbacks(callbacks)

    def _tool_answered(self, run: int, answer: Answer) -> None:
        if self._value is None:
            self._driver.feed(ev.AnswerTool(self.id, run, answer))

    async def _news(self) -> None:
        """Wait until something was told."""
        waiter = self._driver.bind().create_future()
        self._waiters.append(waiter)
        try:
            await waiter
        finally:
            if waiter in self._waiters:
                self._waiters.remove(waiter)

    def _tell(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)


def run_callbacks(callbacks: Sequence[Callable[[], None]]) -> None:
    """Call each; what one raises is logged and harms neither the others nor the client."""
    for callback in callbacks:
        try:
            callback()
        except Exception:
            log.exception("callback_failed")
