"""The types of a spec's fields: a text of the grammar, or a JSON Schema as data, to what DSPy takes as annotations.

Nothing is evaluated, imported or fetched: a `$ref` names an entry of the same schema's `$defs`, or one of DSPy's own
types as `dspy:Image`. What could not be checked is refused, so that a bound that stands in a spec holds.
"""

import datetime
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, Literal, Union

import annotated_types
import dspy
import pydantic
import typing_extensions
from pydantic_core import SchemaError

from dspymq.worker.executor.signature_text import SignatureTextError, parse_type
from dspymq.worker.executor.spec_errors import Path, list_at, map_at, number_at, refuse, text_at, whole_at

MAX_NODES: Final = 500
"""Parts of all schemas of one spec: building them takes about a millisecond each."""
MAX_DEPTH: Final = 12
MAX_VALUES: Final = 256
MAX_NAME_CHARS: Final = 128
MAX_PATTERN_CHARS: Final = 1_024
_MAX_WHOLE: Final = 2**53

DSPY_TYPES: Final[dict[str, Any]] = {
    "Image": dspy.Image,
    "Audio": dspy.Audio,
    "File": dspy.File,
    "History": dspy.History,
    "Code": dspy.Code,
    "Reasoning": dspy.Reasoning,
}
"""What a spec may name of DSPy's own types."""

_PREFIX: Final = "dspy:"
_FORMATS: Final[dict[str, Any]] = {
    "date": datetime.date,
    "date-time": datetime.datetime,
    "time": datetime.time,
    "duration": datetime.timedelta,
    "uuid": uuid.UUID,
    "binary": bytes,
}
# fmt: off
_NOTES: Final = frozenset({
    "$schema", "$id", "$comment", "$defs", "definitions", "title", "description", "default", "examples", "deprecated",
    "readOnly", "writeOnly",
})
# fmt: on
_LENGTHS: Final = {"minLength": "min_length", "maxLength": "max_length"}
_SIZES: Final = {"minItems": "min_length", "maxItems": "max_length"}
_COUNTS: Final = {"minProperties": "min_length", "maxProperties": "max_length"}
_BOUNDS: Final = {"minimum": "ge", "maximum": "le", "exclusiveMinimum": "gt", "exclusiveMaximum": "lt"}
_OF_TYPE: Final[dict[str, frozenset[str]]] = {
    "string": frozenset([*_LENGTHS, "pattern", "format"]),
    "integer": frozenset([*_BOUNDS, "multipleOf"]),
    "number": frozenset([*_BOUNDS, "multipleOf"]),
    "boolean": frozenset(),
    "null": frozenset(),
    "array": frozenset([*_SIZES, "items", "prefixItems"]),
    "object": frozenset([*_COUNTS, "properties", "required", "additionalProperties"]),
}
_COMBINED: Final = frozenset(["type", "enum", "const", "anyOf", "oneOf", "allOf", "$ref"])
_METADATA: Final[dict[str, Any]] = {
    "ge": annotated_types.Ge,
    "gt": annotated_types.Gt,
    "le": annotated_types.Le,
    "lt": annotated_types.Lt,
    "multiple_of": annotated_types.MultipleOf,
    "min_length": annotated_types.MinLen,
    "max_length": annotated_types.MaxLen,
}


@dataclass(frozen=True)
class FieldType:
    """A Python annotation, and bounds as keyword arguments of pydantic's Field."""

    annotation: Any
    bounds: Mapping[str, Any] = field(default_factory=dict)

    def nested(self) -> Any:
        """The annotation with its bounds inside it."""
        if not self.bounds:
            return self.annotation
        marks = [_METADATA[name](value) for name, value in self.bounds.items() if name in _METADATA]
        if "pattern" in self.bounds:
            marks.append(pydantic.StringConstraints(pattern=self.bounds["pattern"]))
        return Annotated[(self.annotation, *marks)]


