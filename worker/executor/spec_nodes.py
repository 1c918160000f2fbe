"""The spec language: a map that says what a program is, checked and read. Nothing is built here, and dspy not used.

A spec is one program, which may hold others (`program`, `steps`, `reward.judge`). Each part is read by the table of
its kind, and a part that is wrong is refused with its place.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from dspymq.worker.executor.inputs import MARKER, has_marker
from dspymq.worker.executor.spec_errors import (
    Path,
    choice_at,
    list_at,
    map_at,
    number_at,
    refuse,
    text_at,
    whole_at,
)

MAX_INSTRUCTIONS_CHARS: Final = 65_536
MAX_NAME_CHARS: Final = 64
MAX_ITERS: Final = 200
"""Turns of an agent, each one LM call and one tool call."""
MAX_ATTEMPTS: Final = 32
MAX_STEPS: Final = 32
MAX_PARTS: Final = 64
MAX_DEPTH: Final = 8
MAX_DEMOS: Final = 256
MAX_TOOLS: Final = 64

ADAPTERS: Final = ("chat", "json", "xml", "two_step")
CACHES: Final = ("off",)

_OF_ALL: Final = ("kind", "profile", "adapter", "config", "cache", "state")
_LEAF: Final = ("signature", "instructions")
KINDS: Final[Mapping[str, tuple[str, ...]]] = {
    "predict": (*_LEAF, "demos"),
    "chain_of_thought": (*_LEAF, "demos"),
    "multi_chain_comparison": (*_LEAF, "n"),
    "react": (*_LEAF, "max_iters", "tools"),
    "react_v2": (*_LEAF, "max_iters", "tools"),
    "rlm": (*_LEAF, "max_iters", "tools"),
    "best_of_n": ("program", "n", "reward", "threshold"),
    "refine": ("program", "n", "reward", "threshold"),
    "parallel": ("program", "over"),
    "pipeline": ("steps", "outputs"),
}
"""The keys of each kind, besides those of all."""

AGENTS: Final = frozenset({"react", "react_v2", "rlm"})
"""Kinds that call tools."""
BLOCKING: Final = frozenset({"rlm"})
"""Kinds whose asynchronous call waits for code to run without giving way to others."""
REFUSED_KINDS: Final = {
    "program_of_thought": "runs code that a model writes, and DSPy 3.5 drops it; use rlm where the pool allows it",
    "code_act": "runs code that a model writes, and DSPy 3.5 drops it; use react, or rlm where the pool allows it",
}

_DEFAULTS: Final[Mapping[str, int]] = {
    **dict.fromkeys(AGENTS, 20),
    **dict.fromkeys(("best_of_n", "refine", "multi_chain_comparison"), 3),
}
"""`max_iters` or `n` where the spec has none."""


@dataclass(frozen=True)
class Step:
    """A step of a pipeline. `inputs` say where what comes from: an input of the pipeline, or STEP.FIELD."""

    name: str
    program: "Spec"
    inputs: Mapping[str, str]


@dataclass(frozen=True)
class Reward:
    """How good a prediction is: a reward of the pool by name, or what a judge writes into the field `score`."""

    name: str | None = None
    judge: "Spec | None" = None
    score: str | None = None


@dataclass(frozen=True)
class Spec:
    """One program. `said` is all that it says, in one form for equal specs; the parts that it lacks are None."""

    kind: str
    at: Path
    said: Mapping[str, Any]
    signature: Any = None
    instructions: str | None = None
    demos: tuple[Any, ...] = ()
    state: Mapping[str, Any] = field(default_factory=dict)
    profile: str | None = None
    adapter: str | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    tools: tuple[str, ...] | None = None
    count: int | None = None
    program: "Spec | None" = None
    reward: Reward | None = None
    threshold: float | None = None
    over: str | None = None
    steps: tuple[Step, ...] = ()
    outputs: Mapping[str, str] | None = None

    @property
    def revision(self) -> str:
        """The revision of the program: 32 hex digits over what the spec says."""
        text = json.dumps(self.said, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]

    def parts(self) -> "list[Spec]":
        """This program and all inside it."""
        inside = [step.program for step in self.steps]
        inside += [one for one in (self.program, self.reward.judge if self.reward else None) if one is not None]
        return [self, *(part for one in inside for part in one.parts())]


def read_spec(spec: Any) -> Spec:
    """The program that this map says. Raises JobError `invalid_spec`, with the place in details.path."""
    try:
        if has_marker(spec):
            refuse((), f"must not hold {MARKER}")
        read = _Reader().spec(spec, ())
        _ = read.revision
    except RecursionError:
        refuse((), "nests too deeply")
    except (TypeError, ValueError):
        refuse((), "holds a value that JSON cannot say")
    return read


class _Reader:
    def __init__(self) -> None:
        self._parts = 0

    def spec(self, value: Any, at: Path, depth: int = 0) -> Spec:
        self._parts += 1
        if depth > MAX_DEPTH or self._parts > MAX_PARTS:
            refuse(at, f"is too much: programs nest {MAX_DEPTH} deep, and are {MAX_PARTS} in all, at most")
        whole = map_at(value, at, "{signature, kind?, instructions?, ...}")
        kind = self._kind(whole.get("kind", "predict"), at)
        keys = (*_OF_ALL, *KINDS[kind])
        for key in whole:
            if key not in keys and any(key in of_kind for of_kind in KINDS.values()):
                refuse((*at, key), f"has no meaning for the kind {kind}; known are {', '.join(keys)}")
        whole = {key: one for key, one in map_at(whole, at, "", keys).items() if one is not None}
        read = {key: getattr(self, f"_{key}")(whole[key], (*at, key), depth) for key in keys[1:] if key in whole}
        if kind in _DEFAULTS:
            read["count"] = read.pop("max_iters", read.pop("n", _DEFAULTS[kind]))
        for key in _required(kind):
            if key not in read:
                refuse((*at, key), _MISSING[key])
        read.pop("cache", None)
        return Spec(kind=kind, at=at, said=_said(kind, whole, read), **read)

    def _kind(self, value: Any, at: Path) -> str:
        if isinstance(value, str) and value in REFUSED_KINDS:
            refuse((*at, "kind"), f"cannot be {value}: it {REFUSED_KINDS[value]}")
        return choice_at(value, (*at, "kind"), tuple(KINDS))

    def _signature(self, value: Any, at: Path, depth: int) -> Any:
        return value

    def _instructions(self, value: Any, at: Path, depth: int) -> str | None:
        return text_at(value, at, MAX_INSTRUCTIONS_CHARS) or None

    def _demos(self, value: Any, at: Path, depth: int) -> tuple[Any, ...]:
        return tuple(list_at(value, at, "maps {field: value}", MAX_DEMOS))

    def _state(self, value: Any, at: Path, depth: int) -> Mapping[str, Any]:
        return map_at(value, at, "{predictor: state}, as DSPy saves it in JSON")

    def _profile(self, value: Any, at: Path, depth: int) -> str:
        return text_at(value, at, MAX_NAME_CHARS)

    def _adapter(self, value: Any, at: Path, depth: int) -> str:
        return choice_at(value, at, ADAPTERS)

    def _config(self, value: Any, at: Path, depth: int) -> Mapping[str, Any]:
        return map_at(value, at, "{temperature?, max_tokens?, ...}")

    def _cache(self, value: Any, at: Path, depth: int) -> str:
        return choice_at(value, at, CACHES)

    def _tools(self, value: Any, at: Path, depth: int) -> tuple[str, ...]:
        names = list_at(value, at, "names of tools", MAX_TOOLS)
        found = [text_at(name, (*at, index), MAX_NAME_CHARS) for index, name in enumerate(names)]
        for index, name in enumerate(found):
            if name in found[:index]:
                refuse((*at, index), f"is {name!r}, which stands twice")
        return tuple(found)

    def _max_iters(self, value: Any, at: Path, depth: int) -> int:
        return whole_at(value, at, 1, MAX_ITERS)

    def _n(self, value: Any, at: Path, depth: int) -> int:
        return whole_at(value, at, 1, MAX_ATTEMPTS)

    def _threshold(self, value: Any, at: Path, depth: int) -> float:
        return number_at(value, at)

    def _over(self, value: Any, at: Path, depth: int) -> str:
        return text_at(value, at, MAX_NAME_CHARS)

    def _program(self, value: Any, at: Path, depth: int) -> Spec:
        return self.spec(value, at, depth + 1)

    def _reward(self, value: Any, at: Path, depth: int) -> Reward:
        parts = map_at(value, at, "{name}, or {judge, score?}", ("name", "judge", "score"))
        if ("name" in parts) == ("judge" in parts):
            refuse(at, "has either the `name` of a reward of the pool, or a `judge`")
        if "name" in parts:
            if "score" in parts:
                refuse((*at, "score"), "belongs to a `judge`")
            return Reward(name=text_at(parts["name"], (*at, "name"), MAX_NAME_CHARS))
        judge = self.spec(parts["judge"], (*at, "judge"), depth + 1)
        score = parts.get("score")
        return Reward(None, judge, None if score is None else text_at(score, (*at, "score"), MAX_NAME_CHARS))

    def _steps(self, value: Any, at: Path, depth: int) -> tuple[Step, ...]:
        steps: dict[str, Step] = {}
        for index, one in enumerate(list_at(value, at, "maps {name, program, inputs?}", MAX_STEPS)):
            place = (*at, index)
            parts = map_at(one, place, "{name, program, inputs?}", ("name", "program", "inputs"))
            name = parts.get("name")
            if not isinstance(name, str) or not name.isascii() or not name.isidentifier():
                refuse((*place, "name"), "must be a name of ASCII letters, digits and `_`")
            text_at(name, (*place, "name"), MAX_NAME_CHARS)
            if name in steps:
                refuse((*place, "name"), f"is {name!r}, which stands twice")
            if "program" not in parts:
                refuse((*place, "program"), _MISSING["program"])
            wires = self._wires(parts.get("inputs", {}), (*place, "inputs"))
            steps[name] = Step(name, self.spec(parts["program"], (*place, "program"), depth + 1), wires)
        if not steps:
            refuse(at, "needs at least one step")
        return tuple(steps.values())

    def _outputs(self, value: Any, at: Path, depth: int) -> Mapping[str, str]:
        return self._wires(value, at)

    def _wires(self, value: Any, at: Path) -> Mapping[str, str]:
        wires = map_at(value, at, "{field: 'input' or 'step.field'}")
        return {name: text_at(source, (*at, name), 2 * MAX_NAME_CHARS + 1) for name, source in wires.items()}


_MISSING: Final = {
    "signature": "must be a text such as 'question -> answer', or a map {inputs, outputs}",
    "program": "is missing: the spec of the program inside",
    "reward": "is missing: {name} of a reward of the pool, or {judge}, a program that judges",
    "over": "is missing: the input that is a list",
    "steps": "is missing: an array of {name, program, inputs?}",
}


def _required(kind: str) -> tuple[str, ...]:
    return tuple(key for key in KINDS[kind] if key in _MISSING)


def _said(kind: str, whole: Mapping[str, Any], read: Mapping[str, Any]) -> dict[str, Any]:
    """The map in the one form for equal specs: without what is the default, and the programs inside it the same way."""
    count = _DEFAULTS.get(kind)
    defaults = {"kind": "predict", "cache": "off", "instructions": "", "max_iters": count, "n": count}
    said = {key: _tidy(one) for key, one in whole.items() if key not in defaults or one != defaults[key]}
    if "program" in read:
        said["program"] = read["program"].said
    if "reward" in read and read["reward"].judge is not None:
        said["reward"] = {**said["reward"], "judge": read["reward"].judge.said}
    if "steps" in read:
        said["steps"] = [{"name": s.name, "program": s.program.said, "inputs": dict(s.inputs)} for s in read["steps"]]
    return said


def _tidy(value: Any) -> Any:
    """Plain data in one form: a whole float is an integer."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list | tuple):
        return [_tidy(one) for one in value]
    if isinstance(value, dict):
        return {key: _tidy(one) for key, one in value.items()}
    return value
