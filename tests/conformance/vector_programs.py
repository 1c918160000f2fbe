"""The programs that a worker under test offers (protocol/vectors/README.md), for this repository's pool."""

import asyncio
import json
import os

import dspy

__all__ = ["die", "echo", "fail", "large", "nap", "story"]


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


die, echo, fail, large, nap, story = Die(), Echo(), Fail(), Large(), Nap(), Story()
