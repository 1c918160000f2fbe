"""How DSPy talks to the embedded small language model: short plain prompts, answers held to a JSON schema."""

import json
import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import dspy
from dspy.adapters.utils import format_field_value, serialize_for_json

from dspymq.worker.executor.local_schema import is_text, output_schema

MAX_TOKENS: Final = 1000

WRITING_PENALTY: Final = 0.4
QUESTION_PENALTY: Final = 0.2
"""`frequency_penalty` for text that the model makes up, which it would repeat for ever. None where it copies from
the inputs: names and numbers come out wrong with it."""

_DEFAULT_INSTRUCTIONS: Final = re.compile(r"Given the fields? .+, produce the fields? .+\.", re.DOTALL)
_ANSWERS: Final = frozenset(["answer", "response", "reply", "output"])
_IN_JSON: Final = "Answer in JSON."


class _Turn(NamedTuple):
    said: str
    reasoning: str
    answer: str


_QUESTIONS: Final = (
    _Turn("Where does the sun rise?", "The earth turns towards the east.", "The sun rises in the east."),
    _Turn("What is the capital of Nepal?", "Nepal is a country in Asia.", "The capital of Nepal is Kathmandu."),
)
_WRITING: Final = (
    _Turn(
        "Write two sentences about time.",
        "Everyone knows what time is.",
        "Time passes for everyone in the same way. What we do with it is up to us.",
    ),
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
        """The messages; where text is wanted and there are no demos, a general example shows what an answer is."""
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
        """Instructions, inputs, and how to answer. DSPy's `prefix` to incomplete demos is left out."""
        given = {name: field for name, field in signature.input_fields.items() if name in inputs}
        texts = {name: format_field_value(field_info=field, value=inputs[name]) for name, field in given.items()}
        if _is_question(signature):
            parts = [_instructions(signature), *texts.values()]
        else:
            lines = "\n".join(f"{name}: {text}" for name, text in texts.items())
            parts = [_instructions(signature), lines, "" if _lone_text(signature) else _IN_JSON]
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

    For programs of one's own; a worker has its own way (worker/executor/lms.py). Only DSPy's native engine: `auto`
    would quietly import litellm for a parameter that the native one does not know.
    """
    return dspy.LM("openai/local", api_base=url, api_key="none", cache=False, num_retries=0, engine="lm15")


def _held(lm: Any, lm_kwargs: dict[str, Any], signature: Any) -> dict[str, Any]:
    schema = {"name": "outputs", "schema": output_schema(signature), "strict": True}
    held = {**lm_kwargs, "response_format": {"type": "json_schema", "json_schema": schema}}
    if lm.kwargs.get("max_tokens") is None:
        held.setdefault("max_tokens", MAX_TOKENS)
    if _lone_text(signature):
        held.setdefault("frequency_penalty", QUESTION_PENALTY if _is_question(signature) else WRITING_PENALTY)
    return held


def _instructions(signature: Any) -> str:
    text = str(signature.instructions).strip()
    if not _DEFAULT_INSTRUCTIONS.fullmatch(text):
        return text
    if _is_question(signature):
        return ""
    outputs = ", ".join(name for name in signature.output_fields if name != "reasoning")
    return f"Write a {outputs}." if _lone_text(signature) else f"Give the {outputs}."


def _lone_text(signature: Any) -> str | None:
    """The one output field, reasoning aside, if that is free text."""
    outputs = [name for name in signature.output_fields if name != "reasoning"]
    all_text = all(is_text(field.annotation) for field in signature.output_fields.values())
    return outputs[0] if len(outputs) == 1 and all_text else None


def _is_question(signature: Any) -> bool:
    return len(signature.input_fields) == 1 and _lone_text(signature) in _ANSWERS


def _primer(signature: Any) -> list[dict[str, Any]]:
    if _lone_text(signature) is None:
        return []
    messages = []
    for turn in _QUESTIONS if _is_question(signature) else _WRITING:
        outputs = {name: turn.reasoning if name == "reasoning" else turn.answer for name in signature.output_fields}
        messages.append({"role": "user", "content": turn.said})
        messages.append({"role": "assistant", "content": json.dumps(outputs)})
    return messages
