"""Programs that clients have defined: checked for the broker, asked of the supervisor at their first job, and kept."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from dspymq.protocol import body as bodies
from dspymq.worker.executor.failures import job_error
from dspymq.worker.executor.recent import Recent
from dspymq.worker.executor.registry import REGISTRY, Registry
from dspymq.worker.executor.requests import Refused, Requests
from dspymq.worker.executor.spec_nodes import AGENTS, read_spec
from dspymq.worker.executor.specs import program_of
from dspymq.worker.executor.tool_specs import ToolsetCache

DEFINE: Final = "_define"
"""The program name of jobs that only ask whether a spec can be run, and how it is described."""

ANY_TOOL: Final = {"name": "any_tool", "description": "Whatever a client offers.", "parameters": {"type": "object"}}

KEPT: Final = 256
"""Specs of definitions; the ones that were used longest ago are forgotten first."""


def describe(spec: Any, registry: Registry = REGISTRY) -> dict[str, Any]:
    """The description of the program of a spec. Raises JobError `invalid_spec`, with the place, or `invalid_tools`.

    Which tools a client will offer is not known yet: those that the spec names and the pool does not lend are taken
    to be there.
    """
    read = read_spec(spec)
    agents = [part for part in read.parts() if part.kind in AGENTS]
    named = {name for part in agents for name in part.tools or () if name not in registry.tools}
    offered = [{**ANY_TOOL, "name": name} for name in sorted(named)]
    if any(part.tools is None for part in agents):
        offered.append(ANY_TOOL)
    return program_of(read, ToolsetCache().toolset(offered), registry).description()


class Definitions:
    """The specs of defined programs, by name and revision. For the event loop's thread."""

    def __init__(self, requests: Requests) -> None:
        self._requests = requests
        self._kept: Recent[tuple[str, str], dict[str, Any]] = Recent(KEPT)
        self._asked: dict[tuple[str, str], asyncio.Future[dict[str, Any]]] = {}

    async def spec(self, name: str, revision: str) -> dict[str, Any]:
        """The spec of a program at a revision. Raises JobError `unknown_revision`, `unknown_program`."""
        key = (name, revision)
        kept = self._kept.get(key)
        if kept is not None:
            return kept
        asked = self._asked.get(key)
        if asked is None:
            body = bodies.encode(params={"name": name, "revision": revision})
            _, asked = self._requests.ask("programs.get", body, _spec)
            self._asked[key] = asked
            asked.add_done_callback(lambda _: self._asked.pop(key, None))
        try:
            # Others may wait for the same: who is cancelled leaves it to them.
            return self._kept.put(key, await asyncio.shield(asked))
        except Refused as refused:
            raise job_error(refused, otherwise="unknown_revision") from None


def _spec(_: str, body: bytes) -> dict[str, Any]:
    spec: dict[str, Any] = bodies.part(body, "result")["spec"]
    return spec
