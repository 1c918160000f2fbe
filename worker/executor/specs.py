"""Inline programs: a job's `spec`, {signature, kind?, instructions?}, to a program. Nothing of it is evaluated."""

import hashlib
import json
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, Final

import dspy

from dspymq.worker.executor import signatures
from dspymq.worker.executor.failures import JobError
from dspymq.worker.executor.inputs import MARKER
from dspymq.worker.executor.programs import Program
from dspymq.worker.executor.signature_text import ParsedSignature, SignatureTextError, parse_signature

INLINE: Final = "_inline"
"""The program name of jobs that bring their own spec."""

KINDS: Final = {"predict": dspy.Predict, "chain_of_thought": dspy.ChainOfThought}
MAX_INSTRUCTIONS_CHARS: Final = 65_536
_KEYS: Final = ("signature", "kind", "instructions")


class SpecCache:
    """Programs of inline specs by the spec's hash; the least recently used go first."""

    def __init__(self, size: int = 512) -> None:
        self._size = size
        self._programs: OrderedDict[str, Program] = OrderedDict()

    def program(self, spec: Any) -> Program:
        """The program of a spec. Raises JobError `invalid_spec`."""
        signature, kind, instructions = _checked(spec)
        revision = spec_revision(signature, kind, instructions)
        found = self._programs.get(revision)
        if found is None:
            found = self._programs[revision] = _build(revision, signature, kind, instructions)
            if len(self._programs) > self._size:
                self._programs.popitem(last=False)
        else:
            self._programs.move_to_end(revision)
        return found

    def __len__(self) -> int:
        return len(self._programs)


def spec_revision(signature: str, kind: str, instructions: str | None) -> str:
    """The revision of an inline program: 32 hex digits over what the spec says."""
    text = json.dumps([signature, kind, instructions], ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _checked(spec: Any) -> tuple[str, str, str | None]:
    if not isinstance(spec, Mapping):
        raise JobError("invalid_spec", "`spec` must be a map {signature, kind?, instructions?}")
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
    return signature, kind, instructions or None


def _build(revision: str, signature: str, kind: str, instructions: str | None) -> Program:
    try:
        parsed = parse_signature(signature)
    except SignatureTextError as error:
        raise JobError("invalid_spec", f"`spec.signature`: {error}", {"position": error.position}) from None
    if kind == "chain_of_thought" and any(f.name == "reasoning" for f in (*parsed.inputs, *parsed.outputs)):
        raise JobError("invalid_spec", "`reasoning` is the field that chain_of_thought adds; use another name")
    made = to_dspy(parsed, instructions)
    module = KINDS[kind](made)
    interface = signatures.of_signature(module.predictors()[0].signature)
    return Program(name=INLINE, module=module, revision=revision, interface=interface, is_async=True, doc="")


def to_dspy(parsed: ParsedSignature, instructions: str | None) -> Any:
    """The dspy.Signature of a parsed text."""
    fields = {field.name: (field.type, dspy.InputField()) for field in parsed.inputs}
    fields |= {field.name: (field.type, dspy.OutputField()) for field in parsed.outputs}
    return dspy.Signature(fields, instructions) if instructions else dspy.Signature(fields)
