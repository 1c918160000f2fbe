"""The wiring of a pipeline: which input of which step comes from where, and the signature of the whole."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pydantic

from dspymq.worker.executor.failures import JobError
from dspymq.worker.executor.inputs import neutral
from dspymq.worker.executor.signature_text import check_field_name
from dspymq.worker.executor.signatures import field_model
from dspymq.worker.executor.spec_errors import Path, refuse
from dspymq.worker.executor.spec_fields import renamed, with_fields
from dspymq.worker.executor.spec_nodes import Spec


@dataclass(frozen=True)
class Plan:
    """`wires` are, by step, {input of the step: source}; `models` check what goes over a wire from another step."""

    wires: Mapping[str, Mapping[str, str]]
    models: Mapping[tuple[str, str], type[pydantic.BaseModel]]
    outputs: Mapping[str, str]

    def arguments(self, step: str, values: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments of a step. Raises JobError `program_error` for a value that does not fit its type."""
        found: dict[str, Any] = {}
        for name, source in self.wires[step].items():
            if source not in values:
                continue
            value = values[source]
            model = self.models.get((step, name))
            if model is not None:
                value = neutral(value)
                try:
                    value = model.model_validate({"value": value}).value  # type: ignore[attr-defined]
                except pydantic.ValidationError as error:
                    problem = error.errors(include_url=False, include_input=False)[0]["msg"]
                    text = f"`{source}` does not fit the input `{name}` of the step `{step}`: {problem}"
                    raise JobError("program_error", text) from None
            found[name] = value
        return found


def plan_of(spec: Spec, signatures: Mapping[str, Any]) -> tuple[Plan, Any]:
    """The plan of a pipeline whose steps have these signatures, and the signature of the whole.

    An input that no wire names comes from the newest step before that has an output of its name, else from outside.
    Raises JobError `invalid_spec`.
    """
    made: dict[str, Any] = {}
    fields: dict[str, Any] = {}
    newest: dict[str, str] = {}
    wires: dict[str, dict[str, str]] = {}
    models: dict[tuple[str, str], type[pydantic.BaseModel]] = {}
    for index, step in enumerate(spec.steps):
        at = (*spec.at, "steps", index, "inputs")
        signature = signatures[step.name]
        for name in step.inputs:
            if name not in signature.input_fields:
                known = ", ".join(signature.input_fields) or "none"
                refuse((*at, name), f"is no input of the step; there are {known}")
        wires[step.name] = {}
        for name, info in signature.input_fields.items():
            source = step.inputs.get(name) or newest.get(name, name)
            wires[step.name][name] = source
            if "." not in source:
                problem = check_field_name(source, is_input=True)
                if problem is not None:
                    refuse((*at, name), f"names an input that cannot be: {problem}")
                fields.setdefault(source, (info.annotation, renamed(info, name, source)))
                continue
            if source not in made:
                refuse((*at, name), _no_source(source, made))
            # Text takes anything: DSPy writes every value as text.
            models[step.name, name] = _Any if info.annotation is str else field_model(info)
        for name, info in signature.output_fields.items():
            made[f"{step.name}.{name}"] = info
            newest[name] = f"{step.name}.{name}"
    outputs = _outputs(spec, made, signatures)
    for name, source in outputs.items():
        if name in fields:
            refuse((*spec.at, "outputs", name), "is the name of an input, too")
        fields[name] = (made[source].annotation, renamed(made[source], source.partition(".")[2], name))
    return Plan(wires, models, outputs), with_fields(fields, None)


def _outputs(spec: Spec, made: Mapping[str, Any], signatures: Mapping[str, Any]) -> dict[str, str]:
    last = spec.steps[-1].name
    if spec.outputs is None:
        return {name: f"{last}.{name}" for name in signatures[last].output_fields}
    at: Path = (*spec.at, "outputs")
    if not spec.outputs:
        refuse(at, "needs at least one field")
    for name, source in spec.outputs.items():
        if source not in made:
            refuse((*at, name), _no_source(source, made))
        problem = check_field_name(name, is_input=False)
        if problem is not None:
            refuse((*at, name), f"cannot be a field: {problem}")
    return dict(spec.outputs)


def _no_source(source: str, made: Mapping[str, Any]) -> str:
    return f"is {source!r}, which no step before gives; there are {', '.join(made) or 'none'}"


class _Any(pydantic.BaseModel):
    value: Any
