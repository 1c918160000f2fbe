"""Programs that put what they were given wherever a log may come from. Imported by executors only."""

import asyncio
import logging
import threading
import warnings
from typing import Any

import dspy

from dspymq.worker.executor.tools import client_tools

__all__ = ["agent", "gossip", "qa", "raises", "refuses"]


class Raises(dspy.Module):  # type: ignore[misc]
    """Its error quotes its input."""

    async def aforward(self, text: str) -> Any:
        raise ValueError(f"cannot work with {text!r}")


class Refuses(dspy.Module):  # type: ignore[misc]
    """Takes a number, and is given another thing."""

    async def aforward(self, count: int) -> Any:
        return dspy.Prediction(count=count)


class Gossip(dspy.Module):  # type: ignore[misc]
    """Libraries that it uses quote its input: in their logs, in a warning, in a thread and a task that fail."""

    async def aforward(self, text: str) -> Any:
        for name in ("dspy.predict", "httpx", "somebodys.library"):
            logging.getLogger(name).warning("what about %s", text)
            logging.getLogger(name).error(f"and {text}", exc_info=ValueError(text))
        warnings.warn(f"strange: {text}", stacklevel=1)
        thread = threading.Thread(target=self._fail, args=(text,))
        thread.start()
        thread.join()
        task = asyncio.create_task(self._fail_later(text))
        await asyncio.wait([task])
        del task
        return dspy.Prediction(text=text)

    def _fail(self, text: str) -> None:
        raise RuntimeError(text)

    async def _fail_later(self, text: str) -> None:
        raise RuntimeError(text)


class Agent(dspy.Module):  # type: ignore[misc]
    """Calls the client's tools as its LM says."""

    async def aforward(self, question: str) -> Any:
        return await dspy.ReAct("question -> answer", tools=client_tools()).acall(question=question)


qa = dspy.Predict("question -> answer")
raises, refuses, gossip, agent = Raises(), Refuses(), Gossip(), Agent()