class Budget:
    """How many parts the schemas of a spec may still have."""

    def __init__(self, nodes: int = MAX_NODES) -> None:
        self._left = nodes

    def take(self, nodes: int, at: Path) -> None:
        """Count so many. Raises JobError `invalid_spec`."""
        self._left -= nodes
        if self._left < 0:
            refuse(at, f"is too much: the schemas of a spec have at most {MAX_NODES} parts and values in all")


def read_type(value: Any, at: Path, budget: Budget) -> FieldType:
    """The type that a text of the grammar or a JSON Schema says. Raises JobError `invalid_spec`."""
    if isinstance(value, str):
        try:
            return FieldType(parse_type(value, DSPY_TYPES))
        except SignatureTextError as error:
            refuse(at, f"is no type: {error}", error.position)
    schema = map_at(value, at, "or a text: a JSON Schema, or a type such as 'list[str]'")
    return _Reader(schema, at, budget).root()


class _Reader:
    """Reads one schema. `names` are the `$ref`s that led to a part."""

    def __init__(self, schema: Mapping[str, Any], at: Path, budget: Budget) -> None:
        self._schema = schema
        self._at = at
        self._budget = budget
        self._definitions: dict[str, tuple[Any, Path]] = {}
        for key in ("$defs", "definitions"):
            for name, one in map_at(schema.get(key, {}), (*at, key), "of schemas").items():
                self._definitions[f"#/{key}/{name}"] = (one, (*at, key, name))

    def root(self) -> FieldType:
        return self._type(self._schema, self._at, ())

    def _type(self, schema: Any, at: Path, names: tuple[str, ...]) -> FieldType:
        self._budget.take(1, at)
        if len(at) - len(self._at) > 2 * MAX_DEPTH:
            refuse(at, f"nests deeper than {MAX_DEPTH}")
        if schema is True or schema == {} or schema == []:
            return FieldType(Any)
        schema = map_at(schema, at, "that is a JSON Schema")
        if "$ref" in schema:
            return self._reference(schema, at, names)
        for key in ("anyOf", "oneOf"):
            if key in schema:
                return FieldType(self._union(schema, key, at, names))
        if "allOf" in schema:
            self._only(schema, at, _NOTES | {"allOf"})
            parts = list_at(schema["allOf"], (*at, "allOf"), "one schema", 1)
            return self._type(parts[0] if parts else {}, (*at, "allOf", 0), names)
        if "enum" in schema or "const" in schema:
            return self._values(schema, at)
        return self._typed(schema, at, names)

    def _reference(self, schema: Mapping[str, Any], at: Path, names: tuple[str, ...]) -> FieldType:
        self._only(schema, at, _NOTES | {"$ref"})
        name = text_at(schema["$ref"], (*at, "$ref"), MAX_NAME_CHARS)
        if name.startswith(_PREFIX):
            try:
                return FieldType(parse_type(name.removeprefix(_PREFIX), DSPY_TYPES, only_extra=True))
            except SignatureTextError:
                known = ", ".join(_PREFIX + one for one in DSPY_TYPES)
                refuse((*at, "$ref"), f"names no type of DSPy that may stand here; known are {known}")
        if name in names:
            refuse((*at, "$ref"), "leads back to itself; a schema here may not hold itself")
        if name not in self._definitions:
            refuse((*at, "$ref"), "must name an entry of `$defs` as '#/$defs/NAME', or a type as 'dspy:Image'")
        definition, place = self._definitions[name]
        return self._type(definition, place, (*names, name))

    def _union(self, schema: Mapping[str, Any], key: str, at: Path, names: tuple[str, ...]) -> Any:
        self._only(schema, at, _NOTES | {key})
        parts = list_at(schema[key], (*at, key), "schemas", MAX_VALUES)
        if not parts:
            refuse((*at, key), "must not be empty")
        found = [self._type(part, (*at, key, index), names).nested() for index, part in enumerate(parts)]
        return Union[tuple(found)]  # noqa: UP007 - built at run time

    def _values(self, schema: Mapping[str, Any], at: Path) -> FieldType:
        self._only(schema, at, _NOTES | {"type", "enum", "const"})
        key = "enum" if "enum" in schema else "const"
        values = list_at(schema["enum"], (*at, key), "values", MAX_VALUES) if key == "enum" else [schema["const"]]
        if not values:
            refuse((*at, key), "must not be empty")
        for index, value in enumerate(values):
            place = (*at, key, index) if key == "enum" else (*at, key)
            if not (value is None or isinstance(value, str | int)):
                refuse(place, "must be a text, a whole number, true, false or null")
            if isinstance(value, str):
                text_at(value, place, MAX_PATTERN_CHARS)
        self._budget.take(len(values), at)
        return FieldType(Literal[tuple(values)])

    def _typed(self, schema: Mapping[str, Any], at: Path, names: tuple[str, ...]) -> FieldType:
        kind = schema.get("type")
        if kind is None:
            kind = next((name for name, keys in _OF_TYPE.items() if keys & schema.keys() and name != "number"), None)
            if kind is None:
                self._only(schema, at, _NOTES)
                return FieldType(Any)
        if isinstance(kind, list):
            kinds = list_at(kind, (*at, "type"), "names of types", len(_OF_TYPE))
            allowed = _NOTES.union({"type"}, *(_OF_TYPE.get(one, frozenset()) for one in kinds if isinstance(one, str)))
            self._only(schema, at, allowed)
            parts = [self._one(one, schema, at, names, is_sole=False) for one in kinds]
            if not parts:
                refuse((*at, "type"), "must not be empty")
            return parts[0] if len(parts) == 1 else FieldType(Union[tuple(p.nested() for p in parts)])  # noqa: UP007
        return self._one(kind, schema, at, names, is_sole=True)

    def _one(
        self, kind: Any, schema: Mapping[str, Any], at: Path, names: tuple[str, ...], *, is_sole: bool
    ) -> FieldType:
        if not isinstance(kind, str) or kind not in _OF_TYPE:
            refuse((*at, "type"), f"must be one of {', '.join(_OF_TYPE)}")
        if is_sole:
            self._only(schema, at, _NOTES | {"type"} | _OF_TYPE[kind])
        if kind == "string":
            return self._string(schema, at)
        if kind in ("integer", "number"):
            return FieldType(int if kind == "integer" else float, self._number_bounds(schema, at, kind))
        if kind == "array":
            return self._array(schema, at, names)
        if kind == "object":
            return self._object(schema, at, names)
        return FieldType(bool if kind == "boolean" else type(None))

    def _string(self, schema: Mapping[str, Any], at: Path) -> FieldType:
        bounds: dict[str, Any] = self._sizes(schema, at, _LENGTHS)
        if "pattern" in schema:
            bounds["pattern"] = _pattern(schema["pattern"], (*at, "pattern"))
        kind = schema.get("format")
        found = _FORMATS.get(kind, str) if isinstance(kind, str) else str
        if found is not str and bounds:
            refuse(at, f"cannot have {', '.join(bounds)} beside the format {kind!r}")
        return FieldType(found, bounds)

    def _number_bounds(self, schema: Mapping[str, Any], at: Path, kind: str) -> dict[str, Any]:
        bounds: dict[str, Any] = {}
        for key, name in {**_BOUNDS, "multipleOf": "multiple_of"}.items():
            if key in schema:
                value = number_at(schema[key], (*at, key))
                if key == "multipleOf" and value <= 0:
                    refuse((*at, key), "must be greater than 0")
                bounds[name] = int(value) if kind == "integer" and value == value // 1 else value
        return bounds

    def _array(self, schema: Mapping[str, Any], at: Path, names: tuple[str, ...]) -> FieldType:
        sizes = self._sizes(schema, at, _SIZES)
        if "prefixItems" in schema:
            parts = list_at(schema["prefixItems"], (*at, "prefixItems"), "schemas", MAX_VALUES)
            if sizes or schema.get("items") not in (None, False):
                refuse(at, "with `prefixItems` has exactly those items; leave `items`, `minItems`, `maxItems` out")
            inner = [self._type(part, (*at, "prefixItems", n), names).nested() for n, part in enumerate(parts)]
            return FieldType(tuple[tuple(inner)])  # type: ignore[misc]
        item = self._type(schema.get("items", {}), (*at, "items"), names).nested()
        return FieldType(list[item] if "items" in schema else list, sizes)  # type: ignore[valid-type]

    def _object(self, schema: Mapping[str, Any], at: Path, names: tuple[str, ...]) -> FieldType:
        properties = map_at(schema.get("properties", {}), (*at, "properties"), "of schemas")
        rest = schema.get("additionalProperties")
        if not properties and rest is not False:
            value = Any if rest is None else self._type(rest, (*at, "additionalProperties"), names).nested()
            return FieldType(dict[str, value], self._sizes(schema, at, _COUNTS))  # type: ignore[valid-type]
        if self._sizes(schema, at, _COUNTS):
            refuse(at, "with `properties` cannot have `minProperties` or `maxProperties`")
        if rest not in (None, True, False) and rest != {}:
            refuse((*at, "additionalProperties"), "is true or false beside `properties`")
        required = list_at(schema.get("required", []), (*at, "required"), "names", MAX_NODES)
        for index, name in enumerate(required):
            if name not in properties:
                refuse((*at, "required", index), "names something that is not in `properties`")
        fields: dict[str, Any] = {}
        for name, part in properties.items():
            place = (*at, "properties", name)
            text_at(name, place, MAX_NAME_CHARS)
            found: Any = self._type(part, place, names).nested()
            said = part.get("description") if isinstance(part, Mapping) else None
            if said is not None:
                found = Annotated[found, pydantic.Field(description=text_at(said, (*place, "description"), 4_096))]
            fields[name] = found if name in required else typing_extensions.NotRequired[found]
        return FieldType(_closed_map(_class_name(schema, at), fields, is_open=rest not in (None, False)))

    def _sizes(self, schema: Mapping[str, Any], at: Path, keys: Mapping[str, str]) -> dict[str, Any]:
        return {name: whole_at(schema[key], (*at, key), 0, _MAX_WHOLE) for key, name in keys.items() if key in schema}

    def _only(self, schema: Mapping[str, Any], at: Path, allowed: frozenset[str] | set[str]) -> None:
        for key in schema:
            if key not in allowed:
                known = ", ".join(sorted(allowed - _NOTES))
                refuse(at, f"has the keyword {key[:64]!r}, which is not checked here; known are {known}")


def _pattern(value: Any, at: Path) -> str:
    """A regular expression of the kind that takes no longer than its text is long (no look-around, no references)."""
    pattern = text_at(value, at, MAX_PATTERN_CHARS)
    try:
        pydantic.TypeAdapter(Annotated[str, pydantic.StringConstraints(pattern=pattern)])
    except (pydantic.PydanticUserError, SchemaError) as error:
        refuse(at, f"is no usable pattern: {' '.join(str(error).split())[:200]}")
    return pattern


def _closed_map(name: str, fields: dict[str, Any], *, is_open: bool) -> Any:
    make: Any = typing_extensions.TypedDict
    made: Any = make(name, fields)
    made.__pydantic_config__ = pydantic.ConfigDict(extra="allow" if is_open else "forbid")
    return made


def _class_name(schema: Mapping[str, Any], at: Path) -> str:
    """A name that the model reads: the title's or the last key's letters."""
    title = schema.get("title")
    said = title if isinstance(title, str) else next((step for step in reversed(at) if isinstance(step, str)), "")
    letters = re.sub(r"[^A-Za-z0-9]+", " ", said)[:MAX_NAME_CHARS].title().replace(" ", "")
    return letters if letters[:1].isalpha() else f"Object{letters}"
