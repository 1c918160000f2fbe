"""The pipe: framing, order, bursts bigger than any buffer in both directions, ends."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from dspymq.protocol import worker_messages as w
from dspymq.protocol.messages import Bye, Ping, Pong
from dspymq.worker.pipe import Pipe


@asynccontextmanager
async def pair() -> AsyncIterator[tuple[Pipe, Pipe]]:
    ours, theirs = socket.socketpair()
    a, b = Pipe.open(ours), Pipe.open(theirs)
    try:
        yield a, b
    finally:
        a.close()
        b.close()


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(20):
            await test()

    asyncio.run(bounded())


def test_messages_and_bodies_in_order() -> None:
    async def test() -> None:
        async with pair() as (a, b):
            cancel = w.Cancel(lease="l", cause="cancel", grace_ms=5)
            a.send(Ping(n=1))
            a.send(cancel, b"\x00body")
            a.send(Ping(n=2))
            assert await b.receive() == (Ping(n=1), b"")
            assert await b.receive() == (cancel, b"\x00body")
            assert await b.receive() == (Ping(n=2), b"")
            assert b.receive_nowait() is None

    run(test)


def test_big_bursts_in_both_directions_at_once_do_not_lock() -> None:
    async def test() -> None:
        async with pair() as (a, b):
            bodies = [bytes([n % 256]) * (1 + n * 40_000) for n in range(30)]
            for n, body in enumerate(bodies):
                a.send(Ping(n=n), body)
                b.send(Pong(n=n), body)
            assert a.pending_bytes > 10_000_000
            for n, body in enumerate(bodies):
                assert await b.receive() == (Ping(n=n), body)
                assert await a.receive() == (Pong(n=n), body)
            await a.drained()
            assert a.pending_bytes == 0

    run(test)


def test_many_small_messages() -> None:
    async def test() -> None:
        async with pair() as (a, b):
            for n in range(20_000):
                a.send(Ping(n=n))
            got = [await b.receive() for _ in range(20_000)]
            assert got == [(Ping(n=n), b"") for n in range(20_000)]

    run(test)


def test_what_was_sent_before_the_end_is_read_then_none() -> None:
    async def test() -> None:
        async with pair() as (a, b):
            a.send(Ping(n=1))
            a.send(Bye(), b"x" * 100_000)
            waiting = asyncio.create_task(a.drained())
            assert await b.receive() == (Ping(n=1), b"")
            await waiting
            a.close()
            assert await b.receive() == (Bye(), b"x" * 100_000)
            assert await b.receive() is None
            assert not b.is_open
            b.send(Ping(n=3))
            await b.drained()

    run(test)


def test_close_wakes_who_waits() -> None:
    async def test() -> None:
        async with pair() as (a, _):
            waiting = asyncio.create_task(a.receive())
            await asyncio.sleep(0)
            a.close()
            assert await waiting is None

    run(test)


def test_a_reader_that_stops_pauses_the_socket_and_loses_nothing() -> None:
    async def test() -> None:
        async with pair() as (a, b):
            body = b"x" * 1_000_000
            for n in range(100):
                a.send(Ping(n=n), body)
            same = 0
            before = a.pending_bytes
            while same < 100 and before:
                await asyncio.sleep(0)
                same = same + 1 if a.pending_bytes == before else 0
                before = a.pending_bytes
            assert before > 10_000_000, "the reader took in everything at once"
            for n in range(100):
                assert await b.receive() == (Ping(n=n), body)

    run(test)


def test_junk_ends_the_pipe() -> None:
    async def test() -> None:
        ours, theirs = socket.socketpair()
        pipe = Pipe.open(ours)
        theirs.sendall(b"\xff" * 64)
        assert await pipe.receive() is None
        pipe.close()
        theirs.close()

    run(test)
