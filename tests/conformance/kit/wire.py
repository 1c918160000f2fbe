"""Breaks our own client or broker on the wire: `python -m tests.conformance.kit.wire FAULT MODULE ARG...`.

Runs MODULE with every message that its sockets send or take going through a Fault, one of wrong_clients.py or
wrong_brokers.py. So each fault is one small function, and everything else is as right as ever.
"""

from __future__ import annotations

import importlib
import runpy
import sys
from collections.abc import Callable, Sequence
from typing import Any

import msgpack

import dspymq.transport
import dspymq.transport.loop_socket
import dspymq.transport.sockets
from dspymq.transport import LoopSocket

TAG = b"DJP1"
Header = dict[str, Any]
Message = tuple[Header, bytes]
OnFrames = Callable[[list[bytes]], None]


class Fault:
    """Changes nothing; a fault overrides what it needs. `peer` names whom the present message is from or for."""

    peer: tuple[bytes, ...] = ()

    def out(self, header: Header, body: bytes) -> list[Message]:
        """What is sent instead of this."""
        return [(header, body)]

    def into(self, header: Header, body: bytes) -> list[Message]:
        """What is taken instead of this."""
        return [(header, body)]

    def replies(self, header: Header) -> list[Message]:
        """What is sent at once in answer, besides."""
        return []

    def socket(self, socket: Any) -> Any:
        """A new DEALER, before it connects."""
        return socket


def install(fault: Fault) -> None:
    """From now on every socket goes through `fault`."""
    init, send = LoopSocket.__init__, LoopSocket.send

    def faulty_init(self: LoopSocket, socket: Any, on_frames: OnFrames, *rest: Any, **more: Any) -> None:
        def taken(frames: list[bytes]) -> None:
            parts = _split(frames)
            if parts is None:
                on_frames(frames)
                return
            prefix, header, body = parts
            fault.peer = tuple(prefix)
            for reply in fault.replies(header):
                send(self, [*prefix, *_joined(*reply)])
            for message in fault.into(header, body):
                on_frames(frames if _is_same(frames, message) else [*prefix, *_joined(*message)])

        init(self, socket, taken, *rest, **more)

    def faulty_send(self: LoopSocket, frames: Sequence[bytes]) -> bool:
        parts = _split(list(frames))
        if parts is None:
            return send(self, frames)
        prefix, header, body = parts
        fault.peer = tuple(prefix)
        messages = fault.out(header, body)
        made = [frames if _is_same(frames, message) else [*prefix, *_joined(*message)] for message in messages]
        results = [send(self, each) for each in made]
        return all(results)

    dealer = dspymq.transport.sockets.dealer

    def faulty_dealer(context: Any) -> Any:
        return fault.socket(dealer(context))

    LoopSocket.__init__ = faulty_init  # type: ignore[method-assign]
    LoopSocket.send = faulty_send  # type: ignore[method-assign]
    dspymq.transport.dealer = faulty_dealer
    dspymq.transport.sockets.dealer = faulty_dealer


def _split(frames: list[bytes]) -> tuple[list[bytes], Header, bytes] | None:
    """What stands before the tag, the header, the body; None if it is no message that can be read."""
    try:
        at = frames.index(TAG)
        header = msgpack.unpackb(frames[at + 1])
    except (ValueError, IndexError, msgpack.UnpackException):
        return None
    if not isinstance(header, dict) or len(frames) > at + 3 or "t" not in header:
        return None
    return frames[:at], header, frames[at + 2] if len(frames) > at + 2 else b""


def _is_same(frames: Sequence[bytes], message: Message) -> bool:
    """Whether nothing was changed: then the octets stay, too."""
    _, header, body = _split(list(frames)) or ([], {}, b"")
    # Packed: 1.0 and 1 are the same to Python.
    return _joined(*message) == _joined(header, body)


def _joined(header: Header, body: bytes) -> list[bytes]:
    packed = msgpack.packb(header)
    return [TAG, packed, body] if body else [TAG, packed]


def main() -> None:
    """Run MODULE with the fault that is named `file:name`."""
    file, _, name = sys.argv[1].partition(":")
    module = importlib.import_module(f"tests.conformance.kit.{file}")
    install(module.FAULTS[name][0]())
    sys.argv = sys.argv[2:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
