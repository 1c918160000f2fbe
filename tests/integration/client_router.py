"""The scripted broker of `dspymq.testing` behind a real ROUTER, on the running loop."""

import asyncio
from collections.abc import Sequence
from typing import Any

import zmq

from dspymq.testing import FakeBroker
from dspymq.transport import LoopSocket, Unreachable, router


class _Route:
    """What FakeBroker takes for a link: one peer of the ROUTER."""

    def __init__(self, front: "RouterFront", route: bytes) -> None:
        self.address = front.address
        self.open = True
        self._front = front
        self._route = route

    def deliver(self, frames: Sequence[bytes]) -> None:
        self._front.send([self._route, *frames])

    def down(self, reason: str) -> None:
        """A ROUTER closes no connection of its own will."""


class RouterFront:
    """`async with RouterFront(broker) as front:` answers at `front.address` for as long as it lasts."""

    def __init__(self, broker: FakeBroker, address: str = "tcp://127.0.0.1:*") -> None:
        self._broker = broker
        self._context: zmq.Context[Any] = zmq.Context()
        self._socket = router(self._context)
        # What a test sends at once is with the kernel at once.
        self._socket.setsockopt(zmq.SNDHWM, 10_000)
        self._socket.bind(address)
        self.address = self._socket.getsockopt_string(zmq.LAST_ENDPOINT)
        self._routes: dict[bytes, Any] = {}
        self._waiting: list[Sequence[bytes]] = []
        self._front = LoopSocket(self._socket, self._receive, self._flush)

    async def __aenter__(self) -> "RouterFront":
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._front.close()
        self._context.term()

    def send(self, frames: Sequence[bytes]) -> None:
        self._waiting.append(frames)
        if len(self._waiting) == 1:
            self._flush()

    def _flush(self) -> None:
        while self._waiting:
            try:
                if not self._front.send(self._waiting[0]):
                    return
            except Unreachable:
                pass
            self._waiting.pop(0)

    def _receive(self, frames: list[bytes]) -> None:
        route = frames[0]
        link = self._routes.get(route)
        if link is None:
            link = self._routes[route] = _Route(self, route)
            self._broker.link_opened(link)
        self._broker.link_received(link, frames[1:])


async def until(condition, timeout_s: float = 10) -> None:
    """Wait, on the loop, for something that another process or thread brings about."""
    end = asyncio.get_running_loop().time() + timeout_s
    while not condition():
        assert asyncio.get_running_loop().time() < end, "it did not happen in time"
        await asyncio.sleep(0.005)
