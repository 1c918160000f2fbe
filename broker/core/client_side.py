"""What clients send, and what becomes of it (SPEC sections 3 to 5)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from dspymq.broker.core.adoption import Adoption
from dspymq.broker.core.bounds import Bounds
from dspymq.broker.core.context import Context
from dspymq.broker.core.event_hub import EventHub
from dspymq.broker.core.events import ClientPeer, OneShot
from dspymq.broker.core.job import Job, size_of
from dspymq.broker.core.jobs import JobMachine
from dspymq.broker.core.requests import Requests
from dspymq.broker.core.scheduler import Need, Scheduler, need_of
from dspymq.broker.core.sessions import ClientSession
from dspymq.broker.core.store import JobStore, digest_of
from dspymq.broker.core.table import TABLE, Action, JobEvent, State
from dspymq.broker.core.workers import INLINE, Fleet
from dspymq.protocol import client_messages as c
from dspymq.protocol import worker_messages as w
from dspymq.protocol.errors import ProtocolError
from dspymq.protocol.messages import Bye, Error, Header, Hello, Ping, Pong, Request, Welcome, error_answer

FEATURES = ["ack", "chunks", "cancel", "attach"]
"""What this broker does for clients, beyond the least that a broker does."""

ONE_SHOT_FLOW = "one-shot"


class ClientSide:
    """The handlers of the clients' endpoint."""

    def __init__(
        self,
        context: Context,
        store: JobStore,
        scheduler: Scheduler,
        fleet: Fleet,
        machine: JobMachine,
        adoption: Adoption,
        requests: Requests,
        hub: EventHub,
        bounds: Bounds,
    ) -> None:
        self._context = context
        self._limits = context.settings.limits
        self._store = store
        self._scheduler = scheduler
        self._fleet = fleet
        self._machine = machine
        self._adoption = adoption
        self._requests = requests
        self._hub = hub
        self._bounds = bounds
        self._handlers: dict[type[Header], Callable[[ClientSession, Any, bytes], None]] = {
            Hello: self._hello_again,
            Ping: self._ping,
            Pong: self._nothing,
            Bye: self._bye,
            c.Submit: self._submit,
            c.Attach: self._attach,
            c.Credit: self._credit,
            c.Cancel: self._cancel,
            c.Ack: self._ack,
            c.ToolResult: self._tool_result,
            Request: self._request,
        }

    def receive(self, peer: ClientPeer, message: c.Message, body: bytes) -> None:
        """A message came; whatever is wrong with it is answered by one `error`, and an `error` never is."""
        if isinstance(message, Error):
            return
        try:
            self._receive(peer, message, body)
        except ProtocolError as problem:
            self.refuse(peer, _with_ids(problem, message))

    def refuse(self, peer: ClientPeer, problem: ProtocolError) -> None:
        """Answer a message that is not taken, unless it was an `error`."""
        self._context.counts[f"refused.{problem.reason}"] += 1
        self._heard(peer)
        if problem.was_error:
            return
        self._context.answer_client(peer, error_answer(problem))

    def lost(self, session: ClientSession, *, at_once: bool = False) -> None:
        """The session is over: what it is attached to is without an owner."""
        self._context.clients.pop(session.peer, None)
        self._context.drop_client(session.peer)
        for job in list(session.jobs):
            self._machine.owner_gone(job, at_once=at_once)
        self._machine.cancel_orphans()
        session.jobs.clear()
        self._hub.session_over(session)
        self._context.emit("client.left", name=session.name, session=session.session)

    def say_bye(self, session: ClientSession, reason: str) -> None:
        """End the session from here; its jobs stay attachable."""
        self.lost(session)
        self._context.answer_client(session.peer, Bye(reason=reason))

    # -- routing ----------------------------------------------------------------------------------------------------

    def _receive(self, peer: ClientPeer, message: c.Message, body: bytes) -> None:
        handler = self._handlers.get(type(message))
        if handler is None:
            raise ProtocolError("wrong_direction", f"`{_tag(message)}` is sent by brokers only")
        session = self._heard(peer)
        if session is None:
            session = self._without_session(peer, message)
            if session is None:
                return
        handler(session, message, body)

    def _heard(self, peer: ClientPeer) -> ClientSession | None:
        session = self._context.clients.get(peer)
        if session is not None:
            session.heard_ms = self._context.now_ms
        return session

    def _without_session(self, peer: ClientPeer, message: c.Message) -> ClientSession | None:
        if isinstance(peer, OneShot):
            return self._one_shot(peer, message)
        if isinstance(message, Hello):
            self._hello(peer, message)
            return None
        if isinstance(message, Pong | Bye):
            return None
        raise ProtocolError("no_session", "say hello first")

    def _one_shot(self, peer: OneShot, message: c.Message) -> ClientSession | None:
        session = ClientSession(peer, self._context.new_session(), ONE_SHOT_FLOW, [], self._context.now_ms)
        if isinstance(message, Ping | Request) or (isinstance(message, c.Submit) and not message.want):
            return session
        raise ProtocolError("one_shot_only", "a REQ peer may only send submit without `want`, request and ping")

    # -- sessions ---------------------------------------------------------------------------------------------------

    def _hello(self, peer: bytes, message: Hello) -> None:
        session = ClientSession(peer, self._context.new_session(), message.name, message.features, self._context.now_ms)
        self._context.clients[peer] = session
        self._welcome(session)
        self._context.emit("client.joined", name=session.name, session=session.session, lang=message.lang)

    def _hello_again(self, session: ClientSession, _: Hello, __: bytes) -> None:
        self._welcome(session)

    def _welcome(self, session: ClientSession) -> None:
        settings = self._context.settings
        welcome = Welcome(
            epoch=self._context.epoch,
            session=session.session,
            features=FEATURES,
            ping_ms=settings.client_ping_ms,
            dead_ms=settings.client_dead_ms,
            adopt_ms=settings.adopt_ms,
            orphan_ms=settings.orphan_ms,
            retain_ms=settings.retain_ms,
            limits=settings.limits,
        )
        self._context.to_client(session, welcome)

    def _ping(self, session: ClientSession, message: Ping, _: bytes) -> None:
        self._context.to_client(session, Pong(n=message.n))

    def _nothing(self, session: ClientSession, message: Header, body: bytes) -> None:
        """Being heard was all."""

    def _bye(self, session: ClientSession, _: Bye, __: bytes) -> None:
        self.lost(session, at_once=True)

    # -- jobs -------------------------------------------------------------------------------------------------------

    def _submit(self, session: ClientSession, submit: c.Submit, body: bytes) -> None:
        key = (session.principal, submit.job)
        job = self._store.jobs.get(key)
        if job is None and key not in self._store.tombstones:
            # Before the digest, which costs most of all with a large body.
            self._check_bounds(session, submit, body)
        digest = digest_of(submit, body)
        if job is None:
            tombstone = self._store.tombstones.get(key)
            if tombstone is not None:
                raise self._refusal(TABLE[_same(tombstone == digest)][State.GONE])
            self._submit_new(session, submit, body, digest)
            return
        action = self._machine.action(job, _same(job.digest == digest))
        if action is Action.CONFLICT:
            raise self._refusal(action)
        self._take_over(job, session)
        if not job.inputs_known:
            self._adoption.claim(job, session, submit, body)
        if action is Action.ATTACH:
            self._machine.attach(job, session, submit)
            self._accept(session, job, want=submit.want, duplicate=True)
        else:
            self._accept(session, job, want=submit.want, duplicate=True)
            self._replay(job, session)

    def _submit_new(self, session: ClientSession, submit: c.Submit, body: bytes, digest: bytes) -> None:
        need = need_of(submit)
        missing = self._missing(need)
        # Sent to another broker before: a worker may still hold it, so nothing is judged by who is here now.
        elsewhere = submit.known_epoch is not None and submit.known_epoch != self._context.epoch
        if missing and not elsewhere:
            self._check_known(submit.program)
        if missing and submit.fail_fast and not elsewhere:
            raise ProtocolError("no_worker", f"no worker can run this now: missing {', '.join(missing)}")
        job = self._machine.create(session, submit, body, digest)
        self._accept(session, job, want=submit.want, duplicate=False, missing=missing)
        if elsewhere:
            self._adoption.park(job)
        else:
            self._machine.queue(job, need)

    def _missing(self, need: Need) -> list[str]:
        queue = self._scheduler.needs.get(need)
        return [] if queue is not None and queue.workers else self._fleet.missing(need)

    def _check_bounds(self, session: ClientSession, submit: c.Submit, body: bytes) -> None:
        limits = self._limits
        if submit.timeout_ms > limits.max_timeout_ms:
            raise ProtocolError("bad_header", f"timeout_ms is over the limit of {limits.max_timeout_ms}")
        if submit.program.startswith("_") and submit.program != INLINE:
            raise ProtocolError("unknown_program", "program names that start with `_` are reserved")
        self._bounds.check(session.flow_name, size_of(submit, body))

    def _check_known(self, program: str) -> None:
        """An unknown program is an error only once a worker is there that could have offered it."""
        if not self._fleet.is_unknown(program):
            return
        matches = self._fleet.close_matches(program)
        hint = f"; did you mean {' or '.join(matches)}?" if matches else ""
        details = {"close_matches": matches}
        raise ProtocolError("unknown_program", f"no worker offers the program {program!r}{hint}", details=details)

    def _take_over(self, job: Job, session: ClientSession) -> None:
        before = job.client
        if before is not None and before is not session and job.state is not State.DONE:
            superseded = ProtocolError("superseded", "another session attached to this job", job=job.job_id)
            self._context.to_client(before, error_answer(superseded))

    def _accept(
        self,
        session: ClientSession,
        job: Job,
        *,
        want: list[Any],
        duplicate: bool,
        missing: list[str] | None = None,
        always: bool = False,
    ) -> None:
        if not always and "accepted" not in want:
            return
        if missing is None:
            missing = self._missing(need_of(job.submit)) if job.state is State.QUEUED else []
        accepted = c.Accepted(
            job=job.job_id,
            state=job.state.wire,
            attempt=job.attempt,
            duplicate=duplicate,
            waiting=bool(missing),
            missing=missing,
        )
        self._context.to_client(session, accepted)

    def _replay(self, job: Job, session: ClientSession) -> None:
        if job.client is not session:
            if job.client is not None:
                job.client.jobs.pop(job, None)
            job.client = session
            session.jobs[job] = None
        self._machine.send_result(job)

    def _refusal(self, action: Action) -> ProtocolError:
        if action is Action.REFUSE_GONE:
            return ProtocolError("result_gone", "this job ended and its result is no longer kept")
        if action is Action.CONFLICT:
            return ProtocolError("id_conflict", "this job id was used for another program or another body")
        return ProtocolError("unknown_job", "no such job")

    def _attach(self, session: ClientSession, message: c.Attach, _: bytes) -> None:
        job = self._known(session, message.job)
        action = self._machine.action(job, JobEvent.SUBMIT_SAME)
        self._take_over(job, session)
        if action is Action.ATTACH:
            self._machine.attach(job, session, message)
            self._accept(session, job, want=message.want, duplicate=True, always=True)
        else:
            self._accept(session, job, want=message.want, duplicate=True, always=True)
            self._replay(job, session)

    def _known(self, session: ClientSession, job_id: str) -> Job:
        key = (session.principal, job_id)
        job = self._store.jobs.get(key)
        if job is not None:
            return job
        if key in self._store.tombstones:
            raise self._refusal(Action.REFUSE_GONE)
        if self._context.now_ms - (self._context.started_ms or 0) < self._context.settings.adopt_ms:
            raise ProtocolError("adopting", "the broker has just started and still waits for its workers")
        raise self._refusal(Action.NOT_FOUND)

    def _cancel(self, session: ClientSession, message: c.Cancel, _: bytes) -> None:
        key = (session.principal, message.job)
        job = self._store.jobs.get(key)
        if job is None:
            raise self._refusal(TABLE[JobEvent.CANCEL][State.GONE])
        if job.client is not session:
            raise ProtocolError("not_attached", "only the client that is attached to a job may cancel it")
        if self._machine.cancel(job) is Action.REPLAY:
            self._machine.send_result(job)

    def _ack(self, session: ClientSession, message: c.Ack, _: bytes) -> None:
        for job_id in message.jobs:
            job = self._store.jobs.get((session.principal, job_id))
            if job is None or job.client not in (session, None):
                continue
            if self._machine.action(job, JobEvent.ACK) is Action.FORGET:
                self._machine.forget(job)

    def _credit(self, session: ClientSession, message: c.Credit, _: bytes) -> None:
        job = self._store.jobs.get((session.principal, message.job))
        lease = job.lease if job is not None and job.client is session else None
        if lease is not None and lease.attempt == message.attempt and lease.worker.session is not None:
            credit = w.Credit(lease=lease.lease, attempt=message.attempt, upto=message.upto)
            self._context.to_worker(lease.worker.session, credit)

    def _tool_result(self, session: ClientSession, message: c.ToolResult, body: bytes) -> None:
        job = self._store.jobs.get((session.principal, message.job))
        lease = job.lease if job is not None and job.client is session else None
        if lease is not None and lease.attempt == message.attempt and lease.worker.session is not None:
            answer = w.ToolResult(
                lease=lease.lease,
                attempt=message.attempt,
                call=message.call,
                code=message.code,
                message=message.message,
            )
            self._context.to_worker(lease.worker.session, answer, body)

    def _request(self, session: ClientSession, message: Request, body: bytes) -> None:
        answer = self._requests.answer(message, body, session)
        if answer is not None:
            self._context.to_client(session, *answer)


def _same(same: bool) -> JobEvent:
    return JobEvent.SUBMIT_SAME if same else JobEvent.SUBMIT_OTHER


def _tag(message: Header) -> str:
    return str(message.__struct_config__.tag)


def _with_ids(problem: ProtocolError, message: Header) -> ProtocolError:
    """Name the job or the request that is refused, so that the answer finds its call."""
    fields = msgspec.structs.asdict(message)
    problem.job = problem.job or fields.get("job")
    problem.rid = problem.rid or fields.get("rid")
    return problem
