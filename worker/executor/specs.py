"""Inline programs: a job's `spec`, {signature, kind?, instructions?, max_iters?}, to a program.

Nothing of it is evaluated.
"""

import hashlib
import json
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import dspy

from dspymq.worker.executor import signatures
from dspymq.worker.executor.failures import JobError
from dspymq.worker.executor.inputs import MARKER
from dspymq.worker.executor.programs import Program
from dspymq.worker.executor.signature_text import ParsedSignature, SignatureTextError, parse_signature
from dspymq.worker.executor.tool_specs import NO_TOOLS, Toolset
from dspymq.worker.executor.tools import unbound_tools

INLINE: Final = "_inline"
"""The program name of jobs that bring their own spec."""

KINDS: Final = ("predict", "chain_of_thought", "react")
MAX_INSTRUCTIONS_CHARS: Final = 65_536
DEFAULT_MAX_ITERS: Final = 20
MAX_ITERS: Final = 200
"""Turns of a `react` program, each one LM call and one tool call."""

_KEYS: Final = ("signature", "kind", "instructions", "max_iters")
_REACT_NAMES: Final = frozenset(
    {"trajectory", "next_thought", "next_tool_name", "next_tool_args", "reasoning", "max_iters"}
)
"""Fields that ReAct adds to its own signatures, and the input that it would take for itself."""


@dataclass(frozen=True)
class Spec:
    """A spec that is well formed; `max_iters` of `react` only."""

    signature: str
    kind: str = "predict"
    instructions: str | None = None
    max_iters: int | None = None

    @property
    def revision(self) -> str:
        """The revision of the program: 32 hex digits over what the spec says (tools are not part of it)."""
        said = [self.signature, self.kind, self.instructions]
        if self.max_iters is not None:
            said.append(self.max_iters)  # type: ignore[arg-type]
        return hashlib.sha256(json.dumps(said, ensure_ascii=False).encode()).hexdigest()[:32]


class SpecCache:
    """Programs of inline specs by the spec's hash; the least recently used go first.

    A `react` program is one for each set of tools, too: their names and schemas stand in its prompts. Its functions
    are not of one job: they call the tools of the job that calls them.
    """

    def __init__(self, size: int = 512, agents: int = 64) -> None:
        """`agents` bounds the `react` programs, which are larger."""
        self._programs = _Recent(size)
        self._agents = _Recent(agents)

    def program(self, spec: Any, toolset: Toolset = NO_TOOLS) -> Program:
        """The program of a spec. Raises JobError `invalid_spec`, or `invalid_tools` for tools that cannot be called."""
        checked = _checked(spec)
        if checked.kind == "react":
            if not toolset.specs:
                raise JobError("invalid_tools", "a `spec` of kind react needs at least one tool in `tools`")
            key = f"{checked.revision} {toolset.digest}"
            return self._agents.get(key) or self._agents.put(key, _build(checked, toolset))
        if toolset.specs:
            raise JobError("invalid_tools", f"a `spec` of kind {checked.kind} calls no tools; use the kind react")
        return self._programs.get(checked.revision) or self._programs.put(checked.revision, _build(checked, toolset))

    def __len__(self) -> int:
        return len(self._programs) + len(self._agents)


class _Recent:
    def __init__(self, size: int) -> None:
        self._size = size
        self._programs: OrderedDict[str, Program] = OrderedDict()

    def get(self, key: str) -> Program | None:
        found = self._programs.get(key)
        if found is not None:
            self._programs.move_to_end(key)
        return found

    def put(self, key: str, program: Program) -> Program:
        self._programs[key] = program
        if len(self._programs) > self._size:
            self._programs.popitem(last=False)
        return program

    def __len__(self) -> int:
        return len(self._programs)


def _checked(spec: Any) -> Spec:
    if not isinstance(spec, Mapping):
        raise JobError("invalid_spec", "`spec` must be a map {signature, kind?, instructions?, max_iters?}")
    for key in spec:
        if key not in _KEYS:
            raise JobError("invalid_spec", f"`spec` has no key {str(key)[:64]!r}; known are {', '.join(_KEYS)}")
    signature = spec.get("signature")
    if not isinstance(signature, str):
        raise JobError("invalid_spec", "`spec.signature` must be a text such as 'question -> answer'")
    kind = spec.get("kind", "predict")
    if not isinstance(kind, str) or kind not in KINDS:
        raise JobError("invalid_spec", f"`spec.kind` must be one of {', '.join(KINDS)}")
    instructions = spec.get("instructions")
    if instructions is not None:
        if not isinstance(instructions, str) or len(instructions) > MAX_INSTRUCTIONS_CHARS:
            raise JobError("invalid_spec", f"`spec.instructions` is a text of at most {MAX_INSTRUCTIONS_CHARS}")
        if MARKER in instructions:
            raise JobError("invalid_spec", f"`spec.instructions` must not hold {MARKER}")
    return Spec(signature, kind, instructions or None, _max_iters(spec.get("max_iters"), kind))


def _max_iters(value: Any, kind: str) -> int | None:
    if kind != "react":
        if value is not None:
            raise JobError("invalid_spec", "`spec.max_iters` belongs to the kind react")
        return None
    if value is None:
        return DEFAULT_MAX_ITERS
    whole = isinstance(value, int | float) and not isinstance(value, bool) and value == value // 1
    if not whole or not 1 <= value <= MAX_ITERS:
        raise JobError("invalid_spec", f"`spec.max_iters` is a whole number from 1 to {MAX_ITERS}")
    return int(value)


def _build(spec: Spec, toolset: Toolset) -> Program:
    try:
        parsed = parse_signature(spec.signature)
    except SignatureTextError as error:
        raise JobError("invalid_spec", f"`spec.signature`: {error}", {"position": error.position}) from None
    names = {field.name for field in (*parsed.inputs, *parsed.outputs)}
    if spec.kind == "chain_of_thought" and "reasoning" in names:
        raise JobError("invalid_spec", "`reasoning` is the field that chain_of_thought adds; use another name")
    if spec.kind == "react" and names & _REACT_NAMES:
        text = f"`{min(names & _REACT_NAMES)}` is a field of react's own; use another name"
        raise JobError("invalid_spec", text)
    made = to_dspy(parsed, spec.instructions)
    if spec.kind == "react":
        module = dspy.ReAct(made, tools=unbound_tools(toolset), max_iters=spec.max_iters)
        interface = signatures.of_signature(made)
    else:
        module = dspy.ChainOfThought(made) if spec.kind == "chain_of_thought" else dspy.Predict(made)
        interface = signatures.of_signature(module.predictors()[0].signature)
    return Program(name=INLINE, module=module, revision=spec.revision, interface=interface, is_async=True, doc="")


def to_dspy(parsed: ParsedSignature, instructions: str | None) -> Any:
    """The dspy.Signature of a parsed text."""
    fields = {field.name: (field.type, dspy.InputField()) for field in parsed.inputs}
    fields |= {field.name: (field.type, dspy.OutputField()) for field in parsed.outputs}
    return dspy.Signature(fields, instructions) if instructions else dspy.Signature(fields)
