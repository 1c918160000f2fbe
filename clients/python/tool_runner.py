"""Runs the tools of one job for its program: beside each other within a bound, until the job ends."""

import asyncio
import contextvars
import inspect
import logging
import threading
import traceback
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from dspymq.events import ToolCalled
from dspymq.plain import encode_body
from dspymq.protocol import body as bodies
from dspymq.protocol.errors import Code, ProtocolError
from dspymq.tool_calls import Answer
from dspymq.tools import Tool

log = logging.getLogger("dspymq.client.tools")

AT_ONCE: Final = 8
"""Tools of one job that run at the same time; further calls wait, and their time runs."""

MAX_MESSAGE_CHARS: Final = 500


class ToolRunner:
    """For the client's event loop. `answer(run, answer)` is called once for each run that was not stopped before.

    Coroutine functions are awaited on the loop and cancelled when their time is over or the job ends. Other functions
    run in daemon threads, which nothing can stop: what they return too late is dropped, and they keep their place
    among those that run until they return. Both see the context variables of whoever made this runner.
    """

    def __init__(self, tools: Sequence[Tool], answer: Callable[[int, Answer], None]) -> None:
        self._tools = {tool.name: tool for tool in tools}
        self._answer = answer
        self._context = contextvars.copy_context()
        self._room = asyncio.Semaphore(AT_ONCE)
        self._running: set[asyncio.Task[None]] = set()

    def call(self, called: ToolCalled) -> None:
        """Run a tool."""
        loop = asyncio.get_running_loop()
        task = loop.create_task(self._run(called), context=self._context.copy())
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    def stop(self) -> None:
        """Stop what runs; nothing of it is answered."""
        for task in self._running:
            task.cancel()
        self._running = set()

    async def _run(self, called: ToolCalled) -> None:
        limit = asyncio.timeout(called.timeout_ms / 1_000)
        try:
            async with limit:
                answer = await self._outcome(called)
        except TimeoutError:
            answer = Answer(Code.DEADLINE_EXCEEDED.value, f"no answer within {called.timeout_ms} ms")
        self._answer(called.run, answer)

    async def _outcome(self, called: ToolCalled) -> Answer:
        tool = self._tools.get(called.name)
        if tool is None:
            known = ", ".join(self._tools)
            return _refusal(Code.NOT_FOUND, f"there is no tool {called.name!r}; there are {known}")
        try:
            args = tool.arguments(bodies.part(called.body, "args"))
        except (ProtocolError, ValueError) as error:
            return _refusal(Code.INVALID_ARGUMENT, f"the arguments do not fit: {error}")
        await self._room.acquire()
        if tool.is_async:
            try:
                return await _awaited(tool, lambda: tool.fn(**args))
            finally:
                self._room.release()
        outcome = await self._in_thread(tool, args)
        if isinstance(outcome, Answer):
            return outcome
        return await _awaited(tool, lambda: outcome)

    async def _in_thread(self, tool: Tool, args: dict[str, Any]) -> Any:
        """The answer; or the awaitable that the function turned out to return."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Any] = loop.create_future()
        context = contextvars.copy_context()

        def work() -> None:
            outcome = context.run(_called, tool, args)
            try:
                loop.call_soon_threadsafe(finish, outcome)
            except RuntimeError:
                # The loop is closed, and nobody waits any more.
                return

        def finish(outcome: Any) -> None:
            self._room.release()
            if not done.done():
                done.set_result(outcome)
            elif inspect.iscoroutine(outcome):
                outcome.close()

        try:
            threading.Thread(target=work, name=f"dspymq-tool-{tool.name}", daemon=True).start()
        except RuntimeError as error:
            self._room.release()
            return _raised(tool, error)
        return await done


def _called(tool: Tool, args: dict[str, Any]) -> Any:
    """What a synchronous function gives, as an answer already: making its value plain may take as long as it did."""
    try:
        value = tool.fn(**args)
        return value if inspect.isawaitable(value) else _given(tool, value)
    except BaseException as error:
        return _raised(tool, error)


async def _awaited(tool: Tool, start: Callable[[], Awaitable[Any]]) -> Answer:
    try:
        return _given(tool, await start())
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        return _raised(tool, error)
    except (Exception, SystemExit) as error:
        return _raised(tool, error)


def _given(tool: Tool, value: Any) -> Answer:
    try:
        return Answer(body=encode_body(value=value))
    except ProtocolError as problem:
        return _refusal(Code.INTERNAL, f"what {tool.name} returned cannot be sent: {problem.message}")


def _raised(tool: Tool, error: BaseException) -> Answer:
    """The text goes to the program and its model; where it happened is for the log of this process."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename != __file__]
    place = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "?"
    log.warning("tool_failed name=%s type=%s at=%s", tool.name, type(error).__name__, place)
    text = " ".join(str(error).split())
    return _refusal(Code.UNKNOWN, f"{type(error).__name__}: {text}" if text else type(error).__name__)


def _refusal(code: Code, message: str) -> Answer:
    message = message.encode("utf-8", "replace").decode()
    return Answer(
        code.value, message if len(message) <= MAX_MESSAGE_CHARS else message[: MAX_MESSAGE_CHARS - 3] + "..."
    )
