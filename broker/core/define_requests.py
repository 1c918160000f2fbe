"""programs.define, programs.undefine, programs.alias (SPEC section 11.10)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from dspymq.broker.core.bounds import Bounds
from dspymq.broker.core.context import Context
from dspymq.broker.core.definitions import ALIAS_MARK, Definition, canonical, revision_of
from dspymq.broker.core.job import Job, size_of
from dspymq.broker.core.jobs import JobMachine
from dspymq.broker.core.params import Params
from dspymq.broker.core.scheduler import need_of
from dspymq.broker.core.sessions import ClientSession
from dspymq.broker.core.workers import MAX_DESCRIPTION_BYTES, Fleet
from dspymq.protocol import body as bodies
from dspymq.protocol import client_messages as c
from dspymq.protocol.errors import ProtocolError
from dspymq.protocol.messages import Error, Header, Reply, error_answer

CHECKED_BY: Final = "_define"
"""The program of the jobs by which a worker says whether a spec can be built, and describes it."""

CHECK_TIMEOUT_MS: Final = 60_000
MAX_NAME_CHARS: Final = 64
"""Of a defined program, and of an alias: `name@alias` fits into a `program`."""


class DefineRequests:
    """Which programs there are as data, and what their aliases stand for."""

    def __init__(self, context: Context, fleet: Fleet, machine: JobMachine, bounds: Bounds) -> None:
        self._context = context
        self._fleet = fleet
        self._definitions = fleet.definitions
        self._machine = machine
        self._bounds = bounds

    def define(self, params: Params) -> Any:
        """A new revision of a program, once a worker has said that its spec can be built: then the reply is `None`."""
        if not self._definitions.allowed:
            raise ProtocolError("not_allowed", "this broker's operator lets nobody define programs")
        session = params.session
        assert isinstance(session, ClientSession), "workers may not define"
        name = _name(params, "name")
        spec = params.map("spec")
        packed = canonical(spec)
        revision = revision_of(packed)
        if self._definitions.get(name, revision) is not None:
            return {"name": name, "revision": revision, "created": False}
        self._definitions.check_room(packed)
        self._check(session, params.rid, Definition(name, revision, packed, {}), bodies.encode(inputs={}, spec=spec))
        return None

    def undefine(self, params: Params) -> Any:
        """Forget a definition. Jobs that run go on."""
        name, revision = _name(params, "name"), params.text("revision")
        if self._definitions.get(name, revision) is None:
            raise ProtocolError("unknown_revision", f"{name} has no definition with the revision {revision}")
        held = [alias for alias, target in self._definitions.aliases(name).items() if target == revision]
        if held:
            text = f"{name}{ALIAS_MARK}{held[0]} stands for it: move or remove that alias first"
            raise ProtocolError("aliased", text, details={"aliases": held})
        self._definitions.remove(name, revision)
        self._context.emit("program.undefined", name=name, revision=revision)
        self._changed()
        return {"name": name, "revision": revision}

    def alias(self, params: Params) -> Any:
        """Let `name@alias` stand for a revision from now on, or for none; with `expect` only if it stood for that."""
        name, alias, revision = _name(params, "name"), _name(params, "alias"), params.optional_text("revision")
        now = self._definitions.aliases(name).get(alias)
        if params.has("expect") and params.optional_text("expect") != now:
            text = f"{name}{ALIAS_MARK}{alias} stands for {now or 'nothing'} by now"
            raise ProtocolError("alias_moved", text, details={"revision": now})
        if revision is not None and revision not in self._fleet.revisions(name):
            raise ProtocolError("unknown_revision", f"no revision {revision} of {name} is defined or offered")
        if revision != now:
            self._definitions.set_alias(name, alias, revision)
            self._context.emit("program.aliased", name=name, alias=alias, revision=revision)
            self._changed()
        return {"name": name, "alias": alias, "revision": revision, "before": now}

    def _check(self, session: ClientSession, rid: str, definition: Definition, body: bytes) -> None:
        """Ask a worker, as a job of the broker's own."""
        submit = c.Submit(
            job=self._context.new_job_id(),
            program=CHECKED_BY,
            timeout_ms=min(CHECK_TIMEOUT_MS, self._context.settings.limits.max_timeout_ms),
            on_disconnect="keep",
        )
        need = need_of(submit)
        if self._fleet.missing(need):
            raise ProtocolError("no_worker", "no worker is here that takes programs as data")
        self._bounds.check(session.flow_name, size_of(submit, body))
        job = self._machine.create(session, submit, body, bytes.fromhex(definition.revision))
        self._machine.detach(job)
        self._context.ours[job] = lambda: self._checked(job, session, rid, definition)
        self._machine.queue(job, need)

    def _checked(self, job: Job, session: ClientSession, rid: str, definition: Definition) -> None:
        """The worker has answered: keep the definition, or say what is wrong with it."""
        result, body = job.result, job.result_body
        assert result is not None, "it has ended"
        self._machine.forget(job)
        if result.code != "OK":
            self._answer(session, _refusal(result, rid))
            return
        try:
            self._definitions.check_room(definition.spec)
            if len(body) > MAX_DESCRIPTION_BYTES:
                raise ProtocolError("body_too_large", "its description is too long")
            self._keep(replace(definition, description=bodies.part(body, "outputs")))
        except ProtocolError as problem:
            problem.rid = rid
            self._answer(session, error_answer(problem))
            return
        answer = {"name": definition.name, "revision": definition.revision, "created": True}
        self._answer(session, Reply(rid=rid), bodies.encode(result=answer))

    def _keep(self, definition: Definition) -> None:
        self._definitions.add(definition)
        self._fleet.catalog.note(definition.name, definition.revision)
        self._context.emit("program.defined", name=definition.name, revision=definition.revision)
        self._changed()

    def _answer(self, session: ClientSession, message: Header, body: bytes = b"") -> None:
        if session.one_shot or self._context.clients.get(session.peer) is session:
            self._context.answer_client(session.peer, message, body)

    def _changed(self) -> None:
        self._fleet.programs_changed()
        self._machine.fill_all()


def _refusal(result: c.Result, rid: str) -> Error:
    """What the worker said, as the answer to the request."""
    return Error(
        code=result.code,
        reason=result.reason or "internal",
        message=result.message or "",
        retryable=result.retryable or False,
        rid=rid,
        details=result.details,
    )


def _name(params: Params, key: str) -> str:
    """A program's name, or an alias. Raises ProtocolError `invalid_params`."""
    name = params.text(key)
    if len(name) > MAX_NAME_CHARS or name.startswith("_") or ALIAS_MARK in name or not name.isprintable():
        text = f"params.{key} must have at most {MAX_NAME_CHARS} printable characters, none of them"
        raise ProtocolError("invalid_params", f"{text} {ALIAS_MARK!r}, and must not begin with `_`")
    return name
