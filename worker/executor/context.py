"""What belongs to one running job and travels with it through DSPy's settings: stop, deadline, usage, stream."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Literal

from dspymq.worker.executor.streams import StreamBuffer
from dspymq.worker.executor.usage import JobUsage

if TYPE_CHECKING:
    from dspymq.worker.executor.tool_channel import ToolChannel

SETTING: Final = "dspymq_job"
"""Its key in DSPy's settings, which (unlike a ContextVar) DSPy carries into the threads of Parallel and Evaluate."""

Cause = Literal["cancel", "deadline", "fenced"]


class JobStopped(BaseException):
    """Raised in the thread of a synchronous program whose job was stopped.

    A BaseException, so that a program's `except Exception` does not take it for a failed LM call and go on.
    """


class CancelToken:
    """Says once, and for one cause, that a job must stop. For the event loop's thread; `cause` may be read anywhere."""

    def __init__(self) -> None:
        self.cause: Cause | None = None
        self._callbacks: list[Callable[[], None]] = []

    def cancel(self, cause: Cause) -> None:
        """Stop the job; later calls are ignored."""
        if self.cause is None:
            self.cause = cause
            callbacks, self._callbacks = self._callbacks, []
            for callback in callbacks:
                callback()

    def on_cancel(self, callback: Callable[[], None]) -> None:
        """Call this when the job is stopped; at once if it already is."""
        if self.cause is None:
            self._callbacks.append(callback)
        else:
            callback()


class JobContext:
    """One running job. `deadline_s` is on the loop's clock; `on_text` is called after text was written."""

    def __init__(
        self,
        *,
        token: CancelToken,
        usage: JobUsage,
        deadline_s: float,
        stream: StreamBuffer | None = None,
        on_text: Callable[[], None] | None = None,
        on_progress: Callable[[int | None, int | None, str | None], None] | None = None,
        tools: ToolChannel | None = None,
    ) -> None:
        self.token = token
        self.usage = usage
        self.deadline_s = deadline_s
        self.stream = stream
        self.on_text = on_text
        self.on_progress = on_progress
        self.tools = tools
        self._calls = 0
        self._is_over = False
        self._open: set[asyncio.Task[Any]] = set()

    def next_call(self) -> int:
        """The number of the next LM call, counted from 1 in the order in which they begin."""
        self._calls += 1
        return self._calls

    def enter_call(self) -> asyncio.Task[Any] | None:
        """Note that the current task waits for the LM, or for a tool of the client.

        Raises CancelledError if the job was stopped or is over.
        """
        if self.token.cause is not None or self._is_over:
            raise asyncio.CancelledError
        task = asyncio.current_task()
        if task is not None:
            self._open.add(task)
        return task

    def leave_call(self, task: asyncio.Task[Any] | None) -> None:
        """Undo `enter_call`."""
        if task is not None:
            self._open.discard(task)

    def close_calls(self) -> None:
        """Cancel every call that is open; one to the LM closes its request at the provider."""
        for task in list(self._open):
            task.cancel()

    def end(self) -> None:
        """The job is over: nothing it left running may call an LM or a tool any more."""
        self._is_over = True
        self.close_calls()
