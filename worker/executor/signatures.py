"""What a DSPy signature means to the outside: pydantic models of its inputs and outputs, and their JSON Schemas."""

import functools
import inspect
import typing
from dataclasses import dataclass
from typing import Any, Final, Literal

import pydantic
from dspy.adapters.utils import annotation_allows_none
from pydantic.json_schema import GenerateJsonSchema

from dspymq.worker.executor import inputs as checks

_DIALECT: Final = {"$schema": GenerateJsonSchema.schema_dialect}


@dataclass(frozen=True)
class Interface:
    """A program's inputs and outputs as far as they are known.

    `model` validates inputs; without it `required` and `known` names are checked (`known` None: any name goes).
    `output_model` is of the outputs, and validates them if `is_exact`.
    `outputs` are the fields that a result may hold, None if unknown; `is_exact` is False where they were inferred
    from a predictor inside, and a prediction that has other fields is then sent whole. `texts`: outputs of type str.
    """

    model: type[pydantic.BaseModel] | None = None
    output_model: type[pydantic.BaseModel] | None = None
    required: tuple[str, ...] = ()
    known: tuple[str, ...] | None = None
    outputs: tuple[str, ...] | None = None
    is_exact: bool = True
    texts: frozenset[str] = frozenset()

    @functools.cached_property
    def input_schema(self) -> dict[str, Any]:
        """The JSON Schema of the inputs; made when it is first asked for, since most specs are never described."""
        if self.model is None:
            return {**_DIALECT, "type": "object", "required": list(self.required)}
        return _schema(self.model)

    @functools.cached_property
    def output_schema(self) -> dict[str, Any] | None:
        """The JSON Schema of the outputs; None if they are not known."""
        return None if self.output_model is None else _schema(self.output_model, "serialization")

    def arguments(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """The program's keyword arguments. Raises JobError `invalid_inputs`."""
        if self.model is not None:
            return checks.validate(self.model, inputs)
        return checks.check_free(inputs, self.required, self.known)


def io_model(signature: Any, which: Literal["input", "output"]) -> type[pydantic.BaseModel]:
    """A pydantic model of one side of a signature; refuses unknown fields, keeps bounds, gives a clean schema."""
    fields: dict[str, Any] = {}
    source = signature.input_fields if which == "input" else signature.output_fields
    for name, info in source.items():
        description = (info.json_schema_extra or {}).get("desc")
        extra = {"description": description} if description and description != f"${{{name}}}" else {}
        if not info.is_required():
            default: Any = info.default
        else:
            default = None if annotation_allows_none(info.annotation) else ...
        fields[name] = _field(info, pydantic.Field(default, **extra))
    return _model(which, fields)


def field_model(info: Any) -> type[pydantic.BaseModel]:
    """A model {value} of one field of a signature, its bounds kept."""
    return _model("Field", {"value": _field(info, pydantic.Field())})


def of_signature(signature: Any, *, is_exact: bool = True) -> Interface:
    """The interface of a program that takes and gives exactly the fields of a signature."""
    return Interface(
        model=io_model(signature, "input"),
        output_model=io_model(signature, "output"),
        outputs=tuple(signature.output_fields),
        is_exact=is_exact,
        texts=_texts(signature),
    )


def of_call(call: inspect.Signature, hints: dict[str, Any], inner: Any) -> Interface:
    """The interface of a module with a `forward` of its own, from its parameters.

    `hints` are its resolved annotations. `inner` is the signature of its single predictor, or None: it types
    parameters of the same name that have no annotation, and is the guess for the outputs.
    """
    inner_inputs = inner.input_fields if inner is not None else {}
    fields: dict[str, Any] = {}
    is_open = False
    for name, parameter in call.parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            is_open = True
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            continue
        default = ... if parameter.default is parameter.empty else parameter.default
        annotation = hints.get(name, Any)
        if annotation is Any and name in inner_inputs:
            annotation = inner_inputs[name].annotation
        fields[name] = (annotation, pydantic.Field(default))
    model = None if is_open else _model("input", fields)
    required = tuple(name for name, (_, info) in fields.items() if info.is_required())
    return Interface(
        model=model,
        output_model=None if inner is None else io_model(inner, "output"),
        required=required,
        outputs=None if inner is None else tuple(inner.output_fields),
        is_exact=False,
        texts=frozenset() if inner is None else _texts(inner),
    )


def resolved_hints(function: Any) -> dict[str, Any]:
    """The annotations of a function as types; those that cannot be resolved are left out."""
    try:
        return typing.get_type_hints(function)
    except Exception:
        return {}


def _field(info: Any, made: Any) -> tuple[Any, Any]:
    made.metadata = list(info.metadata)
    return info.annotation, made


def _texts(signature: Any) -> frozenset[str]:
    return frozenset(name for name, info in signature.output_fields.items() if info.annotation is str)


def _model(name: str, fields: dict[str, Any]) -> type[pydantic.BaseModel]:
    config = pydantic.ConfigDict(extra="forbid", arbitrary_types_allowed=True, protected_namespaces=())
    made: type[pydantic.BaseModel] = pydantic.create_model(name, __config__=config, **fields)
    return made


class _Schemas(GenerateJsonSchema):
    """JSON Schemas, draft 2020-12."""

    def model_schema(self, schema: Any) -> Any:
        """A class; without the docstring if that is DSPy's, which explains Python."""
        made = super().model_schema(schema)
        if schema["cls"].__module__.partition(".")[0] == "dspy":
            made.pop("description", None)
        return made


def _schema(
    model: type[pydantic.BaseModel], mode: Literal["validation", "serialization"] = "validation"
) -> dict[str, Any]:
    try:
        return {**_DIALECT, **model.model_json_schema(mode=mode, schema_generator=_Schemas)}
    except (pydantic.errors.PydanticInvalidForJsonSchema, TypeError, ValueError):
        return {**_DIALECT, "type": "object"}
