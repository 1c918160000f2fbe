"""A DSPy program whose LM answers at once, in its own process: what is left is DSPy, and what carries it."""

from __future__ import annotations

from typing import Any

import dspy
from dspy.lm15 import Message, Response, Usage

__all__ = ["qa"]

ANSWER = "[[ ## answer ## ]]\nParis\n\n[[ ## completed ## ]]"


def _response(request: Any) -> Response:
    return Response(
        id="1",
        model=request.model,
        message=Message.assistant(ANSWER),
        finish_reason="stop",
        usage=Usage(input_tokens=1, output_tokens=1, total_tokens=2),
    )


class InstantEngine:
    """The synchronous side."""

    def complete(self, request: Any) -> Response:
        return _response(request)


class AsyncInstantEngine:
    """The asynchronous side."""

    async def complete(self, request: Any) -> Response:
        return _response(request)


qa = dspy.Predict("question -> answer")
qa.lm = dspy.LM("bench/instant", engine=InstantEngine(), async_engine=AsyncInstantEngine(), cache=False)
