"""Inline programs: a job's `spec`, as data, to a program. Nothing of it is evaluated, imported or unpickled."""

import hashlib
from typing import Any, Final

from dspymq.protocol import body as bodies
from dspymq.protocol.errors import ProtocolError
from dspymq.worker.executor import signatures
from dspymq.worker.executor.failures import JobError
from dspymq.worker.executor.programs import Program
from dspymq.worker.executor.recent import Recent
from dspymq.worker.executor.registry import REGISTRY, Registry
from dspymq.worker.executor.spec_build import Builder
from dspymq.worker.executor.spec_modules import InThread
from dspymq.worker.executor.spec_nodes import AGENTS, BLOCKING, Spec, read_spec
from dspymq.worker.executor.tool_specs import NO_TOOLS, Toolset

INLINE: Final = "_inline"
"""The program name of jobs that bring their own spec."""


class SpecCache:
    """Programs of inline specs by the spec's hash; the least recently used go first.

    A program that calls tools is one for each set of tools, too: their names and schemas stand in its prompts. Its
    functions are not of one job: they call the tools of the job that calls them.
    """

    def __init__(self, size: int = 512, agents: int = 64, registry: Registry = REGISTRY) -> None:
        """`agents` bounds the programs that call tools, which are larger; `registry` is what the pool lends."""
        self._specs: Recent[str, Spec] = Recent(size)
        self._programs: Recent[str, Program] = Recent(size)
        self._agents: Recent[str, Program] = Recent(agents)
        self._registry = registry

    def program(self, spec: Any, toolset: Toolset = NO_TOOLS) -> Program:
        """The program of a spec. Raises JobError `invalid_spec`, or `invalid_tools` for tools that cannot be called."""
        read = self._read(spec)
        if not any(part.kind in AGENTS for part in read.parts()):
            if toolset.specs:
                raise JobError("invalid_tools", f"a `spec` of kind {read.kind} calls no tools; use the kind react")
            found = self._programs.get(read.revision)
            return found or self._programs.put(read.revision, program_of(read, toolset, self._registry))
        key = f"{read.revision} {toolset.digest}"
        return self._agents.get(key) or self._agents.put(key, program_of(read, toolset, self._registry))

    def _read(self, spec: Any) -> Spec:
        """The spec as it was read when the same bytes came before; reading takes longer than to compare."""
        try:
            digest = hashlib.sha256(bodies.encode(spec=spec)).hexdigest()
        except ProtocolError:
            return read_spec(spec)
        return self._specs.get(digest) or self._specs.put(digest, read_spec(spec))

    def __len__(self) -> int:
        return len(self._programs) + len(self._agents)

    def __bool__(self) -> bool:
        """An empty cache is a cache."""
        return True


def program_of(spec: Spec, toolset: Toolset = NO_TOOLS, registry: Registry = REGISTRY, name: str = INLINE) -> Program:
    """Build the program of a spec that was read. Raises JobError as `SpecCache.program`."""
    built = Builder(toolset, registry).build(spec)
    blocks = any(part.kind in BLOCKING for part in spec.parts())
    return Program(
        name=name,
        module=InThread(built.module) if blocks else built.module,
        revision=spec.revision,
        interface=signatures.of_signature(built.signature),
        is_async=not blocks,
        doc=spec.instructions or "",
        kind=spec.kind,
    )
