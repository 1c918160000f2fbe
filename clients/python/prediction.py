"""`Prediction`: the outputs of a job that went well, and what is known of its run."""

from collections.abc import Iterator, Mapping
from typing import Any

from dspymq.protocol.client_messages import Result
from dspymq.protocol.messages import Timings, Usage


class Prediction(Mapping[str, Any]):
    """The outputs, as items and as attributes: `prediction["answer"]`, `prediction.answer`.

    Items always work. An output whose name is taken by an attribute or method of this class (`usage`, `keys`, ...)
    is reached as an item, or in `outputs`, the plain dict.

    Attributes of the run: `job` (its id), `attempt` (1 unless it had to be run again), `revision` of the program,
    `usage` (calls, and tokens by model) and `timings` (queued_ms, run_ms, lm_ms), both None when unknown.
    """

    __slots__ = ("_outputs", "attempt", "job", "revision", "timings", "usage")

    def __init__(
        self,
        outputs: Mapping[str, Any],
        *,
        job: str = "",
        attempt: int = 1,
        revision: str | None = None,
        usage: Usage | None = None,
        timings: Timings | None = None,
    ) -> None:
        self._outputs = dict(outputs)
        self.job = job
        self.attempt = attempt
        self.revision = revision
        self.usage = usage
        self.timings = timings

    @classmethod
    def from_result(cls, result: Result, outputs: Mapping[str, Any]) -> "Prediction":
        """The prediction of an OK result."""
        return cls(
            outputs,
            job=result.job,
            attempt=result.attempt,
            revision=result.revision,
            usage=result.usage,
            timings=result.timings,
        )

    @property
    def outputs(self) -> dict[str, Any]:
        """The outputs as a plain dict."""
        return self._outputs

    def __getitem__(self, name: str) -> Any:
        return self._outputs[name]

    def __getattr__(self, name: str) -> Any:
        # Only called when the class has no such attribute; `_outputs` is unset while being unpickled or copied.
        if not name.startswith("_") and name in self._outputs:
            return self._outputs[name]
        known = "" if name.startswith("_") else f"; it has {', '.join(self._outputs) or 'no outputs'}"
        raise AttributeError(f"this prediction has no output {name!r}{known}")

    def __iter__(self) -> Iterator[str]:
        return iter(self._outputs)

    def __len__(self) -> int:
        return len(self._outputs)

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self._outputs]

    def __repr__(self) -> str:
        inner = ", ".join(f"{name}={value!r}" for name, value in self._outputs.items())
        return f"Prediction({inner})"
