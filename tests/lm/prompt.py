"""What a request asks for: input texts, output fields and the answer's format, read from its messages.

Understands DSPy 3.4's ChatAdapter and JSONAdapter prompts and any `response_format` JSON schema.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any, Literal

Schema = dict[str, Any]

_HEADER = re.compile(r"^\[\[ ## (\w+) ## \]\][ \t]*\n?", re.MULTILINE)
_LISTED = re.compile(r"^\d+\. `(\w+)` \(", re.MULTILINE)
_NOTE = "# note: the value you produce "
_PYTHON_TYPES: dict[str, Schema] = {
    "must be True or False": {"type": "boolean"},
    "must be a single int value": {"type": "integer"},
    "must be a single float value": {"type": "number"},
}


@dataclass(frozen=True)
class Output:
    """One output field: its name, its JSON schema, and the document in which `$ref`s resolve."""

    name: str
    schema: Schema
    root: Schema = field(default_factory=dict)


@dataclass(frozen=True)
class Prompt:
    """A request as the scripted LM sees it. `text` is the last user message."""

    style: Literal["chat", "json", "plain"]
    inputs: dict[str, str]
    outputs: list[Output]
    text: str


def read_prompt(body: dict[str, Any]) -> Prompt:
    """Read one /v1/chat/completions body. Raises KeyError or TypeError if it has no messages."""
    system = "\n".join(_text(m) for m in body["messages"] if m["role"] in ("system", "developer"))
    user = next((_text(m) for m in reversed(body["messages"]) if m["role"] == "user"), "")
    inputs = _inputs(system, user)
    response_format = body.get("response_format") or {}
    if response_format.get("type") == "json_schema":
        root = response_format["json_schema"].get("schema") or {}
        outputs = [Output(name, schema, root) for name, schema in root.get("properties", {}).items()]
        return Prompt("json", inputs, outputs, user)
    names = _listed(system, "Your output fields are:\n", "\nAll interactions will be structured")
    if not names:
        return Prompt("plain", inputs, [], user)
    notes = _json_notes(system)
    style: Literal["chat", "json"] = "json" if notes is not None else "chat"
    if notes is None:
        notes = _sections(system, names)
    return Prompt(style, inputs, [_output(name, notes.get(name, "")) for name in names], user)


def _text(message: dict[str, Any]) -> str:
    content = message.get("content") or ""
    if isinstance(content, str):
        return content
    return "\n".join(part.get("text", "") for part in content if part.get("type") == "text")


def _listed(system: str, start: str, end: str) -> list[str]:
    _, found, rest = system.partition(start)
    return _LISTED.findall(rest.partition(end)[0]) if found else []


def _sections(text: str, names: list[str]) -> dict[str, str]:
    """Text under each `[[ ## name ## ]]` header of `names`; other headers are ordinary text, but `completed`."""
    marks = [m for m in _HEADER.finditer(text) if m[1] in names or m[1] == "completed"]
    ends = [*(m.start() for m in marks[1:]), len(text)] if marks else []
    return {m[1]: text[m.end() : end].strip() for m, end in zip(marks, ends, strict=True)}


def _inputs(system: str, user: str) -> dict[str, str]:
    names = _listed(system, "Your input fields are:\n", "Your output fields are:\n")
    asked = user.rfind("\n\nRespond with ")
    sections = _sections(user[:asked] if asked >= 0 else user, names)
    return {name: sections[name] for name in names if name in sections} or {"text": user}


def _json_notes(system: str) -> dict[str, str] | None:
    _, found, rest = system.partition("Outputs will be a JSON object with the following fields.\n\n")
    if not found:
        return None
    notes: dict[str, str] = json.JSONDecoder().raw_decode(rest)[0]
    return notes


def _output(name: str, note: str) -> Output:
    _, found, rule = note.partition(_NOTE)
    rule = rule.strip()
    if not found:
        return Output(name, {"type": "string"})
    if rule in _PYTHON_TYPES:
        return Output(name, _PYTHON_TYPES[rule])
    if rule.startswith("must adhere to the JSON schema: "):
        schema = json.JSONDecoder().raw_decode(rule.partition(": ")[2])[0]
        return Output(name, schema, schema)
    return Output(name, {"enum": rule.partition("one of: ")[2].split("; ")})
