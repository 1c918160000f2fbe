"""The programs that a worker under test offers (protocol/vectors/README.md), for this repository's pool."""

import asyncio
import json
import os
from typing import Any

import dspy

from dspymq.worker.executor.progress import report_progress
from dspymq.worker.executor.tools import ToolError, client_tools

__all__ = ["consult", "die", "echo", "fail", "large", "nap", "steps", "story"]


class Echo(dspy.Module):
    """Gives back its text."""

    async def aforward(self, text: str) -> dspy.Prediction:
        return dspy.Prediction(text=text)


class Nap(dspy.Module):
    """Waits, and can be stopped."""

    async def aforward(self, ms: int) -> dspy.Prediction:
        await asyncio.sleep(ms / 1000)
        return dspy.Prediction(ms=ms)


class Large(dspy.Module):
    """Makes so many characters."""

    async def aforward(self, size: int) -> dspy.Prediction:
        return dspy.Prediction(text="x" * size)


class Fail(dspy.Module):
    """Raises."""

    async def aforward(self, text: str) -> dspy.Prediction:
        raise RuntimeError(text)


class Die(dspy.Module):
    """Ends its process, after a while."""

    async def aforward(self, ms: int) -> dspy.Prediction:
        await asyncio.sleep(ms / 1000)
        os._exit(7)


class Story(dspy.Module):
    """Says the text, word by word: `pieces` tells the scripted LM how."""

    def __init__(self) -> None:
        super().__init__()
        self.say = dspy.Predict("question -> answer")

    async def aforward(self, text: str) -> dspy.Prediction:
        question = f"#chunk=4 #token_ms=30 #answer.answer={json.dumps(text)}"
        return await self.say.acall(question=question)


class Steps(dspy.Module):
    """Tells how far it is."""

    async def aforward(self, to: int) -> dspy.Prediction:
        for done in range(1, to + 1):
            report_progress(done, to)
            await asyncio.sleep(0.02)
        return dspy.Prediction(to=to)


class Consult(dspy.Module):
    """Calls a tool of the client so many times, one after the other."""

    async def aforward(self, tool: str, args: dict[str, Any], times: int) -> dspy.Prediction:
        tools = {each.name: each for each in client_tools()}
        values: list[Any] = []
        for _ in range(times):
            try:
                values.append(await tools[tool].acall(**args))
            except ToolError:
                values.append("failed")
        return dspy.Prediction(values=values)


consult, die, echo, fail = Consult(), Die(), Echo(), Fail()
large, nap, steps, story = Large(), Nap(), Steps(), Story()
