"""How DSPy talks to the embedded small language model: short plain prompts, answers held to a JSON schema."""

import json
import re
from collections.abc import Mapping
from typing import Any, Final

import dspy
from dspy.adapters.utils import format_field_value, serialize_for_json

from dspymq.worker.executor.local_schema import is_text, output_schema

MAX_TOKENS: Final = 800

_DEFAULT_INSTRUCTIONS: Final = re.compile(r"Given the fields? .+, produce the fields? .+\.", re.DOTALL)
_ANSWERS: Final = frozenset(["answer", "response", "reply", "output"])
_IN_JSON: Final = "Answer in JSON."
_PRIMER: Final = (
    ("Where does the sun rise?", "The earth turns towards the east.", "The sun rises in the east."),
    ("What is the capital of Nepal?", "Nepal is a country in Asia.", "The capital of Nepal is Kathmandu."),
)


class LocalAdapter(dspy.Adapter):  # type: ignore[misc]
    """For the embedded model only; DSPy's own prompts are far too long for it.

    A prompt is the signature's instructions and the inputs, a line each; the output fields stand in the schema alone.
    """

    def __call__(
        self, lm: Any, lm_kwargs: dict[str, Any], signature: Any, demos: list[dict[str, Any]], inputs: dict[str, Any]
    ) -> list[dict[str, Any]]:
        """DSPy's entry for synchronous programs."""
        answers: list[dict[str, Any]] = super().__call__(lm, _held(lm, lm_kwargs, signature), signature, demos, inputs)
        return answers

    async def acall(
        self, lm: Any, lm_kwargs: dict[str, Any], signature: Any, demos: list[dict[str, Any]], inputs: dict[str, Any]
    ) -> list[dict[str, Any]]:
        """DSPy's entry for asynchronous programs."""
        held = _held(lm, lm_kwargs, signature)
        answers: list[dict[str, Any]] = await super().acall(lm, held, signature, demos, inputs)
        return answers

    def format(self, signature: Any, demos: list[dict[str, Any]], inputs: dict[str, Any]) -> list[dict[str, Any]]:
        """The messages; where a plain question has no demos, two general ones show the model what an answer is."""
        messages: list[dict[str, Any]] = super().format(signature, demos, inputs)
        rest = [message for message in messages if message["role"] != "system"]
        primer = [] if demos or len(rest) > 1 else _primer(signature)
        return primer + rest

    def format_system_message(self, signature: Any) -> str:
        """None is sent: the model does better with the system message that its template puts in."""
        return ""

    def format_user_message_content(
        self, signature: Any, inputs: Mapping[str, Any], prefix: str = "", suffix: str = "", main_request: bool = False
    ) -> str:
        """Instructions, inputs, and how to answer."""
        given = {name: field for name, field in signature.input_fields.items() if name in inputs}
        texts = {name: format_field_value(field_info=field, value=inputs[name]) for name, field in given.items()}
        if _is_question(signature):
            parts = [_instructions(signature), *texts.values()]
        else:
            lines = "\n".join(f"{name}: {text}" for name, text in texts.items())
            parts = [_instructions(signature), lines, _IN_JSON]
        return "\n\n".join(part for part in parts if part)

    def format_assistant_message_content(
        self, signature: Any, outputs: Mapping[str, Any], missing_field_message: str | None = None
    ) -> str:
        """The outputs of a demo or an earlier turn, as the model is to answer."""
        names = [name for name in signature.output_fields if outputs.get(name) is not None]
        return json.dumps(serialize_for_json({name: outputs[name] for name in names}), ensure_ascii=False)

    def parse(self, signature: Any, completion: str) -> dict[str, Any]:
        """The fields of an answer; one that was cut off by `max_tokens` is mended where possible."""
        fields: dict[str, Any] = dspy.JSONAdapter().parse(signature, completion)
        return fields


def local_lm(url: str) -> Any:
    """A dspy.LM for the server at `url` (its /v1 address), to use together with LocalAdapter.

    For programs of one's own; a worker has its own way (worker/executor/lms.py).
    """
    return dspy.LM("openai/local", api_base=url, api_key="none", cache=False, num_retries=0)


def _held(lm: Any, lm_kwargs: dict[str, Any], signature: Any) -> dict[str, Any]:
    schema = {"name": "outputs", "schema": output_schema(signature), "strict": True}
    held = {**lm_kwargs, "response_format": {"type": "json_schema", "json_schema": schema}}
    if lm.kwargs.get("max_tokens") is None:
        held.setdefault("max_tokens", MAX_TOKENS)
    return held


def _instructions(signature: Any) -> str:
    text = str(signature.instructions).strip()
    if not _DEFAULT_INSTRUCTIONS.fullmatch(text):
        return text
    outputs = [name for name in signature.output_fields if name != "reasoning"]
    if _is_question(signature):
        return ""
    return f"Give the {', '.join(outputs)}."


def _is_question(signature: Any) -> bool:
    outputs = {name: field for name, field in signature.output_fields.items() if name != "reasoning"}
    return (
        len(signature.input_fields) == len(outputs) == 1
        and outputs.keys() <= _ANSWERS
        and all(is_text(field.annotation) for field in signature.output_fields.values())
    )


def _primer(signature: Any) -> list[dict[str, Any]]:
    if not _is_question(signature):
        return []
    messages = []
    for question, reasoning, answer in _PRIMER:
        outputs = {name: reasoning if name == "reasoning" else answer for name in signature.output_fields}
        messages.append({"role": "user", "content": question})
        messages.append({"role": "assistant", "content": json.dumps(outputs)})
    return messages
