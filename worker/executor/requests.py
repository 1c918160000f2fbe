"""What an executor asks its supervisor over the pipe, and the answers. For the event loop's thread."""

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

from dspymq.protocol.messages import Error, Reply, Request
from dspymq.worker.pipe import Pipe

T = TypeVar("T")


class Refused(Exception):
    """The supervisor said no; `error` says why."""

    def __init__(self, error: Error) -> None:
        super().__init__(error.message)
        self.error = error


class Requests:
    """The requests of one executor."""

    def __init__(self, pipe: Pipe) -> None:
        self._pipe = pipe
        self._loop = asyncio.get_running_loop()
        self._last = 0
        self._open: dict[str, tuple[asyncio.Future[Any], Callable[[str, bytes], Any]]] = {}

    def tell(self, method: str, body: bytes) -> str:
        """Say something that is not answered; returns its rid."""
        self._last += 1
        rid = f"x{self._last}"
        self._pipe.send(Request(rid=rid, method=method), body)
        return rid

    def ask(self, method: str, body: bytes, read: Callable[[str, bytes], T]) -> tuple[str, "asyncio.Future[T]"]:
        """Ask; the rid, and what `read(rid, body)` makes of the answer, in the moment in which that comes.

        The future raises Refused, or what `read` raises.
        """
        rid = self.tell(method, body)
        future: asyncio.Future[T] = self._loop.create_future()
        self._open[rid] = future, read
        future.add_done_callback(lambda _: self._open.pop(rid, None))
        return rid, future

    def answered(self, reply: Reply, body: bytes) -> None:
        """The supervisor answered; what is not open (any more) is ignored."""
        future, read = self._open.pop(reply.rid, (None, None))
        if future is None or read is None or future.done():
            return
        try:
            future.set_result(read(reply.rid, body))
        except Exception as error:
            future.set_exception(error)

    def refused(self, rid: str, error: Error) -> None:
        """The supervisor refused."""
        future, _ = self._open.pop(rid, (None, None))
        if future is not None and not future.done():
            future.set_exception(Refused(error))
