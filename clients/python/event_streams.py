"""What `subscribe` gives: the broker's events as they come, for `async for` and for `for`."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING, Any, Final

import msgspec

from dspymq.exceptions import ClientClosed, DspymqError
from dspymq.subscriptions import BrokerEvent

if TYPE_CHECKING:
    from dspymq.driver import Driver

MAX_WAITING: Final = 10_000
"""Events that wait to be read; past it the oldest are dropped, and the next one read has `gap`."""


class AsyncEvents:
    """Iterate over it; `close()` (or leaving `async with`) ends the subscription."""

    def __init__(self, driver: "Driver", key: str) -> None:
        self._driver = driver
        self._key = key
        self._waiting: deque[BrokerEvent] = deque()
        self._dropped = False
        self._news = asyncio.Event()
        self._ready = False
        self._error: DspymqError | None = None

    async def ready(self) -> None:
        """Wait until the broker has taken the subscription. Raises DspymqError when it does not."""
        while not self._ready and self._error is None:
            self._news.clear()
            await self._news.wait()
        if self._error is not None:
            raise self._error.fresh()

    def close(self) -> None:
        """End the subscription; iteration stops. Idempotent."""
        if self._error is None:
            self._driver.unsubscribe(self._key)
            self.subscription_ended(ClientClosed("the subscription is closed"))

    async def next(self) -> BrokerEvent | None:
        """The next event; None after `close`. Raises DspymqError when the subscription broke."""
        while not self._waiting and self._error is None:
            self._news.clear()
            await self._news.wait()
        if self._waiting:
            event = self._waiting.popleft()
            if self._dropped:
                self._dropped = False
                return msgspec.structs.replace(event, gap=True)
            return event
        if self._error is None or isinstance(self._error, ClientClosed):
            return None
        raise self._error.fresh()

    async def __aenter__(self) -> "AsyncEvents":
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    async def __aiter__(self) -> AsyncIterator[BrokerEvent]:
        while (event := await self.next()) is not None:
            yield event

    # What the driver tells.

    def subscription_ready(self) -> None:
        """The broker took it."""
        self._ready = True
        self._news.set()

    def event_arrived(self, event: BrokerEvent) -> None:
        """One more."""
        self._waiting.append(event)
        if len(self._waiting) > MAX_WAITING:
            self._waiting.popleft()
            self._dropped = True
        self._news.set()

    def subscription_ended(self, error: DspymqError) -> None:
        """There will be no more."""
        self._error = error
        self._news.set()


class Events:
    """The same for `for`: iteration waits for the next event, and stops after `close()`."""

    def __init__(self, inner: AsyncEvents, run: Callable[[Callable[[], Any]], Any], call: Callable[..., None]) -> None:
        self._inner = inner
        self._run = run
        self._call = call

    def close(self) -> None:
        """End the subscription. Idempotent."""
        try:
            self._call(self._inner.close)
        except DspymqError:
            # The client was closed meanwhile, which ended it.
            return

    def __enter__(self) -> "Events":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[BrokerEvent]:
        while (event := self._run(self._inner.next)) is not None:
            yield event
