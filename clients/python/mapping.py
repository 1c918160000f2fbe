"""`map`: many jobs, results in order, a bound on those in flight. One rule, an asynchronous and a plain face."""

import asyncio
import threading
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Generator, Iterable, Mapping
from typing import Any, Final, Protocol, TypeVar

from dspymq import exceptions
from dspymq.async_job import AsyncJob
from dspymq.exceptions import DspymqError
from dspymq.prediction import Prediction

AHEAD: Final = 8
"""Results that wait for a slower one before them: at most so many times the concurrency."""

Inputs = Mapping[str, Any]


class _Job(Protocol):
    def done(self) -> bool: ...
    def cancel(self) -> None: ...


J = TypeVar("J", bound=_Job)


def _has_room(window: "deque[J]", concurrency: int) -> bool:
    """Whether one more may be started."""
    if len(window) >= concurrency * AHEAD:
        return False
    return sum(not job.done() for job in window) < concurrency


def _check(concurrency: int) -> None:
    if concurrency < 1:
        raise exceptions.InvalidArgument(
            f"`concurrency` must be at least 1, not {concurrency}", reason="invalid_option"
        )


async def map_async(
    submit: Callable[[Inputs], AsyncJob],
    inputs: Iterable[Inputs] | AsyncIterable[Inputs],
    concurrency: int,
    return_exceptions: bool,
) -> AsyncGenerator[Prediction | DspymqError, None]:
    """See AsyncClient.map."""
    _check(concurrency)
    source = inputs.__aiter__() if isinstance(inputs, AsyncIterable) else iter(inputs)
    window: deque[AsyncJob] = deque()
    news = asyncio.Event()
    pull: asyncio.Future[Inputs | None] | None = None
    exhausted = False
    try:
        while True:
            news.clear()
            if pull is None and not exhausted and _has_room(window, concurrency):
                if isinstance(source, AsyncIterator):
                    # Beside the results: a slow source must not hold back what is done.
                    pull = asyncio.ensure_future(_next(source))
                    pull.add_done_callback(lambda _: news.set())
                    continue
                one = next(source, None)
            elif pull is not None and pull.done():
                one, pull = pull.result(), None
            elif window and window[0].done():
                yield _value(window.popleft(), return_exceptions)
                continue
            elif exhausted and not window:
                return
            else:
                await news.wait()
                continue
            if one is None:
                exhausted = True
                continue
            job = submit(one)
            job.add_done_callback(news.set)
            window.append(job)
    finally:
        if pull is not None:
            pull.cancel()
        for job in window:
            job.cancel()


class _SyncJob(_Job, Protocol):
    def outcome(self) -> Prediction: ...
    def exception(self) -> DspymqError | None: ...
    def add_done_callback(self, callback: Callable[[], None]) -> None: ...


def map_sync(
    submit: Callable[[Inputs], _SyncJob], inputs: Iterable[Inputs], concurrency: int, return_exceptions: bool
) -> Generator[Prediction | DspymqError, None, None]:
    """See Client.map. The inputs are read on the caller's thread."""
    _check(concurrency)
    source = iter(inputs)
    window: deque[_SyncJob] = deque()
    news = threading.Event()
    exhausted = False
    try:
        while True:
            news.clear()
            if not exhausted and _has_room(window, concurrency):
                try:
                    job = submit(next(source))
                except StopIteration:
                    exhausted = True
                else:
                    job.add_done_callback(news.set)
                    window.append(job)
            elif window and window[0].done():
                yield _value(window.popleft(), return_exceptions)
            elif exhausted and not window:
                return
            else:
                news.wait()
    finally:
        for job in window:
            job.cancel()


def _value(job: AsyncJob | _SyncJob, return_exceptions: bool) -> Prediction | DspymqError:
    error = job.exception()
    if error is None:
        return job.outcome()
    if return_exceptions:
        return error
    raise error


async def _next(source: AsyncIterator[Inputs]) -> Inputs | None:
    return await anext(source, None)
