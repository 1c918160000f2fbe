"""What `dspymq call` prints: text for people, JSON for machines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click
import msgspec

from dspymq.cli.output import is_terminal, print_json, to_json

if TYPE_CHECKING:
    from dspymq.chunks import Chunk
    from dspymq.prediction import Prediction


class JsonOutput:
    """One document; a stream is a document a line, `{"chunk": ...}` each, before it."""

    def chunk(self, chunk: Chunk) -> None:
        """A piece of text came."""
        print_json({"chunk": msgspec.to_builtins(chunk)})

    def result(self, prediction: Prediction, streamed: Mapping[str, str]) -> None:
        """The outputs, and what is known of the run."""
        print_json(prediction_document(prediction))

    def failed(self) -> None:
        """The error goes out elsewhere."""

    def interrupted(self) -> None:
        """Cancelled by a signal."""
        print_json({"error": {"code": "CANCELLED", "reason": "interrupted", "message": "cancelled by a signal"}})

    def waiting(self, missing: Sequence[str], program: str) -> None:
        """No worker can run it now."""
        say_waiting(missing, program)


class TextOutput:
    """`name: value` on stdout; how it went, where a terminal looks, on stderr."""

    def __init__(self) -> None:
        self._field: str | None = None
        self._shown: set[str] = set()
        self._is_open = False
        """A line of text has no end yet."""

    def chunk(self, chunk: Chunk) -> None:
        """Print a piece of text where the last one ended."""
        if chunk.reset and self._shown:
            self._end_line()
            click.echo(f"-- again from the start: attempt {chunk.attempt} --", err=True)
            self._field = None
            self._shown.clear()
        if not chunk.field:
            return
        if chunk.field != self._field:
            self._end_line()
            click.echo(f"{_label(chunk.field)} ", nl=False)
            self._field = chunk.field
        click.echo(chunk.text, nl=False)
        self._shown.add(chunk.field)
        self._is_open = True

    def result(self, prediction: Prediction, streamed: Mapping[str, str]) -> None:
        """The outputs that were not streamed; with others after it, a field's text is not repeated."""
        self._end_line()
        for name, value in prediction.outputs.items():
            if name in self._shown and streamed.get(name, "").strip() == str(value).strip():
                continue
            text = _value(value)
            gap = "\n" if "\n" in text else " "
            click.echo(f"{_label(name)}{gap}{text}")
        if is_terminal(err=True):
            click.echo(click.style(summary(prediction), dim=True), err=True)

    def failed(self) -> None:
        """Let the error begin on a line of its own."""
        self._end_line()

    def interrupted(self) -> None:
        """Cancelled by a signal."""
        self._end_line()
        click.echo("cancelled", err=True)

    def waiting(self, missing: Sequence[str], program: str) -> None:
        """No worker can run it now."""
        say_waiting(missing, program)

    def _end_line(self) -> None:
        if self._is_open:
            click.echo()
            self._is_open = False


def prediction_document(prediction: Prediction) -> dict[str, Any]:
    """A prediction for machines."""
    return {
        "outputs": prediction.outputs,
        "job": prediction.job,
        "attempt": prediction.attempt,
        "revision": prediction.revision,
        "usage": None if prediction.usage is None else msgspec.to_builtins(prediction.usage),
        "timings": None if prediction.timings is None else msgspec.to_builtins(prediction.timings),
    }


def summary(prediction: Prediction) -> str:
    """How it went, in one line: time, LM calls, tokens, attempts."""
    parts = []
    if prediction.timings is not None and prediction.timings.run_ms is not None:
        parts.append(f"{prediction.timings.run_ms / 1000:.2f} s")
    if prediction.usage is not None:
        usage = prediction.usage
        parts.append(f"{usage.calls} LM call{'' if usage.calls == 1 else 's'}")
        models = usage.models.values()
        tokens = sum(model.input_tokens for model in models), sum(model.output_tokens for model in models)
        parts.append(f"{tokens[0]} + {tokens[1]} tokens")
    if prediction.attempt > 1:
        parts.append(f"attempt {prediction.attempt}")
    return ", ".join(parts)


def say_waiting(missing: Sequence[str], program: str) -> None:
    """On stderr: why nothing happens yet."""
    shown = "inline signatures" if "->" in program else program
    asked = "" if "program" in missing else f" with the {' and '.join(missing)} asked for"
    click.echo(f"waiting: no worker offers {shown}{asked} yet", err=True)


def _label(name: str) -> str:
    return click.style(f"{name}:", bold=True)


def _value(value: Any) -> str:
    if isinstance(value, str):
        return value.rstrip("\n")
    return f"<{len(value)} bytes>" if isinstance(value, bytes) else to_json(value)
