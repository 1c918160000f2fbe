"""The JSON schema that holds the embedded model to its output fields: every string and list in it has an end."""

from collections.abc import Mapping
from typing import Any, Final

import dspy
import pydantic

Schema = dict[str, Any]

_SENTENCE: Final = "[A-Z][A-Za-z0-9À-ɏ ,;:'()%$’–-]{8,150}[.!?]"
SENTENCES: Final = f"^{_SENTENCE}( {_SENTENCE})?$"
"""Reasoning: one or two sentences that end as sentences do. Left more room, the model rambles, or draws emoji."""

LONE_TEXT_CHARS: Final = 600
TEXT_CHARS: Final = 160
ITEM_CHARS: Final = 60
ITEMS: Final = 8

_DEEPEST: Final = 6
_KEPT: Final = frozenset(
    [
        *("type", "enum", "const", "format", "pattern", "minLength", "maxLength", "minItems", "maxItems"),
        *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"),
    ]
)
_FORMATS: Final = frozenset(["date", "time", "date-time", "uuid"])


def output_schema(signature: Any) -> Schema:
    """The schema of a signature's outputs, its fields in their order, without `$ref`s."""
    fields = signature.output_fields
    texts = [name for name, field in fields.items() if is_text(field.annotation) and name != "reasoning"]
    chars = LONE_TEXT_CHARS if len(texts) == 1 else TEXT_CHARS
    return _object({name: _field_schema(name, field, chars) for name, field in fields.items()})


def is_text(annotation: Any) -> bool:
    """Whether a field is free text, which the model may shape."""
    return annotation is str or annotation is dspy.Reasoning


def _field_schema(name: str, field: Any, chars: int) -> Schema:
    if name == "reasoning" and is_text(field.annotation):
        return {"type": "string", "pattern": SENTENCES}
    if field.annotation is dspy.Reasoning:
        return {"type": "string", "minLength": 1, "maxLength": chars}
    info = pydantic.fields.FieldInfo(annotation=field.annotation)
    info.metadata = list(field.metadata)
    model = pydantic.create_model(
        "Outputs", __config__=pydantic.ConfigDict(arbitrary_types_allowed=True), field=(field.annotation, info)
    )
    try:
        whole = model.model_json_schema()
    except (pydantic.PydanticInvalidForJsonSchema, pydantic.PydanticSchemaGenerationError):
        return {"type": "string", "minLength": 1, "maxLength": chars}
    return _bounded(whole["properties"]["field"], whole.get("$defs", {}), chars, 0)


def _object(properties: Mapping[str, Schema]) -> Schema:
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(properties),
        "additionalProperties": False,
    }


def _bounded(schema: Schema, definitions: Mapping[str, Schema], chars: int, depth: int) -> Schema:
    while "$ref" in schema:
        schema = definitions[schema["$ref"].rsplit("/", 1)[-1]]
        depth += 1
    if len(schema.get("allOf", [])) == 1:
        return _bounded(schema["allOf"][0], definitions, chars, depth)
    for key in ("anyOf", "oneOf"):
        if key in schema:
            return {"anyOf": _options(schema[key], definitions, chars, depth)}
    kept = {key: value for key, value in schema.items() if key in _KEPT}
    kind = schema.get("type")
    if "enum" in schema or "const" in schema:
        kept.pop("type", None)
    elif kind == "array":
        kept.update(_array(schema, definitions, depth))
    elif kind == "object":
        return _mapping(schema, definitions, depth)
    elif kind == "string" or kind is None:
        kept.update(_string(schema, chars))
    return kept


def _options(options: list[Schema], definitions: Mapping[str, Schema], chars: int, depth: int) -> list[Schema]:
    null = [option for option in options if option.get("type") == "null"]
    if null and depth >= _DEEPEST:
        return null
    return [_bounded(option, definitions, chars, depth) for option in options]


def _array(schema: Schema, definitions: Mapping[str, Schema], depth: int) -> Schema:
    if "prefixItems" in schema:
        items = [_bounded(item, definitions, ITEM_CHARS, depth + 1) for item in schema["prefixItems"]]
        return {"prefixItems": items, "minItems": len(items), "maxItems": len(items)}
    most = min(schema.get("maxItems", ITEMS), ITEMS)
    most = 0 if depth >= _DEEPEST else max(most, schema.get("minItems", 0))
    if most == 0:
        return {"items": {"type": "null"}, "maxItems": 0}
    return {
        "items": _bounded(schema.get("items", {}), definitions, ITEM_CHARS, depth + 1),
        "minItems": min(schema.get("minItems", 0), most),
        "maxItems": most,
    }


def _mapping(schema: Schema, definitions: Mapping[str, Schema], depth: int) -> Schema:
    properties = schema.get("properties")
    if properties:
        return _object({name: _bounded(one, definitions, ITEM_CHARS, depth + 1) for name, one in properties.items()})
    values = schema.get("additionalProperties", True)
    values = values if isinstance(values, dict) else {}
    return {"type": "object", "additionalProperties": _bounded(values, definitions, ITEM_CHARS, depth + 1)}


def _string(schema: Schema, chars: int) -> Schema:
    if schema.get("format") in _FORMATS:
        return {"type": "string", "format": schema["format"]}
    if "pattern" in schema:
        return {"type": "string", "pattern": schema["pattern"]}
    least = schema.get("minLength", 1)
    return {"type": "string", "minLength": least, "maxLength": max(least, min(schema.get("maxLength", chars), chars))}
