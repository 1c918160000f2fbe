"""The `tools` of a job's body: what a client offers for its program to call (SPEC section 9.6)."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from dspymq.protocol import body as bodies
from dspymq.protocol.errors import ProtocolError
from dspymq.worker.executor.failures import JobError
from dspymq.worker.executor.inputs import MARKER, has_marker
from dspymq.worker.executor.recent import Recent
from dspymq.worker.executor.tool_schema import Parameters, SchemaProblem

MAX_TOOLS: Final = 64
MAX_DESCRIPTION_CHARS: Final = 4_096
RESERVED_NAMES: Final = frozenset({"finish"})
"""DSPy's own tools, which would silently take the place of the client's."""

_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")
_KEYS: Final = ("name", "description", "parameters", "timeout_ms")


@dataclass(frozen=True)
class ToolSpec:
    """One tool. `timeout_ms` bounds the wait for its answer; None: as long as the job has."""

    name: str
    description: str
    parameters: Parameters
    timeout_ms: int | None = None


@dataclass(frozen=True)
class Toolset:
    """The tools of one job; `digest` is equal for equal ones, "" for none."""

    specs: tuple[ToolSpec, ...] = ()
    digest: str = ""


NO_TOOLS: Final = Toolset()


class ToolsetCache:
    """Tools as jobs bring them, checked once for all jobs that bring the same; the least recently used go first."""

    def __init__(self, size: int = 128) -> None:
        self._known: Recent[str, Toolset] = Recent(size)

    def toolset(self, tools: Any) -> Toolset:
        """The tools of a body. Raises JobError `invalid_tools`, which names the tool and what is wrong with it."""
        if tools is None or tools == [] or tools == {}:
            return NO_TOOLS
        try:
            digest = hashlib.sha256(bodies.encode(tools=tools)).hexdigest()
        except ProtocolError as problem:
            raise JobError("invalid_tools", problem.message) from None
        return self._known.get(digest) or self._known.put(digest, Toolset(parse_tools(tools), digest))


def parse_tools(tools: Any) -> tuple[ToolSpec, ...]:
    """Check the array of {name, description?, parameters, timeout_ms?}. Raises JobError `invalid_tools`."""
    if not isinstance(tools, list):
        raise JobError("invalid_tools", "`tools` must be an array of maps {name, description?, parameters}")
    if len(tools) > MAX_TOOLS:
        raise JobError("invalid_tools", f"`tools` has {len(tools)} entries, the limit is {MAX_TOOLS}")
    specs: dict[str, ToolSpec] = {}
    for position, entry in enumerate(tools):
        spec = _parse(entry, position)
        if spec.name in specs:
            raise _refusal(spec.name, "there is another tool of this name")
        specs[spec.name] = spec
    return tuple(specs.values())


def _parse(entry: Any, position: int) -> ToolSpec:
    if not isinstance(entry, Mapping):
        raise _refusal(position, "must be a map {name, description?, parameters}")
    name = entry.get("name")
    if not isinstance(name, str) or not _NAME.match(name):
        raise _refusal(position, "`name` must be 1 to 64 ASCII letters, digits, `_` or `-`")
    if name in RESERVED_NAMES:
        raise _refusal(name, "this name belongs to DSPy; use another one")
    for key in entry:
        if key not in _KEYS:
            raise _refusal(name, f"there is no key {str(key)[:64]!r}; known are {', '.join(_KEYS)}")
    description = entry.get("description", "")
    if not isinstance(description, str) or len(description) > MAX_DESCRIPTION_CHARS:
        raise _refusal(name, f"`description` is a text of at most {MAX_DESCRIPTION_CHARS} characters")
    timeout_ms = entry.get("timeout_ms")
    if timeout_ms is not None:
        if isinstance(timeout_ms, bool) or not isinstance(timeout_ms, int | float) or not 1 <= timeout_ms < 2**53:
            raise _refusal(name, "`timeout_ms` is a whole number of milliseconds, at least 1")
        timeout_ms = int(timeout_ms)
    if "parameters" not in entry:
        raise _refusal(name, "`parameters` is missing; {'type': 'object'} says that there are none")
    if has_marker(entry):
        raise _refusal(name, f"the text {MARKER} is not allowed")
    try:
        parameters = Parameters(entry["parameters"])
    except SchemaProblem as problem:
        raise _refusal(name, str(problem)) from None
    return ToolSpec(name, description, parameters, timeout_ms)


def _refusal(tool: str | int, problem: str) -> JobError:
    return JobError("invalid_tools", f"tools[{tool!r}]: {problem}"[:1_000], {"tool": tool})
