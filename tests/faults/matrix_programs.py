"""Programs for the matrix of faults. Their import waits at a gate, if there is one. Imported by executors only."""

import contextlib
import fcntl
import os
import socket
import struct
import termios
import threading
import time
from pathlib import Path

import dspy

from tests.faults.matrix import GATE_VARIABLE

__all__ = ["asks", "large"]

HALF_WAY_BYTES = 64 * 1024


def wait_at_gate(path: str) -> None:
    """Say who is there, and wait until nobody holds the gate shut."""
    with Path(path).open("a") as gate:
        note(f"{path}.there")
        fcntl.flock(gate, fcntl.LOCK_SH)


def note(mark: str) -> None:
    """This process was here."""
    with Path(mark).open("a") as file:
        file.write(f"{os.getpid()}\n")


if os.environ.get(GATE_VARIABLE):
    wait_at_gate(os.environ[GATE_VARIABLE])


def unread_bytes() -> int:
    """The most that a process on this machine has not read of what this one wrote to it."""
    most = 0
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                with socket.socket(fileno=os.dup(int(name))) as copy:
                    if copy.family == socket.AF_UNIX:
                        answer = fcntl.ioctl(copy, termios.TIOCOUTQ, struct.pack("i", 0))
                        most = max(most, struct.unpack("i", answer)[0])
    return most


def note_when_half_way(mark: str) -> None:
    """Leave the mark once the kernel holds a part of the result that the supervisor has not read."""
    end = time.monotonic() + 60
    while unread_bytes() < HALF_WAY_BYTES and time.monotonic() < end:
        time.sleep(0.005)
    note(mark)


class Asks(dspy.Module):
    """Notes who runs it, and asks its LM."""

    def __init__(self) -> None:
        super().__init__()
        self.answer = dspy.Predict("question -> answer")

    async def aforward(self, question: str, mark: str) -> dspy.Prediction:
        note(mark)
        return await self.answer.acall(question=question)


class Large(Asks):
    """The same, with an answer that is larger by so many bytes; if asked to, it notes when that is half-way."""

    async def aforward(self, question: str, mark: str, size: int, tells: bool) -> dspy.Prediction:
        answer = (await super().aforward(question, mark)).answer
        if tells:
            threading.Thread(target=note_when_half_way, args=(f"{mark}.half_way",), daemon=True).start()
        return dspy.Prediction(answer=answer, filler="x" * size)


asks, large = Asks(), Large()
