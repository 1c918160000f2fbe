"""Validation of a job's inputs, before any LM call. DSPy itself only logs what is missing, unknown or ill-typed."""

from collections.abc import Collection, Mapping
from typing import Any, Final

import pydantic

from dspymq.worker.executor.failures import JobError

MARKER: Final = "<<CUSTOM-TYPE-START-IDENTIFIER>>"
"""Text that DSPy turns into image parts and the like when it stands in an input."""

_ACTIVE: Final = (("<<CUSTOM-TYPE-", "<<CUSTOM\u2011TYPE-"), ("[[ ## ", "[[\u00a0## "))
"""How markers and the headers of fields begin, and what stands for it: looks the same, and is nothing but text."""

MAX_PROBLEMS: Final = 32
_MAX_TEXT: Final = 300
_MAP_ERRORS: Final = ("dict_type", "model_type", "model_attributes_type", "dataclass_type", "mapping_type")
_PROBLEMS: Final = {"missing": "missing", "extra_forbidden": "unknown"}


def validate(model: type[pydantic.BaseModel], inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The program's keyword arguments: those given, as the types that its signature names.

    An empty array where a map is due is taken as the empty map; text that DSPy would act on is made `neutral`. Raises
    JobError `invalid_inputs`, whose details.fields has one entry for each problem: {field, problem: missing | unknown
    | type | value, message, expected}.
    """
    value = _named(inputs)
    for _ in range(8):
        try:
            parsed = model.model_validate(value)
            return {name: getattr(parsed, name) for name in parsed.model_fields_set}
        except pydantic.ValidationError as error:
            problems = error.errors(include_url=False, include_context=False)
            patched = _patch_empty_arrays(value, problems)
            if patched is None:
                raise _refusal(model, problems) from None
            value = patched
        except RecursionError:
            raise JobError("invalid_inputs", "inputs nest too deeply") from None
    raise _refusal(model, problems)


def check_free(inputs: Mapping[str, Any], required: Collection[str], known: Collection[str] | None) -> dict[str, Any]:
    """Inputs of a program without a signature: only missing and (unless `known` is None) unknown names are found."""
    found = _named(inputs)
    problems = [_problem(name, "missing", "this input is required") for name in required if name not in inputs]
    if known is not None:
        expected = f"one of {', '.join(known)}" if known else "no inputs"
        problems += [_problem(n, "unknown", "no such input", expected) for n in inputs if n not in known]
    if problems:
        raise _error(problems)
    return found


def neutral(value: Any) -> Any:
    """Plain data in which DSPy's custom-type markers and field headers (`[[ ## answer ## ]]`) are nothing but text.

    A model that repeats such a header would otherwise answer fields that it never meant to. What else there is of
    text stays as it is, and a value without such text is returned itself.
    """
    if isinstance(value, str):
        for active, text in _ACTIVE:
            if active in value:
                value = value.replace(active, text)
        return value
    if isinstance(value, bytes):
        return value.replace(b"<<CUSTOM-TYPE-", b"<<CUSTOM_TYPE-")
    if isinstance(value, list):
        return [neutral(one) for one in value]
    if isinstance(value, dict):
        return {neutral(key): neutral(one) for key, one in value.items()}
    return value


def _named(inputs: Mapping[str, Any]) -> dict[str, Any]:
    for name in inputs:
        if not isinstance(name, str):
            raise JobError("invalid_inputs", f"input names are strings, not {type(name).__name__}")
    try:
        return {neutral(name): neutral(value) for name, value in inputs.items()}
    except RecursionError:
        raise JobError("invalid_inputs", "inputs nest too deeply") from None


def has_marker(value: Any) -> bool:
    """Whether DSPy's custom-type marker stands anywhere in plain data."""
    stack = [value]
    while stack:
        one = stack.pop()
        if isinstance(one, str):
            if MARKER in one:
                return True
        elif isinstance(one, dict):
            stack.extend(one)
            stack.extend(one.values())
        elif isinstance(one, list):
            stack.extend(one)
    return False


def _patch_empty_arrays(value: Any, problems: list[Any]) -> Any:
    """A copy in which [] stands as {} where a map was expected; None if nothing was to patch."""
    patched = None
    for problem in problems:
        if problem["type"] in _MAP_ERRORS and problem["input"] == [] and problem["loc"]:
            if patched is None:
                patched = _copy(value)
            try:
                parent = patched
                for step in problem["loc"][:-1]:
                    parent = parent[step]
                if parent[problem["loc"][-1]] == []:
                    parent[problem["loc"][-1]] = {}
            except (KeyError, IndexError, TypeError):
                return None
    return patched


def _copy(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copy(inner) for key, inner in value.items()}
    return [_copy(inner) for inner in value] if isinstance(value, list) else value


def _refusal(model: type[pydantic.BaseModel], problems: list[Any]) -> JobError:
    found: dict[tuple[str, str], dict[str, str]] = {}
    for problem in problems:
        name = str(problem["loc"][0]) if problem["loc"] else ""
        kind = problem_of(problem)
        path = "".join(f"[{step!r}]" for step in problem["loc"][1:])
        message = f"{path}: {problem['msg']}" if path else problem["msg"]
        if kind == "unknown":
            message = "no such input"
            known = ", ".join(model.model_fields)
            expected: str | None = f"one of {known}" if known else "no inputs"
        else:
            expected = _expected(model, name)
        found.setdefault((name, kind), _problem(name, kind, message, expected))
    return _error(list(found.values()))


def problem_of(error: Mapping[str, Any]) -> str:
    """What is wrong by one of pydantic's errors: missing, unknown, type, or value for what is out of bounds."""
    kind = _PROBLEMS.get(error["type"], "type") if len(error["loc"]) <= 1 else "type"
    return "value" if kind == "type" and _is_bound(error["type"]) else kind


def _is_bound(kind: str) -> bool:
    return kind.startswith(("greater_than", "less_than", "too_", "string_too", "string_pattern", "multiple_of"))


def _expected(model: type[pydantic.BaseModel], name: str) -> str | None:
    field = model.model_fields.get(name)
    if field is None:
        return None
    annotation = field.annotation
    return annotation.__name__ if isinstance(annotation, type) and not _args(annotation) else _type_text(annotation)


def _args(annotation: Any) -> Any:
    return getattr(annotation, "__args__", None)


def _type_text(annotation: Any) -> str:
    return str(annotation).replace("typing.", "")


def _problem(field: str, problem: str, message: str, expected: str | None = None) -> dict[str, str]:
    entry = {"field": field[:_MAX_TEXT], "problem": problem, "message": message[:_MAX_TEXT]}
    if expected is not None:
        entry["expected"] = expected[:_MAX_TEXT]
    return entry


def _error(problems: list[dict[str, str]]) -> JobError:
    shown = "; ".join(f"`{p['field']}` is {_WORDS.get(p['problem'], 'wrong')}" for p in problems[:5])
    more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
    return JobError("invalid_inputs", f"inputs do not fit: {shown}{more}", {"fields": problems[:MAX_PROBLEMS]})


_WORDS: Final = {"missing": "missing", "unknown": "unknown", "type": "of the wrong type", "value": "out of bounds"}
