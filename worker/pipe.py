"""The pipe between supervisor and executor: DJP messages over a stream socket pair, both directions non-blocking.

A frame is u32 header length, u32 body length (big-endian), header, body. Both ends are processes of ours, so headers
are decoded without the wire's strict profile. Bound to one asyncio loop; no thread may touch it.
"""

import asyncio
import logging
import os
import socket
import struct
from collections import deque
from typing import Final

import msgspec

from dspymq.protocol import worker_messages
from dspymq.protocol.messages import Header

log = logging.getLogger("dspymq.worker.pipe")

_LENGTHS: Final = struct.Struct(">II")
_READ_BYTES: Final = 256 * 1024
_MAX_HEADER_BYTES: Final = 16 * 1024 * 1024
_MAX_BODY_BYTES: Final = 1024 * 1024 * 1024
_PAUSE_READING_BYTES: Final = 64 * 1024 * 1024
"""What may wait unread in this process before the other side feels it."""

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[worker_messages.Message] = msgspec.msgpack.Decoder(worker_messages.Message)

Received = tuple[worker_messages.Message, bytes]


class Pipe:
    """One end. `send` buffers and never blocks; `receive` gives what came, in order, and None at the end."""

    @classmethod
    def open(cls, sock: socket.socket) -> "Pipe":
        """Take over this end of a stream socket pair, on the running loop."""
        return cls(sock, asyncio.get_running_loop())

    def __init__(self, sock: socket.socket, loop: asyncio.AbstractEventLoop) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._loop = loop
        self._input = bytearray()
        self._received: deque[Received] = deque()
        self._received_bytes = 0
        self._waiter: asyncio.Future[None] | None = None
        self._reading = True
        self._ended = False
        self._closed = False
        self._output: deque[memoryview] = deque()
        self._output_bytes = 0
        self._drained: list[asyncio.Future[None]] = []
        loop.add_reader(sock, self._on_readable)

    @property
    def pending_bytes(self) -> int:
        """What was sent and has not been taken by the kernel yet."""
        return self._output_bytes

    @property
    def is_open(self) -> bool:
        """Whether the other side may still hear what is sent."""
        return not (self._ended or self._closed)

    def send(self, message: Header, body: bytes = b"") -> None:
        """Send, or buffer, one message. After the other side is gone, or `close`, it is dropped."""
        if self._closed:
            return
        header = _encoder.encode(message)
        start = _LENGTHS.pack(len(header), len(body)) + header
        parts = [memoryview(start), memoryview(body)] if body else [memoryview(start)]
        if not self._output:
            try:
                taken = self._sock.sendmsg(parts)
            except (BlockingIOError, InterruptedError):
                taken = 0
            except OSError:
                self._give_up_writing()
                return
            parts = _after(parts, taken)
            if not parts:
                return
            self._loop.add_writer(self._sock, self._on_writable)
        self._output.extend(parts)
        self._output_bytes += sum(len(part) for part in parts)

    async def receive(self) -> Received | None:
        """The next message with its body (b"" if it has none); None at the end of the stream. For one task."""
        while not self._received:
            if self._ended or self._closed:
                return None
            self._waiter = self._loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        return self._pop()

    def receive_nowait(self) -> Received | None:
        """A message that is already here, or None."""
        return self._pop() if self._received else None

    async def drained(self) -> None:
        """Wait until everything sent so far is with the kernel, or the other side is gone."""
        if self._output:
            future = self._loop.create_future()
            self._drained.append(future)
            await future

    def close(self) -> None:
        """Close this end at once; what is buffered and unsent is dropped. A second call does nothing."""
        if self._closed:
            return
        self._closed = True
        if self._reading:
            self._loop.remove_reader(self._sock)
        self._give_up_writing()
        self._sock.close()
        self._wake()

    def abandon(self) -> None:
        """In a forked child, whose pipe this is not: the other side never hears of it, and it hears that all is over.

        The file descriptor stays, connected to nothing: whatever the child inherited keeps no connection open.
        """
        ours, theirs = socket.socketpair()
        theirs.close()
        os.dup2(ours.fileno(), self._sock.fileno())
        ours.close()

    def _pop(self) -> Received:
        message = self._received.popleft()
        self._received_bytes -= len(message[1])
        if not self._reading and not self._ended and not self._closed and self._received_bytes <= _PAUSE_READING_BYTES:
            self._reading = True
            self._loop.add_reader(self._sock, self._on_readable)
        return message

    def _on_readable(self) -> None:
        try:
            data = self._sock.recv(_READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if not data:
            self._end()
            return
        self._input += data
        try:
            self._split()
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            log.error("event=pipe_corrupt error=%s", type(error).__name__)
            self._end()
            return
        if self._received_bytes > _PAUSE_READING_BYTES:
            self._reading = False
            self._loop.remove_reader(self._sock)
        if self._received:
            self._wake()

    def _split(self) -> None:
        at = 0
        with memoryview(self._input) as view:
            while len(view) - at >= _LENGTHS.size:
                header_bytes, body_bytes = _LENGTHS.unpack_from(view, at)
                if header_bytes > _MAX_HEADER_BYTES or body_bytes > _MAX_BODY_BYTES:
                    raise ValueError("a length on the pipe is out of bounds")
                start = at + _LENGTHS.size
                end = start + header_bytes + body_bytes
                if end > len(view):
                    break
                message = _decoder.decode(view[start : start + header_bytes])
                self._received.append((message, bytes(view[start + header_bytes : end])))
                self._received_bytes += body_bytes
                at = end
        if at:
            del self._input[:at]

    def _on_writable(self) -> None:
        parts = [self._output[n] for n in range(min(len(self._output), 64))]
        try:
            taken = self._sock.sendmsg(parts)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self._give_up_writing()
            return
        self._output_bytes -= taken
        while taken:
            first = self._output[0]
            if len(first) <= taken:
                taken -= len(self._output.popleft())
            else:
                self._output[0] = first[taken:]
                taken = 0
        if not self._output:
            self._loop.remove_writer(self._sock)
            self._release_drained()

    def _give_up_writing(self) -> None:
        """The other side is gone: its messages are dropped; what it wrote is still read to its end."""
        if self._output:
            self._loop.remove_writer(self._sock)
            self._output.clear()
            self._output_bytes = 0
        self._release_drained()

    def _release_drained(self) -> None:
        waiting, self._drained = self._drained, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    def _end(self) -> None:
        self._ended = True
        if self._reading:
            self._reading = False
            self._loop.remove_reader(self._sock)
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


def _after(parts: list[memoryview], taken: int) -> list[memoryview]:
    left = []
    for part in parts:
        if taken >= len(part):
            taken -= len(part)
        else:
            left.append(part[taken:])
            taken = 0
    return left
