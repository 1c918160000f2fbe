"""DSPy programs of several kinds, offered by `dspymq up examples.programs` or `dspymq worker examples.programs`.

A worker offers every dspy.Module that a module exports, under its name there. Nothing here knows of dspymq.
"""

import asyncio
from typing import Literal

import dspy

__all__ = ["compare", "person", "qa", "sentiment", "triage"]


class Sentiment(dspy.Signature):
    """Say whether the writer of a review is happy with what they bought."""

    review: str = dspy.InputField()
    sentiment: Literal["positive", "negative"] = dspy.OutputField()


class Person(dspy.Signature):
    """Find the person that a text is about."""

    text: str = dspy.InputField()
    name: str = dspy.OutputField(desc="the person's full name")
    age: int = dspy.OutputField(desc="in years")
    mood: Literal["happy", "sad", "angry", "calm"] = dspy.OutputField()
    cities: list[str] = dspy.OutputField(desc="all cities that the text names")


class Triage(dspy.Module):
    """Look at a message of a customer: is it urgent, and what may be answered at once?"""

    # A program with a synchronous `forward` of its own, which a worker runs in a thread. Clients are shown this
    # signature; without one, what can be seen from outside.
    signature = dspy.Signature("message, signed_by: str | None -> urgent: bool, topic, reply")

    def __init__(self) -> None:
        super().__init__()
        self.rate = dspy.Predict("message -> mood: Literal['pleased', 'annoyed'], topic: str")
        self.reply = dspy.Predict("message, mood -> reply")

    def forward(self, message: str, signed_by: str | None = None) -> dspy.Prediction:
        rated = self.rate(message=message)
        reply = self.reply(message=message, mood=rated.mood).reply
        signed = f"{reply}\n\n{signed_by or 'The support team'}"
        return dspy.Prediction(urgent=rated.mood == "annoyed", topic=rated.topic, reply=signed)


class Compare(dspy.Module):
    """Compare two reviews of one thing."""

    # An asynchronous program: both reviews are read at the same time, and other jobs run meanwhile.
    signature = dspy.Signature("first, second -> agree: bool, sentiments: list[str]")

    def __init__(self) -> None:
        super().__init__()
        self.read = dspy.Predict(Sentiment)

    async def aforward(self, first: str, second: str) -> dspy.Prediction:
        one, two = await asyncio.gather(self.read.acall(review=first), self.read.acall(review=second))
        return dspy.Prediction(agree=one.sentiment == two.sentiment, sentiments=[one.sentiment, two.sentiment])


sentiment = dspy.Predict(Sentiment)
person = dspy.Predict(Person)
qa = dspy.ChainOfThought("question -> answer")
triage = Triage()
compare = Compare()
