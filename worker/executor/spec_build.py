"""From a spec that was read to a program that runs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Final

import dspy

from dspymq.worker.executor import spec_modules as modules
from dspymq.worker.executor.failures import JobError
from dspymq.worker.executor.lms import CONFIG_KEYS, ProfileLM, with_config
from dspymq.worker.executor.registry import Registry
from dspymq.worker.executor.spec_errors import refuse
from dspymq.worker.executor.spec_fields import read_signature, with_fields
from dspymq.worker.executor.spec_nodes import AGENTS, Reward, Spec
from dspymq.worker.executor.spec_plan import plan_of
from dspymq.worker.executor.spec_scope import Scoped
from dspymq.worker.executor.spec_state import apply_state, read_demos
from dspymq.worker.executor.spec_types import Budget
from dspymq.worker.executor.tool_specs import Toolset
from dspymq.worker.executor.tools import unbound_tools

_REACT: Final = ("trajectory", "next_thought", "next_tool_name", "next_tool_args", "reasoning", "max_iters")
_OWN_NAMES: Final[Mapping[str, tuple[str, ...]]] = {
    "chain_of_thought": ("reasoning",),
    "multi_chain_comparison": ("reasoning", "rationale", "completions"),
    "react": _REACT,
    "react_v2": ("history", "tools", "next_thought", "tool_calls", "termination_reason", "max_iters"),
    "rlm": ("variables_info", "repl_history", "iteration", "reasoning", "code", "interpreter_factory", "max_iters"),
}
"""Fields that a kind adds to its own signatures, and inputs that it would take for itself."""


@dataclass(frozen=True)
class Built:
    """A module, and the signature of what it takes and gives."""

    module: Any
    signature: Any


class Builder:
    """Builds one spec with the tools that the job's client offers and what the pool lends."""

    def __init__(self, toolset: Toolset, registry: Registry) -> None:
        self._toolset = toolset
        self._registry = registry
        self._budget = Budget()

    def build(self, spec: Spec) -> Built:
        """The program. Raises JobError `invalid_spec` with the place, or `invalid_tools`."""
        made = _BUILDERS.get(spec.kind, Builder._leaf)(self, spec)
        if spec.state:
            tools = tuple(tool.name for tool in self._tools(spec)) if spec.kind == "react" else ()
            apply_state(made.module, spec.state, (*spec.at, "state"), tools)
        _check_config(spec)
        if spec.profile is None and spec.adapter is None and not spec.config:
            return made
        return Built(Scoped(made.module, spec.profile, spec.adapter, spec.config), made.signature)

    def _leaf(self, spec: Spec) -> Built:
        signature = read_signature(spec.signature, spec.instructions, (*spec.at, "signature"), self._budget)
        for name in _OWN_NAMES.get(spec.kind, ()):
            if name in signature.fields:
                refuse((*spec.at, "signature"), f"has `{name}`, a field of {spec.kind}'s own; use another name")
        if spec.kind in AGENTS:
            return Built(self._agent(spec, signature), signature)
        if spec.kind == "multi_chain_comparison":
            module = modules.MultiChain(signature, spec.count or 1)
            return Built(module, _without_attempts(module.compare.predict.signature))
        module = dspy.ChainOfThought(signature) if spec.kind == "chain_of_thought" else dspy.Predict(signature)
        predictor = module.predictors()[0]
        predictor.demos = read_demos(predictor.signature, spec.demos, (*spec.at, "demos"))
        return Built(module, predictor.signature)

    def _agent(self, spec: Spec, signature: Any) -> Any:
        tools = self._tools(spec)
        if spec.kind == "rlm":
            interpreter = self._registry.interpreter
            if interpreter is None:
                refuse((*spec.at, "kind"), "cannot be rlm here: its model writes code, and this pool does not allow it")
            return dspy.RLM(signature, max_iters=spec.count, tools=tools, interpreter_factory=interpreter)
        if not tools:
            raise JobError("invalid_tools", f"a `spec` of kind {spec.kind} needs at least one tool in `tools`")
        kind = dspy.ReAct if spec.kind == "react" else dspy.ReActV2
        if spec.kind == "react_v2" and any(tool.name == "submit" for tool in tools):
            raise JobError("invalid_tools", "the tool name `submit` belongs to react_v2", {"tool": "submit"})
        return kind(signature, tools=tools, max_iters=spec.count)

    def _tools(self, spec: Spec) -> list[dspy.Tool]:
        """All of the client's; or those that the spec names, the client's or the pool's."""
        client = {tool.name: tool for tool in unbound_tools(self._toolset)}
        if spec.tools is None:
            return list(client.values())
        pool = self._registry.tools
        for index, name in enumerate(spec.tools):
            at = (*spec.at, "tools", index)
            if name in client and name in pool:
                refuse(at, f"is {name!r}, which both the client and the pool offer; rename the client's")
            if name not in client and name not in pool:
                known = ", ".join([*client, *pool]) or "none"
                refuse(at, f"is {name!r}, which neither the client nor the pool offers; there are {known}")
        return [client.get(name) or pool[name] for name in spec.tools]

    def _best_of(self, spec: Spec) -> Built:
        assert spec.program is not None
        assert spec.reward is not None
        inner = self.build(spec.program)
        reward = self._reward(spec.reward, inner.signature, (*spec.at, "reward"))
        said = str(dict(spec.program.said)) if spec.kind == "refine" else None
        module = modules.BestOf(inner.module, spec.count or 1, reward, spec.threshold, said)
        return Built(module, inner.signature)

    def _reward(self, reward: Reward, signature: Any, at: tuple[str | int, ...]) -> modules.Reward:
        if reward.name is not None:
            function = self._registry.rewards.get(reward.name)
            if function is None:
                known = ", ".join(self._registry.rewards) or "none"
                refuse((*at, "name"), f"is {reward.name!r}, which the pool does not lend; there are {known}")
            return modules.Reward(function, f"{reward.name}: {function.__doc__ or 'a number, the higher the better'}")
        assert reward.judge is not None
        judge = self.build(reward.judge)
        for name, info in judge.signature.input_fields.items():
            if name not in signature.fields and info.is_required():
                known = ", ".join(signature.fields)
                refuse((*at, "judge", "signature"), f"reads `{name}`, which is no field of the program ({known})")
        numbers = [
            name for name, info in judge.signature.output_fields.items() if info.annotation in (int, float, bool)
        ]
        score = reward.score or (numbers[-1] if numbers else None)
        if score is None or score not in numbers:
            refuse((*at, "score"), "must name an output of the judge of type float, int or bool")
        text = f"A judge gives it: {judge.signature.instructions}"
        return modules.Reward(modules.judging(judge.module, tuple(judge.signature.input_fields), score), text)

    def _parallel(self, spec: Spec) -> Built:
        assert spec.program is not None
        assert spec.over is not None
        inner = self.build(spec.program)
        if spec.over not in inner.signature.input_fields:
            known = ", ".join(inner.signature.input_fields) or "none"
            refuse((*spec.at, "over"), f"is no input of the program inside; there are {known}")
        listed: dict[str, Any] = {}
        for name, info in inner.signature.fields.items():
            is_many = name == spec.over or name in inner.signature.output_fields
            listed[name] = _many(name, info, is_output=name != spec.over) if is_many else (info.annotation, info)
        module = modules.Parallel(inner.module, spec.over, tuple(inner.signature.output_fields))
        return Built(module, with_fields(listed, inner.signature.instructions))

    def _pipeline(self, spec: Spec) -> Built:
        steps = {step.name: self.build(step.program) for step in spec.steps}
        plan, signature = plan_of(spec, {name: one.signature for name, one in steps.items()})
        return Built(modules.Pipeline({name: one.module for name, one in steps.items()}, plan), signature)


