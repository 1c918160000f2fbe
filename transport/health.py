"""`/livez` and `/readyz` over HTTP, for whoever watches a process from outside."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable
from typing import Final

Check = Callable[[], str | None]
"""None: all is well; else why not, for people."""

HEAD_BYTES: Final = 8_192
PATIENCE_S: Final = 5.0
"""How long a peer may take to say what it wants."""


class HealthServer:
    """Answers GET and HEAD on the running loop: 200, or 503 and the reason. One request a connection.

    That `/livez` is answered at all shows that the loop runs. `address` is HOST:PORT; port 0 lets the system choose.
    """

    def __init__(self, address: str, checks: dict[str, Check]) -> None:
        """`checks` by path, such as {"/readyz": ...}. Raises ValueError if the address is not one."""
        self._host, self._port = _parse(address)
        self._checks = {"/livez": lambda: None, **checks}
        self._server: asyncio.Server | None = None

    @property
    def address(self) -> str:
        """What was really bound."""
        if self._server is None:
            return f"{self._host}:{self._port}"
        host, port, *_ = self._server.sockets[0].getsockname()
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    async def start(self) -> None:
        """Listen. Raises OSError if the address is in use or not this machine's."""
        self._server = await asyncio.start_server(self._serve, self._host, self._port, limit=HEAD_BYTES)

    async def stop(self) -> None:
        """Listen no more. Idempotent."""
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()
            self._server = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, TimeoutError, ValueError, asyncio.IncompleteReadError):
            async with asyncio.timeout(PATIENCE_S):
                method, path, *_ = (await reader.readline()).decode("latin-1").split()
                while (await reader.readline()).strip():
                    pass
                writer.write(self._answer(method, path.partition("?")[0]))
                await writer.drain()
        writer.close()

    def _answer(self, method: str, path: str) -> bytes:
        if method not in ("GET", "HEAD"):
            return _response("405 Method Not Allowed", {"status": "only GET and HEAD"}, method)
        check = self._checks.get(path)
        if check is None:
            return _response("404 Not Found", {"status": "not found", "paths": sorted(self._checks)}, method)
        problem = check()
        if problem is None:
            return _response("200 OK", {"status": "ok"}, method)
        return _response("503 Service Unavailable", {"status": "unavailable", "why": problem}, method)


def _parse(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65_535:
        raise ValueError(f"{address!r} is not an address for health checks: write HOST:PORT, such as 127.0.0.1:8080")
    return host.strip("[]"), int(port)


def _response(status: str, content: dict[str, object], method: str) -> bytes:
    body = json.dumps(content).encode() + b"\n"
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        "Cache-Control: no-store\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + (b"" if method == "HEAD" else body)
