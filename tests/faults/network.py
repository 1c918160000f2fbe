"""A network that can be broken: a TCP proxy on the way of one or more connections.

It keeps what it does not pass on: nothing of a TCP stream is lost while its connection lives, so a `Flow` that is held
stands for a network that stalls, or for a peer that is there and does not read. What a network throws away without a
word, only tests.faults.namespaces shows.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
import threading
from collections.abc import Coroutine, Iterator
from typing import Any, Final, Self, TypeVar

T = TypeVar("T")

READ_BYTES: Final = 16 * 1024
QUEUE: Final = 16
"""Reads that may wait in the proxy, for a flow that is delayed or slow."""
BUFFER_BYTES: Final = 64 * 1024
"""Of each socket: little, so that who writes into a flow that is held soon notices."""
CONTROL_S: Final = 10.0


class Flow:
    """One direction through a proxy, of all its connections. Set its attributes at any time, from any thread."""

    def __init__(self) -> None:
        self.held = False
        """Nothing is read, and nothing passed on."""
        self.delay_s = 0.0
        """So much later does everything arrive; nothing is slower."""
        self.bytes_per_s: float | None = None
        self.chop: random.Random | None = None
        """Writes are gathered for some milliseconds, then cut where these dice say."""
        self.passed_bytes = 0

    def heal(self) -> None:
        """Pass everything on at once again."""
        self.held, self.delay_s, self.bytes_per_s, self.chop = False, 0.0, None, None


class Proxy:
    """Listens at `address` and passes on to `target`; both are `tcp://host:port`.

    `up` is the direction to the target, `down` the one from it. It runs on a thread of its own.
    """

    def __init__(self, target: str) -> None:
        self._target = _host_port(target)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._listener: socket.socket | None = None
        self._acceptor: asyncio.Task[None] | None = None
        self._pairs: dict[asyncio.Task[None], tuple[socket.socket, socket.socket]] = {}
        self._silent: list[socket.socket] = []
        self._port = 0
        self.up, self.down = Flow(), Flow()
        self.mute = False
        """New connections are accepted, and nothing is said or read."""
        self.accepted = 0

    @property
    def address(self) -> str:
        """Where it listens, also while it does not."""
        return f"tcp://127.0.0.1:{self._port}"

    @property
    def connections(self) -> int:
        """Connections that are being passed on."""
        return len(self._pairs)

    def __enter__(self) -> Self:
        self._thread.start()
        self.come_back()
        return self

    def __exit__(self, *_: object) -> None:
        self.go_away()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(CONTROL_S)
        self._loop.close()

    def hold(self, *flows: Flow) -> None:
        """Stop reading these flows, or both, and close nothing: half-open."""
        for flow in flows or (self.up, self.down):
            flow.held = True

    def heal(self) -> None:
        """Both flows pass again, and connections that were left unanswered are reset."""
        self.mute = False
        self.up.heal()
        self.down.heal()
        self._run(self._close_silent())

    def reset(self) -> None:
        """End every connection by RST to both sides; what was under way is lost."""
        self._run(self._reset())

    def close_one_side(self, *, to_target: bool) -> None:
        """Send FIN to one side of every connection, and still pass on what that side says."""
        self._run(self._close_one_side(to_target))

    def go_away(self) -> None:
        """Stop listening, and end every connection: nobody is there any more."""
        self._run(self._go_away())

    def come_back(self) -> None:
        """Listen again at the same port."""
        self._run(self._listen())

    # -- on the loop ------------------------------------------------------------------------------------------------

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(CONTROL_S)

    async def _listen(self) -> None:
        listener = socket.create_server(("127.0.0.1", self._port), backlog=128)
        listener.setblocking(False)
        # Accepted sockets inherit it; set later it would not bound the window.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)
        self._port = listener.getsockname()[1]
        self._listener = listener
        self._acceptor = self._loop.create_task(self._accept(listener))

    async def _go_away(self) -> None:
        if self._acceptor is not None:
            self._acceptor.cancel()
            await asyncio.gather(self._acceptor, return_exceptions=True)
            self._acceptor = None
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        await self._close_silent()
        await self._reset()

    async def _close_silent(self) -> None:
        for sock in self._silent:
            _reset(sock)
        self._silent.clear()

    async def _reset(self) -> None:
        tasks = list(self._pairs)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _close_one_side(self, to_target: bool) -> None:
        for peer, target in self._pairs.values():
            with contextlib.suppress(OSError):
                (target if to_target else peer).shutdown(socket.SHUT_WR)

    async def _accept(self, listener: socket.socket) -> None:
        while True:
            peer, _ = await self._loop.sock_accept(listener)
            self.accepted += 1
            peer.setblocking(False)
            if self.mute:
                self._silent.append(peer)
                continue
            target = socket.socket()
            target.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
            target.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)
            target.setblocking(False)
            task = self._loop.create_task(self._pass_on(peer, target))
            self._pairs[task] = (peer, target)
            task.add_done_callback(self._pairs.pop)

    async def _pass_on(self, peer: socket.socket, target: socket.socket) -> None:
        """Both directions until both have ended; any error, or a cancel, resets both sides."""
        directions: list[asyncio.Task[None]] = []
        try:
            await self._loop.sock_connect(target, self._target)
            for sock in (peer, target):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            directions += [
                self._loop.create_task(work)
                for source, sink, flow in ((peer, target, self.up), (target, peer, self.down))
                for work in _direction(source, sink, flow)
            ]
            await asyncio.gather(*directions)
            peer.close()
            target.close()
        except OSError:
            # One side reset its connection, or the target is not there: the other side learns it the same way.
            pass
        finally:
            for direction in directions:
                direction.cancel()
            await asyncio.gather(*directions, return_exceptions=True)
            _reset(peer)
            _reset(target)


def _direction(source: socket.socket, sink: socket.socket, flow: Flow) -> list[Coroutine[Any, Any, None]]:
    queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(QUEUE)
    return [_read(source, flow, queue), _write(sink, flow, queue)]


async def _read(source: socket.socket, flow: Flow, queue: asyncio.Queue[tuple[float, bytes]]) -> None:
    loop = asyncio.get_running_loop()
    data = b"-"
    while data:
        await _while_held(flow)
        data = await loop.sock_recv(source, READ_BYTES)
        await queue.put((loop.time() + flow.delay_s, data))


async def _write(sink: socket.socket, flow: Flow, queue: asyncio.Queue[tuple[float, bytes]]) -> None:
    loop = asyncio.get_running_loop()
    data = b"-"
    while data:
        due, data = await queue.get()
        await asyncio.sleep(due - loop.time())
        await _while_held(flow)
        ended = not data
        if flow.chop is not None and data:
            await asyncio.sleep(flow.chop.uniform(0, 0.005))
            while not queue.empty() and not ended:
                more = queue.get_nowait()[1]
                data += more
                ended = not more
        for piece in _pieces(data, flow):
            await loop.sock_sendall(sink, piece)
            flow.passed_bytes += len(piece)
            await asyncio.sleep(len(piece) / flow.bytes_per_s if flow.bytes_per_s else 0)
        if ended:
            with contextlib.suppress(OSError):
                sink.shutdown(socket.SHUT_WR)
            return


async def _while_held(flow: Flow) -> None:
    while flow.held:  # noqa: ASYNC110 -- it is set by another thread
        await asyncio.sleep(0.005)


def _pieces(data: bytes, flow: Flow) -> Iterator[bytes]:
    if flow.chop is not None:
        at = 0
        while at < len(data):
            # Mostly single bytes and short ones for what is short: there the frames begin and end.
            size = flow.chop.choice((1, 2, 7, 100, 3_000)) if len(data) < 2_000 else flow.chop.randint(1, 8_000)
            yield data[at : at + size]
            at += size
    elif flow.bytes_per_s:
        size = max(1, int(flow.bytes_per_s / 50))
        yield from (data[at : at + size] for at in range(0, len(data), size))
    else:
        yield data


def _reset(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def _host_port(address: str) -> tuple[str, int]:
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    return host, int(port)
