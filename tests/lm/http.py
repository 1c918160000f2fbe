"""A small HTTP/1.1 server protocol: keep-alive, and a disconnect cancels the handler at once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

Handler = Callable[["Exchange"], Awaitable[None]]

_REASONS = {200: "OK", 400: "Bad Request", 401: "Unauthorized", 404: "Not Found", 429: "Too Many Requests"}


class Exchange:
    """One request and the writing of its answer."""

    def __init__(self, connection: Connection, method: str, path: str, body: bytes) -> None:
        self._connection = connection
        self.method = method
        self.path = path
        self.body = body
        self.on_disconnect: Callable[[], None] = lambda: None

    def reply(self, status: int, content: object, headers: dict[str, str] | None = None) -> None:
        """Answer with a JSON document."""
        data = json.dumps(content, ensure_ascii=False).encode()
        head = {"Content-Type": "application/json", "Content-Length": str(len(data)), **(headers or {})}
        self._connection.write(_head(status, head) + data)

    def start_events(self) -> None:
        """Begin a stream of server-sent events."""
        head = {"Content-Type": "text/event-stream", "Transfer-Encoding": "chunked"}
        self._connection.write(_head(200, head))

    async def events(self, data: list[str]) -> None:
        """Write events in one go; waits while the client does not read."""
        out = b""
        for one in data:
            event = f"data: {one}\n\n".encode()
            out += b"%x\r\n%b\r\n" % (len(event), event)
        self._connection.write(out)
        await self._connection.writable.wait()

    def end_events(self) -> None:
        """End the stream."""
        self._connection.write(b"0\r\n\r\n")

    def drop(self) -> None:
        """Close the connection at once, with a reset."""
        self._connection.abort()


class Connection(asyncio.Protocol):
    """Reads requests one after another and runs `handler` for each."""

    def __init__(self, handler: Handler, connections: set[Connection]) -> None:
        self._handler = handler
        self._connections = connections
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._exchange: Exchange | None = None
        self._task: asyncio.Task[None] | None = None
        self._keep = True
        self.writable = asyncio.Event()
        self.writable.set()

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.discard(self)
        if self._exchange is not None:
            self._exchange.on_disconnect()
        if self._task is not None:
            self._task.cancel()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._next()

    def pause_writing(self) -> None:
        self.writable.clear()

    def resume_writing(self) -> None:
        self.writable.set()

    def write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _next(self) -> None:
        if self._exchange is not None or self._transport is None:
            return
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        lines = self._buffer[:end].decode("latin-1").split("\r\n")
        headers = {k.strip().lower(): v.strip() for k, _, v in (line.partition(":") for line in lines[1:])}
        try:
            method, path, version = lines[0].split(" ")
            length = int(headers.get("content-length", "0"))
        except ValueError:
            self._transport.close()
            return
        if len(self._buffer) < end + 4 + length:
            return
        body = bytes(self._buffer[end + 4 : end + 4 + length])
        del self._buffer[: end + 4 + length]
        self._keep = version == "HTTP/1.1" and headers.get("connection", "").lower() != "close"
        self._exchange = Exchange(self, method, path, body)
        self._task = asyncio.get_running_loop().create_task(self._run(self._exchange))

    async def _run(self, exchange: Exchange) -> None:
        try:
            await self._handler(exchange)
        except Exception as error:  # a fault of the LM itself: the test should read it, not a hang
            exchange.reply(500, {"error": {"message": f"scripted LM: {error!r}", "type": "scripted_lm_fault"}})
        self._exchange = None
        if self._keep:
            self._next()
        elif self._transport is not None:
            self._transport.close()


def _head(status: int, headers: dict[str, str]) -> bytes:
    lines = "".join(f"{k}: {v}\r\n" for k, v in headers.items())
    return f"HTTP/1.1 {status} {_REASONS.get(status, 'Scripted')}\r\n{lines}\r\n".encode("latin-1")
