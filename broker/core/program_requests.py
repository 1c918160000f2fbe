"""programs.list and programs.get (SPEC section 10)."""

from __future__ import annotations

from typing import Any, Final

from dspymq.broker.core.params import Params
from dspymq.broker.core.workers import Fleet, Worker
from dspymq.protocol.errors import ProtocolError

MAX_LISTED_CHARS: Final = 1_000
"""Of a description in a list; `programs.get` gives all of it."""


class ProgramRequests:
    """What can be called."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    def list_programs(self, _: Params) -> Any:
        """Every program that a worker of this broker ever offered."""
        rows = []
        for name in self._fleet.catalog.programs:
            workers = self._offering(name)
            rows.append(
                {
                    "name": name,
                    "revision": self._newest(name),
                    "revisions": sorted({revision for worker in workers for revision in worker.programs[name]}),
                    "workers": len(workers),
                    "description": self._short_description(name),
                }
            )
        return {"programs": rows}

    def get(self, params: Params) -> Any:
        """One program, with the schemas of its inputs and outputs."""
        name = params.text("name")
        if name not in self._fleet.catalog:
            matches = self._fleet.catalog.close_matches(name)
            hint = f"; did you mean {' or '.join(matches)}?" if matches else ""
            details = {"close_matches": matches}
            raise ProtocolError("unknown_program", f"no program {name!r}{hint}", details=details)
        workers = self._offering(name)
        return {
            **self._description(name),
            "name": name,
            "revision": self._newest(name),
            "revisions": sorted({revision for worker in workers for revision in worker.programs[name]}),
            "workers": [worker.name for worker in workers],
        }

    def _short_description(self, name: str) -> str:
        text = self._description(name).get("description")
        return text[:MAX_LISTED_CHARS] if isinstance(text, str) else ""

    def _offering(self, program: str) -> list[Worker]:
        return [worker for worker in self._fleet.workers.values() if program in worker.programs]

    def _newest(self, program: str) -> str | None:
        offered = {revision for worker in self._offering(program) for revision in worker.programs[program]}
        return self._fleet.catalog.newest(program, offered)

    def _description(self, program: str) -> dict[str, Any]:
        """How a worker that offers the newest revision describes it; {} while nobody does."""
        newest = self._newest(program)
        for worker in self._offering(program):
            if newest in worker.programs[program]:
                found = worker.description.get("programs", {})
                if isinstance(found, dict) and isinstance(found.get(program), dict):
                    return dict(found[program])
        return {}
