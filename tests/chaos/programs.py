"""The programs of the pools that chaos runs on. Imported by executors only.

`effects` does something outside: it appends a line for each step to the file that CHAOS_EFFECTS names.
"""

import asyncio
import json
import os
import time
import uuid

import dspy

from dspymq.worker.executor.tools import client_tools

__all__ = ["consult", "dies", "echo", "effects", "fails", "qa", "sync_qa"]

STEP_S = 0.04


def append(call: str, run: str, step: int) -> None:
    """One line, in one write: several processes do that at once."""
    line = json.dumps({"call": call, "run": run, "step": step, "pid": os.getpid(), "at_s": time.monotonic()})
    file = os.open(os.environ["CHAOS_EFFECTS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(file, line.encode() + b"\n")
    finally:
        os.close(file)


class SyncQA(dspy.Module):
    """A synchronous program: it runs in a thread, and its LM calls wait there."""

    def __init__(self) -> None:
        super().__init__()
        self.answer = dspy.Predict("question -> answer")

    def forward(self, question: str) -> dspy.Prediction:
        return self.answer(question=question)


class Echo(dspy.Module):
    """Gives back its text."""

    async def aforward(self, text: str) -> dspy.Prediction:
        return dspy.Prediction(text=text)


class Dies(dspy.Module):
    """Ends its process a moment later."""

    async def aforward(self, ms: int) -> dspy.Prediction:
        await asyncio.sleep(ms / 1000)
        os._exit(7)


class Fails(dspy.Module):
    """Raises."""

    async def aforward(self, text: str) -> dspy.Prediction:
        raise ValueError(text)


class Consult(dspy.Module):
    """Adds numbers with the caller's tool `add`, then asks its LM."""

    def __init__(self) -> None:
        super().__init__()
        self.answer = dspy.Predict("question -> answer")

    async def aforward(self, question: str, numbers: list[int]) -> dspy.Prediction:
        add = next(tool for tool in client_tools() if tool.name == "add")
        total = 0
        for number in numbers:
            total = await add.acall(a=total, b=number)
        answer = await self.answer.acall(question=question)
        return dspy.Prediction(total=total, answer=answer.answer)


class Effects(dspy.Module):
    """So many steps, each with a side effect, and a call of its LM before the last one."""

    def __init__(self) -> None:
        super().__init__()
        self.answer = dspy.Predict("question -> answer")

    async def aforward(self, question: str, call: str, steps: int) -> dspy.Prediction:
        run = uuid.uuid4().hex
        for step in range(steps - 1):
            append(call, run, step)
            await asyncio.sleep(STEP_S)
        answer = await self.answer.acall(question=question)
        append(call, run, steps - 1)
        return dspy.Prediction(run=run, answer=answer.answer)


qa = dspy.Predict("question -> answer")
sync_qa, echo, dies, fails, consult, effects = SyncQA(), Echo(), Dies(), Fails(), Consult(), Effects()