_BUILDERS: Final[Mapping[str, Callable[[Builder, Spec], Built]]] = {
    "best_of_n": Builder._best_of,
    "refine": Builder._best_of,
    "parallel": Builder._parallel,
    "pipeline": Builder._pipeline,
}


_NO_LM: Final = SimpleNamespace(copy=lambda **_: None)


def _check_config(spec: Spec) -> None:
    """Refuse parameters of LM calls that a job's own `config` could not have either."""
    for key, value in spec.config.items():
        try:
            with_config(ProfileLM(_NO_LM, None), {key: value})
        except JobError:
            problem = "has no such value" if key in CONFIG_KEYS else f"is not known; known are {', '.join(CONFIG_KEYS)}"
            refuse((*spec.at, "config", key), problem)


def _many(name: str, info: Any, *, is_output: bool) -> tuple[Any, Any]:
    """The field as a list of what it was; its bounds go with its items."""
    item: Any = info.rebuild_annotation()
    description = info.json_schema_extra.get("desc")
    keywords = {} if description in (None, f"${{{name}}}") else {"desc": description}
    made = dspy.OutputField if is_output else dspy.InputField
    return list[item], made(**keywords)


def _without_attempts(signature: Any) -> Any:
    for name in list(signature.input_fields):
        if name.startswith("reasoning_attempt_"):
            signature = signature.delete(name)
    return signature
