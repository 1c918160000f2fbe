"""Sources of the programs that tests of reloads and recycling write to files, version by version."""

GOOD = '''
import asyncio
import os
import dspy

VERSION = {version!r}


class Say(dspy.Module):
    """Says which version it is, after a while."""

    async def aforward(self, ms: int = 0) -> dspy.Prediction:
        await asyncio.sleep(ms / 1000)
        return dspy.Prediction(version=VERSION, pid=os.getpid())


class Grow(dspy.Module):
    """Keeps so many MiB for good."""

    hoard = []

    async def aforward(self, mib: int) -> dspy.Prediction:
        for _ in range(mib):
            self.hoard.append(os.urandom(1024) * 1024)
            await asyncio.sleep(0)
        return dspy.Prediction(pid=os.getpid())


say, grow = Say(), Grow()
qa = dspy.Predict("question -> answer")
'''
"""`version` is to be filled in."""

BROKEN = "import dspy\n\nsay = dspy.Predict('question -> answer')\nraise RuntimeError('no index here')\n"
"""Fails in line 4."""


def good(version: str) -> str:
    """A module that works."""
    return GOOD.format(version=version)
