"""The JSON Schema of a tool's arguments, from a client that nobody vouches for: made finite, then checked against.

`$ref`s are replaced by what they name and only known keywords are kept, so that nothing is ever fetched, nothing
recurses, and a check costs what the schema is long. `pattern` is shown to the model and never run: a regular
expression of a stranger could hold the loop of all jobs.
"""

from collections.abc import Mapping
from typing import Any, Final

import jsonschema

MAX_SCHEMA_NODES: Final = 2_000
"""Sub-schemas and enum values of one tool, `$ref`s replaced."""
MAX_SCHEMA_DEPTH: Final = 24
MAX_NAME_CHARS: Final = 128

# fmt: off
_KEPT: Final = frozenset({
    "type", "enum", "const", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "minLength",
    "maxLength", "minItems", "maxItems", "uniqueItems", "minProperties", "maxProperties", "required", "description",
    "default", "examples", "format", "pattern",
})
# fmt: on
_SCHEMA: Final = frozenset({"additionalProperties", "items", "not"})
_SCHEMAS: Final = frozenset({"anyOf", "oneOf", "allOf", "prefixItems"})
_REFERENCES: Final = ("#/$defs/", "#/definitions/")
_MAX_PROBLEMS: Final = 3
_MAX_TEXT: Final = 200

_Validator: Final = jsonschema.validators.extend(
    jsonschema.Draft202012Validator, {"pattern": lambda validator, pattern, instance, schema: None}
)


class SchemaProblem(ValueError):
    """What is wrong with a schema; the text says where."""


class Parameters:
    """The arguments that a tool takes. `schema` is the flat JSON Schema; `properties` and `required` are of its top."""

    def __init__(self, schema: Any) -> None:
        """Raises SchemaProblem if this is not the schema of an object, or is too large."""
        self.schema = _Flattener(schema).root()
        try:
            jsonschema.Draft202012Validator.check_schema(self.schema)
        except jsonschema.SchemaError as error:
            where = "".join(f"[{step!r}]" for step in error.absolute_path)
            raise SchemaProblem(f"`parameters{where}`: {error.message[:_MAX_TEXT]}") from None
        self.properties: dict[str, Any] = self.schema["properties"]
        self.required: list[str] = self.schema["required"]
        for name in self.required:
            if name not in self.properties:
                raise SchemaProblem(f"`parameters.required` names {name[:64]!r}, which is not in `properties`")
        rest = {key: value for key, value in self.schema.items() if key not in ("required", "additionalProperties")}
        self._is_open = self.schema["additionalProperties"] is not False
        if self._is_open:
            rest["additionalProperties"] = self.schema["additionalProperties"]
        self._validator = _Validator(rest)

    def problems(self, args: Mapping[str, Any]) -> list[str]:
        """What is wrong with these arguments, in a few short lines; [] if nothing is.

        Unlike in JSON Schema, what is not in `properties` is refused unless `additionalProperties` allows it.
        """
        found = [f"`{name}` is required" for name in self.required if name not in args]
        if not self._is_open:
            known = ", ".join(self.properties) or "none"
            found += [
                f"there is no argument `{name[:64]}` (known: {known})" for name in args if name not in self.properties
            ]
        if len(found) < _MAX_PROBLEMS:
            for error in self._validator.iter_errors(dict(args)):
                where = "".join(f"[{step!r}]" if n else str(step) for n, step in enumerate(error.absolute_path))
                found.append(f"`{where}`: {error.message}" if where else error.message)
                if len(found) >= _MAX_PROBLEMS:
                    break
        return [problem[:_MAX_TEXT] for problem in found[:_MAX_PROBLEMS]]


class _Flattener:
    """Makes the flat copy. `at` is where in the schema a part stands, `names` are the `$ref`s that led there."""

    def __init__(self, schema: Any) -> None:
        if schema == []:
            schema = {}
        if not isinstance(schema, Mapping):
            raise SchemaProblem("`parameters` must be a JSON Schema of an object, such as {'type': 'object'}")
        self._root = schema
        self._definitions: dict[str, Any] = {}
        for key, prefix in zip(("$defs", "definitions"), _REFERENCES, strict=True):
            for name, value in _map(schema.get(key), ("parameters", key)).items():
                self._definitions[prefix + name] = value
        self._nodes = 0

    def root(self) -> dict[str, Any]:
        """The whole schema, with `type`, `properties`, `required` and `additionalProperties` always there."""
        if self._root.get("type", "object") != "object":
            raise SchemaProblem("`parameters.type` must be 'object'")
        flat = self._keywords(self._root, ("parameters",), ())
        return {"type": "object", "properties": {}, "required": [], "additionalProperties": False, **flat}

    def _schema(self, value: Any, at: tuple[str, ...], names: tuple[str, ...]) -> Any:
        if isinstance(value, bool):
            self._count(1, at)
            return value
        if value == []:
            value = {}
        if not isinstance(value, Mapping):
            raise SchemaProblem(f"{_where(at)} must be a schema, which is a map")
        reference = value.get("$ref")
        flat = self._keywords(value, at, names)
        if reference is None:
            return flat
        if not isinstance(reference, str) or reference not in self._definitions:
            text = f"{_where(at)}: `$ref` must name an entry of `$defs` as '#/$defs/NAME'"
            raise SchemaProblem(f"{text}, not {str(reference)[:64]!r}")
        if reference in names:
            # A type that holds itself: from here on anything goes.
            return flat
        named = self._schema(self._definitions[reference], at, (*names, reference))
        return {**named, **flat} if isinstance(named, dict) else named

    def _keywords(self, value: Mapping[Any, Any], at: tuple[str, ...], names: tuple[str, ...]) -> dict[str, Any]:
        self._count(1, at)
        flat: dict[str, Any] = {}
        for key, one in value.items():
            if key in _KEPT:
                flat[key] = one
                if key == "enum" and isinstance(one, list):
                    self._count(len(one), at)
            elif key == "properties":
                inside = _map(one, (*at, key))
                flat[key] = {name: self._schema(inner, (*at, name), names) for name, inner in inside.items()}
            elif key in _SCHEMAS or (key == "items" and isinstance(one, list) and one):
                # `items` as an array is what earlier drafts call `prefixItems`.
                parts = [self._schema(inner, (*at, key), names) for inner in _list(one, (*at, key))]
                flat["prefixItems" if key == "items" else key] = parts
            elif key in _SCHEMA:
                flat[key] = self._schema(one, (*at, key), names)
        return flat

    def _count(self, nodes: int, at: tuple[str, ...]) -> None:
        self._nodes += nodes
        if self._nodes > MAX_SCHEMA_NODES:
            raise SchemaProblem(f"`parameters` has more than {MAX_SCHEMA_NODES} sub-schemas and enum values")
        if len(at) > MAX_SCHEMA_DEPTH:
            raise SchemaProblem(f"`parameters` nests deeper than {MAX_SCHEMA_DEPTH}")


def _map(value: Any, at: tuple[str, ...]) -> Mapping[str, Any]:
    if value is None or value == []:
        return {}
    if not isinstance(value, Mapping) or not all(isinstance(n, str) and len(n) <= MAX_NAME_CHARS for n in value):
        raise SchemaProblem(f"{_where(at)} must be a map; its keys are texts of at most {MAX_NAME_CHARS} characters")
    return value


def _list(value: Any, at: tuple[str, ...]) -> list[Any]:
    if not isinstance(value, list):
        raise SchemaProblem(f"{_where(at)} must be an array of schemas")
    return value


def _where(at: tuple[str, ...]) -> str:
    return f"`{'.'.join(at)[:_MAX_TEXT]}`"
