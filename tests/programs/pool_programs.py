"""What a pool offers and lends: `dspymq worker tests.programs.pool_programs`."""

from typing import Any

import dspy

from dspymq.worker.executor.registry import allow_code, reward, tool


class Rating(dspy.Signature):  # type: ignore[misc]
    """How good it is."""

    text: str = dspy.InputField(desc="what to rate")
    stars: int = dspy.OutputField(ge=1, le=5)
    remark: str = dspy.OutputField()


rate = dspy.Predict(Rating)
recursive = dspy.RLM("question -> answer", interpreter_factory=dspy.LocalInterpreter)


@tool
def search(query: str, limit: int = 2) -> list[str]:
    """Titles of pages."""
    return [f"{query} {number}" for number in range(limit)]


@reward
def length(inputs: dict[str, Any], prediction: Any) -> float:
    """The longer the better."""
    return float(len(prediction.answer))


allow_code(dspy.LocalInterpreter)
