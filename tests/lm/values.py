"""Deterministic answers: the same field and inputs give the same value, other inputs another one."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from .directives import strip_directives
from .prompt import Output, Prompt, Schema

_LONGEST_ECHO = 200
_DEEPEST = 4
_FORMATS = {
    "date": "2026-01-{day:02d}",
    "date-time": "2026-01-{day:02d}T12:00:00Z",
    "time": "12:00:{day:02d}",
    "duration": "P{day}D",
    "uuid": "00000000-0000-4000-8000-{seed:012x}",
    "email": "user{day}@example.org",
    "uri": "https://example.org/{day}",
}


def expected_answer(field: str, *inputs: str, tokens: int | None = None) -> str:
    """The default answer of a string field, for a test to compare with.

    `inputs` are the input texts in the signature's order, as the prompt shows them (a list or dict as
    JSON). All directives but `#job` are left out; white space is normalised; long texts end in a digest.
    With `tokens`, the answer is padded with w1 w2 ... to that many words, or cut to them.
    """
    text = " ".join(strip_directives(" | ".join(inputs)).split())
    if len(text) > _LONGEST_ECHO:
        text = f"{text[: _LONGEST_ECHO - 20]} ~{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    echo = f"{field}: {text}"
    if tokens is None:
        return echo
    words = echo.split()
    return " ".join((words + [f"w{n}" for n in range(1, tokens + 1)])[:tokens])


def expected_value(field: str, schema: Schema, *inputs: str) -> Any:
    """The default answer of a field of any type; `schema` is its JSON schema."""
    return _value(schema, schema, expected_answer(field, *inputs), 0)


def answer_text(prompt: Prompt, answers: dict[str, Any], tokens: int | None) -> str:
    """The whole completion for `prompt`, in its own format; `answers` replace defaults by field name."""
    inputs = tuple(prompt.inputs.values())
    if prompt.style == "plain":
        return str(answers.get("answer", expected_answer("answer", *inputs, tokens=tokens)))
    values: dict[str, Any] = {}
    for output in prompt.outputs:
        if output.name in answers:
            values[output.name] = _given(answers[output.name], output)
        elif _is_text(output.schema, output.root):
            text = expected_answer(output.name, *inputs, tokens=tokens)
            values[output.name] = text[: output.schema.get("maxLength", len(text))]
        else:
            values[output.name] = _value(output.schema, output.root, expected_answer(output.name, *inputs), 0)
    if prompt.style == "json":
        return json.dumps(values, ensure_ascii=False)
    parts = [f"[[ ## {o.name} ## ]]\n{_chat_form(values[o.name], o)}\n\n" for o in prompt.outputs]
    return "".join(parts) + "[[ ## completed ## ]]\n"


def _chat_form(value: Any, output: Output) -> str:
    raw = _is_text(output.schema, output.root) or "enum" in output.schema
    if isinstance(value, bool):
        return str(value)
    return value if raw and isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _given(value: Any, output: Output) -> Any:
    """A scripted value: text for a field that is not text is read as JSON where that is possible."""
    if not isinstance(value, str) or _is_text(output.schema, output.root) or "enum" in output.schema:
        return value
    try:
        return json.loads(value)
    except ValueError:
        return {"True": True, "False": False, "None": None}.get(value, value)


def _is_text(schema: Schema, root: Schema) -> bool:
    schema = _resolve(schema, root)
    options = schema.get("anyOf") or schema.get("oneOf")
    if options:
        return any(_is_text(option, root) for option in options)
    return schema.get("type") == "string" and not schema.keys() & {"enum", "const", "format"}


def _resolve(schema: Schema, root: Schema) -> Schema:
    while "$ref" in schema:
        target: Any = root
        for step in schema["$ref"].removeprefix("#").strip("/").split("/"):
            target = target[step] if step else target
        schema = target
    return _resolve(schema["allOf"][0], root) if schema.get("allOf") else schema


def _value(schema: Schema, root: Schema, echo: str, depth: int) -> Any:
    schema = _resolve(schema, root)
    seed = int.from_bytes(hashlib.sha256(echo.encode()).digest()[:5], "big")
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        # A ReAct program whose test says nothing about tools ends at once.
        return "finish" if "finish" in schema["enum"] else schema["enum"][seed % len(schema["enum"])]
    if options := schema.get("anyOf") or schema.get("oneOf"):
        null = [o for o in options if o.get("type") == "null"]
        rest = [o for o in options if o.get("type") != "null"]
        return _value((null if null and depth >= _DEEPEST else rest or null)[0], root, echo, depth)
    kind = schema.get("type")
    if isinstance(kind, list):
        return _value({**schema, "type": next((k for k in kind if k != "null"), "null")}, root, echo, depth)
    if kind in ("integer", "number"):
        return _number(schema, seed, whole=kind == "integer")
    if kind == "boolean":
        return seed % 2 == 0
    if kind == "array":
        return _array(schema, root, echo, depth)
    if kind == "object" or "properties" in schema:
        return _object(schema, root, echo, depth)
    return None if kind == "null" else _string(schema, seed, echo)


def _number(schema: Schema, seed: int, whole: bool) -> int | float:
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is None and schema.get("exclusiveMinimum") is not None:
        low = schema["exclusiveMinimum"] + (1 if whole else 0.25)
    if high is None and schema.get("exclusiveMaximum") is not None:
        high = schema["exclusiveMaximum"] - (1 if whole else 0.25)
    if whole:
        low = low if low is not None else 1 if high is None or high >= 1 else high
        high = high if high is not None else low + 4
        return int(low + seed % max(int(high - low) + 1, 1))
    low = low if low is not None else 0.0 if high is None or high >= 0 else high
    high = high if high is not None else low + 1.0
    return float(low + (high - low) * (1 + seed % 3) / 4)


def _array(schema: Schema, root: Schema, echo: str, depth: int) -> list[Any]:
    if "prefixItems" in schema:
        return [_value(s, root, f"{echo} {n}", depth + 1) for n, s in enumerate(schema["prefixItems"], 1)]
    least = schema.get("minItems", 0)
    count = min(max(least, 0 if depth >= _DEEPEST else 2), schema.get("maxItems", max(least, 2)))
    items = schema.get("items") or {"type": "string"}
    return [_value(items, root, f"{echo} {n}", depth + 1) for n in range(1, count + 1)]


def _object(schema: Schema, root: Schema, echo: str, depth: int) -> dict[str, Any]:
    properties = schema.get("properties")
    if properties is not None:
        return {k: _value(s, root, f"{k} of {echo}", depth + 1) for k, s in properties.items()}
    extra = schema.get("additionalProperties")
    return {"key": _value(extra, root, echo, depth + 1)} if isinstance(extra, dict) and extra else {}


def _string(schema: Schema, seed: int, echo: str) -> str:
    if pattern := _FORMATS.get(schema.get("format", "")):
        return pattern.format(day=1 + seed % 28, seed=seed)
    text = echo.ljust(schema.get("minLength", 0), "x")
    return text[: schema.get("maxLength", len(text))]
