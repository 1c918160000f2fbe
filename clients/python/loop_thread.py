"""A background thread with an event loop of its own, for callers that have none."""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, Final, TypeVar

END_S: Final = 1.0
"""How long what still runs at the end may take to come to its own."""

T = TypeVar("T")


class LoopThread:
    """Runs from its making until `stop`; a daemon, so that it never holds the interpreter back.

    Its methods may be called from every thread but its own.
    """

    def __init__(self, name: str) -> None:
        # zmq's file descriptors need a loop that selects, also where that is not the default.
        self.loop = asyncio.SelectorEventLoop()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def start(self, coroutine: Coroutine[Any, Any, T]) -> "Future[T]":
        """Start a coroutine on the loop, for `wait`.

        Raises RuntimeError from within the thread itself, which would wait for itself.
        """
        if self.is_current():
            coroutine.close()
            raise RuntimeError("this would wait for its own thread; use another thread, or AsyncClient")
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop)

    def wait(self, future: "Future[T]") -> T:
        """The result of what was started; interrupting the wait (Ctrl-C) cancels it."""
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """The coroutine's result: `start` and `wait`."""
        return self.wait(self.start(coroutine))

    def call(self, callback: Callable[..., object], *args: Any) -> None:
        """Call this soon, on the loop. Raises RuntimeError when the thread was stopped."""
        self.loop.call_soon_threadsafe(callback, *args)

    def is_current(self) -> bool:
        """Whether the caller is this very thread."""
        return threading.current_thread() is self._thread

    def stop(self, timeout_s: float = 2.0) -> None:
        """End the loop, after what was called before, and wait for the thread. Idempotent."""
        with contextlib.suppress(RuntimeError):
            self.loop.call_soon_threadsafe(self.loop.stop)
        if not self.is_current():
            self._thread.join(timeout_s)

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_forever()
        finally:
            with contextlib.suppress(Exception):
                self._end_rest()
            self.loop.close()

    def _end_rest(self) -> None:
        # Those who wait have their answer by now, and need a moment to take it.
        tasks = asyncio.all_tasks(self.loop)
        if tasks:
            self.loop.run_until_complete(asyncio.wait(tasks, timeout=END_S))
        for task in tasks:
            task.cancel()
        self.loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
