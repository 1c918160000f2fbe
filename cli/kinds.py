"""The kinds of values that a program's inputs take: from the JSON Schemas of `programs.get`, or an inline signature."""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from typing import Any, Final, Literal, NamedTuple

TEXT: Final = "string"
BYTES: Final = "bytes"
ANY: Final = frozenset({TEXT, "integer", "number", "boolean", "array", "object", "null"})
_MAX_STEPS: Final = 32


class Kinds(NamedTuple):
    """What one field takes: JSON Schema's type names (and `bytes`), and the only values it allows, if it names them."""

    types: frozenset[str]
    literals: tuple[Any, ...] = ()


def kinds_of_schema(schema: Any) -> dict[str, Kinds] | None:
    """The kinds by input name, from the JSON Schema of an object; None if it does not say."""
    if not isinstance(schema, Mapping) or not isinstance(schema.get("properties"), Mapping):
        return None
    return {str(name): _of_schema(one, schema, 0) for name, one in schema["properties"].items()}


def kinds_of_signature(text: str) -> dict[str, Kinds]:
    """The kinds of the inputs of `text -> name, age: int`. Raises dspymq.InvalidArgument `invalid_spec`."""
    from dspymq.exceptions import InvalidArgument
    from dspymq.worker.executor.signature_text import SignatureTextError, parse_signature

    try:
        parsed = parse_signature(text)
    except SignatureTextError as error:
        raise InvalidArgument(f"the signature cannot be read: {error}", reason="invalid_spec") from None
    return {field.name: _of_type(field.type) for field in parsed.inputs}


def type_text(schema: Any, root: Any = None, depth: int = 0) -> str:
    """A JSON Schema as people write types: `list[str]`, `'happy' | 'sad'`, `int | None`."""
    root = schema if root is None else root
    schema = _resolved(schema, root)
    if not isinstance(schema, Mapping) or depth > 6:
        return "any"
    if "const" in schema:
        return repr(schema["const"])
    if isinstance(schema.get("enum"), list):
        return " | ".join(repr(value) for value in schema["enum"])
    for key in ("anyOf", "oneOf"):
        if isinstance(schema.get(key), list):
            return " | ".join(dict.fromkeys(type_text(one, root, depth + 1) for one in schema[key]))
    kind = schema.get("type")
    if isinstance(kind, list):
        return " | ".join(_WORDS.get(str(one), str(one)) for one in kind)
    if kind == "array":
        return f"list[{type_text(schema['items'], root, depth + 1)}]" if schema.get("items") else "list"
    if kind == "object":
        extra = schema.get("additionalProperties")
        if isinstance(extra, Mapping) and extra:
            return f"dict[str, {type_text(extra, root, depth + 1)}]"
        return str(schema.get("title", "dict")) if schema.get("properties") else "dict"
    if kind == TEXT and schema.get("format"):
        return "bytes" if schema["format"] == "binary" else str(schema["format"])
    return _WORDS.get(str(kind), "any")


_WORDS: Final = {
    TEXT: "str",
    "integer": "int",
    "number": "float",
    "boolean": "bool",
    "null": "None",
    "array": "list",
    "object": "dict",
}


def _resolved(schema: Any, root: Any) -> Any:
    for _ in range(_MAX_STEPS):
        reference = schema.get("$ref") if isinstance(schema, Mapping) else None
        if not isinstance(reference, str) or not reference.startswith("#/"):
            return schema
        found: Any = root
        for step in reference[2:].split("/"):
            found = found.get(step) if isinstance(found, Mapping) else None
        schema = found
    return None


def _of_schema(schema: Any, root: Any, depth: int) -> Kinds:
    schema = _resolved(schema, root)
    if not isinstance(schema, Mapping) or depth > _MAX_STEPS:
        return Kinds(ANY)
    if "const" in schema:
        return Kinds(_types_of([schema["const"]]), (schema["const"],))
    if isinstance(schema.get("enum"), list):
        return Kinds(_types_of(schema["enum"]), tuple(schema["enum"]))
    for key in ("anyOf", "oneOf"):
        if isinstance(schema.get(key), list):
            return _union([_of_schema(one, root, depth + 1) for one in schema[key]])
    kind = schema.get("type")
    if kind == TEXT and schema.get("format") == "binary":
        return Kinds(frozenset({BYTES}))
    if isinstance(kind, str):
        return Kinds(frozenset({kind}))
    return Kinds(frozenset(map(str, kind)) if isinstance(kind, list) else ANY)


_SIMPLE: Final[dict[Any, str]] = {
    str: TEXT,
    bytes: BYTES,
    bool: "boolean",
    int: "integer",
    float: "number",
    type(None): "null",
    list: "array",
    tuple: "array",
    set: "array",
    dict: "object",
}


def _of_type(found: Any) -> Kinds:
    origin = typing.get_origin(found)
    if origin is Literal:
        values = typing.get_args(found)
        return Kinds(_types_of(values), values)
    if origin in (typing.Union, types.UnionType):
        return _union([_of_type(one) for one in typing.get_args(found)])
    if found is Any:
        return Kinds(ANY)
    # Dates and times are text in JSON.
    return Kinds(frozenset({_SIMPLE.get(origin or found, TEXT)}))


def _union(options: list[Kinds]) -> Kinds:
    only_literals = all(option.literals or option.types == {"null"} for option in options)
    literals = tuple(value for option in options for value in option.literals) if only_literals else ()
    return Kinds(frozenset().union(*(option.types for option in options)), literals)


def _types_of(values: Any) -> frozenset[str]:
    return frozenset(_SIMPLE.get(type(value), TEXT) for value in values)
