"""Programs that clients have defined (SPEC section 11.10): asked of the broker once each, for all executors. Pure."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, Final, NamedTuple

import msgspec

from dspymq.protocol import body as bodies
from dspymq.protocol.errors import ProtocolError
from dspymq.protocol.messages import Error, Reply, Request
from dspymq.worker.supervisor.effects import Effect, ToBroker, ToExecutor

METHOD: Final = "programs.get"
KEPT_BYTES: Final = 64 * 1024 * 1024
"""Of specs that were asked for; the ones that were asked for longest ago are forgotten first."""


class Key(NamedTuple):
    """A program at one of its revisions."""

    name: str
    revision: str


class Asked(NamedTuple):
    """Who waits for one."""

    executor: str
    rid: str


class Definitions:
    """What executors ask, and what the broker answers."""

    def __init__(self) -> None:
        self._kept: OrderedDict[Key, bytes] = OrderedDict()
        self._kept_bytes = 0
        self._waiting: dict[Key, list[Asked]] = {}
        self._rids: dict[str, Key] = {}
        self._count = 0

    def asked(self, executor: str, request: Request, body: bytes) -> list[Effect]:
        """An executor asks for a program: from memory, or else from the broker."""
        try:
            params = bodies.part(body, "params")
            key = Key(str(params["name"]), str(params["revision"]))
        except (ProtocolError, KeyError):
            problem = Error(code="INTERNAL", reason="internal", message="programs.get: no name or revision")
            return [ToExecutor(executor, msgspec.structs.replace(problem, rid=request.rid))]
        kept = self._kept.get(key)
        if kept is not None:
            self._kept.move_to_end(key)
            return [ToExecutor(executor, Reply(rid=request.rid), kept)]
        waiting = self._waiting.setdefault(key, [])
        waiting.append(Asked(executor, request.rid))
        return [self._ask(key)] if len(waiting) == 1 else []

    def session_up(self) -> list[Effect]:
        """What was asked of the last broker, or before there was one, is asked of this one."""
        self._rids.clear()
        return [self._ask(key) for key in self._waiting]

    def answered(self, reply: Reply, body: bytes) -> list[Effect]:
        """The broker has answered; nothing for a reply to something else."""
        key = self._rids.pop(reply.rid, None)
        if key is None:
            return []
        if not _has_spec(body):
            text = f"nobody has defined {key.name} at the revision {key.revision}"
            return self._tell(key, Error(code="NOT_FOUND", reason="unknown_revision", message=text))
        self._keep(key, body)
        return [ToExecutor(executor, Reply(rid=rid), body) for executor, rid in self._waiting.pop(key, [])]

    def refused(self, error: Error) -> list[Effect]:
        """The broker knows no such program; nothing for an error of something else."""
        key = self._rids.pop(error.rid or "", None)
        return [] if key is None else self._tell(key, error)

    def gone(self, executor: str) -> None:
        """Nobody there waits any more."""
        for key, waiting in list(self._waiting.items()):
            self._waiting[key] = [one for one in waiting if one.executor != executor]
            if not self._waiting[key]:
                del self._waiting[key]

    def _ask(self, key: Key) -> Effect:
        self._count += 1
        rid = f"definition-{self._count}"
        self._rids[rid] = key
        params = {"name": key.name, "revision": key.revision, "spec": True}
        return ToBroker(Request(rid=rid, method=METHOD), bodies.encode(params=params))

    def _tell(self, key: Key, error: Error) -> list[Effect]:
        waiting = self._waiting.pop(key, [])
        return [ToExecutor(executor, msgspec.structs.replace(error, rid=rid)) for executor, rid in waiting]

    def _keep(self, key: Key, body: bytes) -> None:
        if key in self._kept:
            return
        self._kept[key] = body
        self._kept_bytes += len(body)
        while self._kept_bytes > KEPT_BYTES:
            _, dropped = self._kept.popitem(last=False)
            self._kept_bytes -= len(dropped)


def _has_spec(body: bytes) -> bool:
    try:
        result: dict[str, Any] = bodies.part(body, "result")
    except ProtocolError:
        return False
    return isinstance(result.get("spec"), dict)
