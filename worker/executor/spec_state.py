"""Demos and saved state of a spec: a whitelist of what they may set. Nothing is unpickled, no attribute named by data.

DSPy's own `load_state` sets whatever attributes a state names; here a state sets demos, instructions and descriptions
of fields, and nothing else.
"""

from collections.abc import Mapping
from typing import Any, Final

from dspymq.worker.executor.spec_errors import Path, list_at, map_at, refuse, text_at
from dspymq.worker.executor.spec_fields import MAX_DESCRIPTION_CHARS, Check, checker
from dspymq.worker.executor.spec_nodes import MAX_DEMOS, MAX_INSTRUCTIONS_CHARS

_STATE: Final = ("demos", "signature", "traces", "train", "lm")
_SIGNATURE: Final = ("instructions", "fields")
_FIELD: Final = ("prefix", "description")
_MARKS: Final = ("augmented",)
"""What DSPy writes into a demo beside its fields."""


def read_demos(signature: Any, demos: Any, at: Path) -> list[dict[str, Any]]:
    """Demos for a predictor of this signature: maps with a value for an input and an output at least, of their types.

    Raises JobError `invalid_spec`.
    """
    listed = list_at(demos, at, "maps {field: value}", MAX_DEMOS)
    checks = {name: checker(info) for name, info in signature.fields.items()} if listed else {}
    return [_demo(signature, checks, demo, (*at, index)) for index, demo in enumerate(listed)]


def apply_state(module: Any, state: Mapping[str, Any], at: Path, tools: tuple[str, ...] = ()) -> None:
    """Set what a state says on the predictors of `module`; `tools` must stand in instructions that list tools.

    Raises JobError `invalid_spec`, and may then have set some of it.
    """
    predictors = dict(module.named_predictors())
    for name, one in state.items():
        place = (*at, name)
        if name == "metadata":
            continue
        if name not in predictors:
            known = ", ".join(predictors)
            refuse(place, f"is no predictor of this program; there are {known}")
        said = map_at(one, place, "{demos, signature, ...}", _STATE)
        predictor = predictors[name]
        signature = map_at(said.get("signature", {}), (*place, "signature"), "{instructions, fields}", _SIGNATURE)
        predictor.signature = _signature(predictor.signature, signature, (*place, "signature"), tools)
        if "demos" in said:
            predictor.demos = read_demos(predictor.signature, said["demos"], (*place, "demos"))


def _demo(signature: Any, checks: Mapping[str, Check], demo: Any, at: Path) -> dict[str, Any]:
    values = map_at(demo, at, "{field: value}", (*signature.fields, *_MARKS))
    found = {
        name: None if value is None else checks[name](value, (*at, name))
        for name, value in values.items()
        if name not in _MARKS
    }
    for side, fields in (("input", signature.input_fields), ("output", signature.output_fields)):
        if fields and not fields.keys() & found.keys():
            refuse(at, f"has no {side} field, and DSPy would leave it out")
    return found


def _signature(signature: Any, said: Mapping[str, Any], at: Path, tools: tuple[str, ...]) -> Any:
    instructions = said.get("instructions")
    if instructions is not None:
        place = (*at, "instructions")
        text_at(instructions, place, MAX_INSTRUCTIONS_CHARS)
        if "next_tool_name" in signature.output_fields:
            missing = next((tool for tool in tools if tool not in instructions), None)
            if missing is not None:
                refuse(place, f"does not name the tool {missing!r}, so the model would not know it")
        signature = signature.with_instructions(instructions)
    fields = list_at(said.get("fields", []), (*at, "fields"), "maps {prefix, description}", len(signature.fields))
    if fields and len(fields) != len(signature.fields):
        refuse((*at, "fields"), f"has {len(fields)} entries, the signature has {len(signature.fields)} fields")
    for index, (name, one) in enumerate(zip(signature.fields, fields, strict=False)):
        place = (*at, "fields", index)
        description = map_at(one, place, "{prefix, description}", _FIELD).get("description")
        if description is not None:
            text = text_at(description, (*place, "description"), MAX_DESCRIPTION_CHARS)
            signature = signature.with_updated_fields(name, desc=text)
    return signature
