"""A socket that is busy leaves the loop its turns."""

import asyncio
import time

import zmq

from dspymq.transport.loop_socket import ROUND_S, LoopSocket

MESSAGES = 50
EACH_S = ROUND_S / 2


def test_messages_that_take_long_do_not_keep_the_loop_to_themselves() -> None:
    """A round ends by the clock as well as by the count; what is left is received all the same."""
    turns: list[int] = []
    received: list[bytes] = []
    rounds: list[int] = []

    def slow(frames: list[bytes]) -> None:
        time.sleep(EACH_S)
        received.extend(frames)

    async def main() -> None:
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        one, other = context.socket(zmq.PAIR), context.socket(zmq.PAIR)
        one.bind("inproc://slow")
        other.connect("inproc://slow")
        for n in range(MESSAGES):
            other.send(b"%d" % n)
        socket = LoopSocket(one, slow, on_round=lambda: rounds.append(len(received)))
        while len(received) < MESSAGES:
            turns.append(len(received))
            await asyncio.sleep(0)
        socket.close()
        context.destroy(linger=0)

    asyncio.run(asyncio.wait_for(main(), 30))
    assert received == [b"%d" % n for n in range(MESSAGES)]
    assert len(set(turns)) > MESSAGES / 8
    assert rounds[-1] == MESSAGES
