"""programs.list and programs.get (SPEC section 10)."""

from __future__ import annotations

from typing import Any, Final

from dspymq.broker.core.definitions import split_alias
from dspymq.broker.core.params import Params
from dspymq.broker.core.workers import Fleet, Worker
from dspymq.protocol import body as bodies
from dspymq.protocol.errors import ProtocolError

MAX_LISTED_CHARS: Final = 1_000
"""Of a description in a list; `programs.get` gives all of it."""


class ProgramRequests:
    """What can be called."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    def list_programs(self, _: Params) -> Any:
        """Every program that a worker of this broker ever offered, or a client defined."""
        return {"programs": [self._row(name) for name in self._fleet.catalog.programs]}

    def get(self, params: Params) -> Any:
        """One program at its newest revision, or at one that is named, with the schemas of its inputs and outputs."""
        program = params.text("name")
        name, alias = split_alias(program)
        revision = params.optional_text("revision")
        if alias is not None:
            revision = self._fleet.definitions.aliased(program)
        if name not in self._fleet.catalog or (alias is not None and revision is None):
            matches = self._fleet.close_matches(program)
            hint = f"; did you mean {' or '.join(matches)}?" if matches else ""
            details = {"close_matches": matches}
            raise ProtocolError("unknown_program", f"no program {program!r}{hint}", details=details)
        revisions = self._fleet.revisions(name)
        if revision is not None and revision not in revisions:
            raise ProtocolError("unknown_revision", f"nobody offers {name} at the revision {revision} now")
        shown = revision or self._fleet.catalog.newest(name, revisions)
        found = {
            **self._description(name, shown),
            "name": name,
            "revision": shown,
            "revisions": sorted(revisions),
            "defined": sorted(self._fleet.definitions.revisions(name)),
            "aliases": self._fleet.definitions.aliases(name),
            "workers": [worker.name for worker in self._offering(name, revision)],
        }
        if params.flag("spec"):
            found["spec"] = self._spec(name, shown)
        return found

    def _row(self, name: str) -> dict[str, Any]:
        revisions = self._fleet.revisions(name)
        newest = self._fleet.catalog.newest(name, revisions)
        text = self._description(name, newest).get("description")
        return {
            "name": name,
            "revision": newest,
            "revisions": sorted(revisions),
            "aliases": self._fleet.definitions.aliases(name),
            "workers": len(self._offering(name, None)),
            "description": text[:MAX_LISTED_CHARS] if isinstance(text, str) else "",
        }

    def _spec(self, name: str, revision: str | None) -> dict[str, Any] | None:
        definition = self._fleet.definitions.get(name, revision or "")
        return None if definition is None else bodies.decode(definition.spec)

    def _offering(self, program: str, revision: str | None) -> list[Worker]:
        found = ((worker, self._fleet.revisions_at(worker, program)) for worker in self._fleet.workers.values())
        return [worker for worker, has in found if (revision in has if revision is not None else has)]

    def _description(self, program: str, revision: str | None) -> dict[str, Any]:
        """How a revision is described, by who defined or who offers it; {} while nobody does."""
        definition = self._fleet.definitions.get(program, revision or "")
        if definition is not None:
            return definition.description
        for worker in self._fleet.workers.values():
            if revision in worker.programs.get(program, ()):
                found = worker.description.get("programs", {})
                if isinstance(found, dict) and isinstance(found.get(program), dict):
                    return dict(found[program])
        return {}
