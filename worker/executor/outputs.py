"""From what a program returns to the body of its result: plain msgpack, only the signature's output fields."""

from collections.abc import Mapping
from typing import Any, Final

import dspy
import msgpack
import pydantic
from pydantic_core import PydanticSerializationError, to_jsonable_python

from dspymq.worker.executor.failures import JobError
from dspymq.worker.executor.inputs import problem_of
from dspymq.worker.executor.signatures import Interface

_MAX_TEXT: Final = 300
_MAX_FIELDS: Final = 32


def fields_of(returned: Any, interface: Interface) -> dict[str, Any]:
    """The output fields of what the program returned, as plain data.

    Raises JobError `program_error` if it is not a prediction, `lm_output_unparsable` if a field is missing or breaks
    its type or bounds, `unserializable_output` if a value has no plain form.
    """
    found = _fields(returned, interface)
    if interface.outputs is not None and interface.is_exact:
        found = {name: found[name] for name in interface.outputs if name in found}
    if interface.output_model is not None and interface.is_exact:
        found = _fitting(interface.output_model, found)
    return {name: _plain(name, value) for name, value in found.items()}


def encode(outputs: Mapping[str, Any], max_body_bytes: int) -> bytes:
    """The body {outputs}. Raises JobError `unserializable_output` or `result_too_large`."""
    try:
        body: bytes = msgpack.packb({"outputs": outputs}, use_bin_type=True)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise JobError("unserializable_output", f"an output cannot be written as msgpack: {error}") from None
    if len(body) > max_body_bytes:
        details = {"bytes": len(body), "max_body_bytes": max_body_bytes}
        raise JobError(
            "result_too_large", f"the outputs have {len(body)} bytes, the limit is {max_body_bytes}", details
        )
    return body


def _fields(returned: Any, interface: Interface) -> dict[str, Any]:
    if isinstance(returned, dspy.Example):
        return dict(returned.items())
    if isinstance(returned, Mapping):
        return {str(name): value for name, value in returned.items()}
    if isinstance(returned, pydantic.BaseModel):
        return {name: getattr(returned, name) for name in type(returned).model_fields}
    if interface.outputs is not None and len(interface.outputs) == 1:
        return {interface.outputs[0]: returned}
    raise JobError("program_error", f"the program returned a {type(returned).__name__}, not a dspy.Prediction")


def _fitting(model: type[pydantic.BaseModel], found: Mapping[str, Any]) -> dict[str, Any]:
    """The outputs as the types of the signature; DSPy itself lets some be missing, and tells bounds to the LM only."""
    try:
        checked = model.model_validate(dict(found))
    except pydantic.ValidationError as error:
        problems = {str(one["loc"][0]): one for one in reversed(error.errors(include_url=False, include_context=False))}
        fields = [
            {"field": name, "problem": problem_of(one), "message": one["msg"][:_MAX_TEXT]}
            for name, one in problems.items()
        ]
        first = fields[0]
        text = f"the outputs do not fit the signature: `{first['field']}`: {first['message']}"
        details = {"expected": list(model.model_fields)[:_MAX_FIELDS], "fields": fields[:_MAX_FIELDS]}
        raise JobError("lm_output_unparsable", text, details) from None
    except RecursionError:
        raise JobError("unserializable_output", "the outputs nest too deeply") from None
    return {name: getattr(checked, name) for name in model.model_fields if name in checked.model_fields_set}


def plain(value: Any) -> Any:
    """The value as JSON could hold it. Raises PydanticSerializationError, TypeError, ValueError or RecursionError."""
    if type(value) is str:
        return clean_text(value)
    return _clean(to_jsonable_python(_open_types(value), bytes_mode="base64", inf_nan_mode="constants"))


def _plain(name: str, value: Any) -> Any:
    try:
        return plain(value)
    except (PydanticSerializationError, TypeError, ValueError, RecursionError) as error:
        problem = f"the output `{name}` ({type(value).__name__}) has no plain form: {error}"
        raise JobError("unserializable_output", problem[:500]) from None


def _open_types(value: Any) -> Any:
    """DSPy's own types write themselves as prompt markers; to the outside they are their fields."""
    if isinstance(value, dspy.Type):
        return {name: _open_types(getattr(value, name)) for name in type(value).model_fields}
    if isinstance(value, list | tuple):
        return [_open_types(one) for one in value]
    if isinstance(value, dict):
        return {key: _open_types(one) for key, one in value.items()}
    if isinstance(value, dspy.Example):
        return {key: _open_types(one) for key, one in value.items()}
    return value


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, list):
        return [_clean(one) for one in value]
    if isinstance(value, dict):
        return {_clean(key): _clean(one) for key, one in value.items()}
    return value


def clean_text(text: str) -> str:
    """Text that UTF-8 can carry: half surrogate pairs, which a JSON escape can make, become U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return "".join("\ufffd" if "\ud800" <= char <= "\udfff" else char for char in text)
    return text
