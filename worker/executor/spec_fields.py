"""A spec's signature, in text or as typed fields, to a dspy.Signature; and the values that its fields may have."""

import copy
from collections.abc import Callable, Mapping
from typing import Any, Final, Optional

import dspy
import pydantic
from pydantic_core import SchemaError

from dspymq.worker.executor.signature_text import (
    MAX_FIELDS,
    ParsedSignature,
    SignatureTextError,
    check_field_name,
    parse_signature,
)
from dspymq.worker.executor.signatures import field_model
from dspymq.worker.executor.spec_errors import Path, list_at, map_at, refuse, text_at
from dspymq.worker.executor.spec_types import DSPY_TYPES, Budget, FieldType, read_type

MAX_DESCRIPTION_CHARS: Final = 4_096
_SIGNATURE: Final = ("inputs", "outputs")
_FIELD: Final = ("name", "type", "description", "optional", "default")


def read_signature(value: Any, instructions: str | None, at: Path, budget: Budget) -> Any:
    """The dspy.Signature of a text, or of {inputs: [field], outputs: [field]}. Raises JobError `invalid_spec`."""
    if isinstance(value, str):
        try:
            parsed = parse_signature(value, DSPY_TYPES)
        except SignatureTextError as error:
            refuse(at, f"is wrong: {error}", error.position)
        for field in parsed.outputs:
            if field.type is dspy.History:
                refuse(at, f"has the output `{field.name}` of the type History, which is for inputs only")
        return to_dspy(parsed, instructions)
    if value is None:
        refuse(at, "must be a text such as 'question -> answer', or a map {inputs, outputs}")
    parts = map_at(value, at, "{inputs, outputs}, or a text such as 'question -> answer'", _SIGNATURE)
    fields: dict[str, Any] = {}
    for side in _SIGNATURE:
        for index, one in enumerate(list_at(parts.get(side, []), (*at, side), "fields", MAX_FIELDS)):
            place = (*at, side, index)
            name, made = _field(one, place, budget, is_input=side == "inputs")
            if name in fields:
                refuse((*place, "name"), f"is {name!r}, which stands twice")
            fields[name] = made
    if not parts.get("outputs"):
        refuse((*at, "outputs"), "needs at least one field")
    if len(fields) > MAX_FIELDS:
        refuse(at, f"has {len(fields)} fields, the limit is {MAX_FIELDS}")
    try:
        return with_fields(fields, instructions)
    except (pydantic.PydanticUserError, SchemaError, TypeError, ValueError) as error:
        refuse(at, f"cannot be: {str(error).splitlines()[0][:200]}")


def to_dspy(parsed: ParsedSignature, instructions: str | None) -> Any:
    """The dspy.Signature of a parsed text."""
    fields = {field.name: (field.type, dspy.InputField()) for field in parsed.inputs}
    fields |= {field.name: (field.type, dspy.OutputField()) for field in parsed.outputs}
    return with_fields(fields, instructions)


def with_fields(fields: Mapping[str, Any], instructions: str | None) -> Any:
    """The dspy.Signature of {name: (type, field)}; without instructions DSPy's own stand in for them."""
    return dspy.Signature(dict(fields), instructions) if instructions else dspy.Signature(dict(fields))


def renamed(info: Any, old: str, new: str) -> Any:
    """A copy of a field for a signature in which it has another name."""
    made = copy.deepcopy(info)
    if made.json_schema_extra.get("desc") == f"${{{old}}}":
        made.json_schema_extra["desc"] = f"${{{new}}}"
    return made


Check = Callable[[Any, Path], Any]
"""A value and its place to the value as its field's type. Raises JobError `invalid_spec`."""


def checker(info: Any) -> Check:
    """The check of the values of one field of a signature."""
    model = field_model(info)

    def check(value: Any, at: Path) -> Any:
        try:
            return model.model_validate({"value": value}).value  # type: ignore[attr-defined]
        except pydantic.ValidationError as error:
            first = error.errors(include_url=False, include_context=False, include_input=False)[0]
            refuse((*at, *first["loc"][1:]), f"does not fit its field: {first['msg']}")
        except RecursionError:
            refuse(at, "nests too deeply")

    return check


def _field(value: Any, at: Path, budget: Budget, *, is_input: bool) -> tuple[str, tuple[Any, Any]]:
    if isinstance(value, str):
        value = {"name": value}
    parts = map_at(value, at, f"{{{', '.join(_FIELD)}}}", _FIELD)
    name = parts.get("name")
    if not isinstance(name, str):
        refuse((*at, "name"), "must be a text")
    problem = check_field_name(name, is_input=is_input)
    if problem is not None:
        refuse((*at, "name"), f"cannot be used: {problem}")
    said = parts.get("type")
    found = FieldType(str) if said is None else read_type(said, (*at, "type"), budget)
    if found.annotation is dspy.History and not is_input:
        refuse((*at, "type"), "is for inputs only")
    description = parts.get("description")
    if description is None and isinstance(said, Mapping):
        description = said.get("description")
    keywords: dict[str, Any] = dict(found.bounds)
    if description is not None:
        keywords["desc"] = text_at(description, (*at, "description"), MAX_DESCRIPTION_CHARS)
    optional = parts.get("optional", False)
    if not isinstance(optional, bool):
        refuse((*at, "optional"), "must be true or false")
    if optional:
        found = FieldType(Optional[found.annotation], found.bounds)  # noqa: UP045 - built at run time
    default, place = _default(parts, said, at)
    if default is not _NONE:
        bounds = pydantic.fields.FieldInfo(annotation=found.annotation, **found.bounds)
        keywords["default"] = checker(bounds)(default, place)
    made = dspy.InputField if is_input else dspy.OutputField
    return name, (found.annotation, made(**keywords))


_NONE: Final = object()


def _default(parts: Mapping[str, Any], said: Any, at: Path) -> tuple[Any, Path]:
    if "default" in parts:
        return parts["default"], (*at, "default")
    if isinstance(said, Mapping) and "default" in said:
        return said["default"], (*at, "type", "default")
    return _NONE, at
