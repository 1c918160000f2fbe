"""What workers send, and what becomes of it (SPEC sections 3, 4, 6). The lease is checked, never the connection."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from dspymq.broker.core import journal
from dspymq.broker.core.adoption import Adoption
from dspymq.broker.core.context import Context
from dspymq.broker.core.job import Lease
from dspymq.broker.core.jobs import JobMachine
from dspymq.broker.core.requests import Requests
from dspymq.broker.core.sessions import WorkerSession
from dspymq.broker.core.table import Action, JobEvent, State
from dspymq.broker.core.workers import MAX_DESCRIPTION_BYTES, Fleet, Worker
from dspymq.protocol import body as bodies
from dspymq.protocol import client_messages as c
from dspymq.protocol import worker_messages as w
from dspymq.protocol.errors import ProtocolError
from dspymq.protocol.limits import MAX_ACKS
from dspymq.protocol.messages import Bye, Error, Header, Hello, Ping, Pong, Request, Welcome, error_answer

FEATURES = ["held", "isolate", "attach"]
"""What this broker does for workers."""


class WorkerSide:
    """The handlers of the workers' endpoint."""

    def __init__(
        self, context: Context, fleet: Fleet, machine: JobMachine, adoption: Adoption, requests: Requests
    ) -> None:
        self._context = context
        self._fleet = fleet
        self._machine = machine
        self._adoption = adoption
        self._requests = requests
        self._to_ack: dict[bytes, WorkerSession] = {}
        self._handlers: dict[type[Header], Callable[[WorkerSession, Any, bytes], None]] = {
            Hello: self._hello_again,
            Ping: self._ping,
            Pong: self._nothing,
            Bye: self._bye,
            w.Ready: self._ready,
            w.Started: self._started,
            w.Chunk: self._chunk,
            w.Progress: self._progress,
            w.ToolCall: self._tool_call,
            w.Result: self._result,
            w.Released: self._released,
            Request: self._request,
        }

    def receive(self, peer: bytes, message: w.Message, body: bytes) -> None:
        """A message came; whatever is wrong with it is answered by one `error`, and an `error` never is."""
        if isinstance(message, Error):
            return
        try:
            self._receive(peer, message, body)
        except ProtocolError as problem:
            fields = msgspec.structs.asdict(message)
            problem.lease = problem.lease or fields.get("lease")
            problem.rid = problem.rid or fields.get("rid")
            problem.job = problem.job or fields.get("job")
            self.refuse(peer, problem)

    def refuse(self, peer: bytes, problem: ProtocolError) -> None:
        """Answer a message that is not taken, unless it was an `error`."""
        self._context.counts[f"refused.{problem.reason}"] += 1
        session = self._context.workers.get(peer)
        if session is not None:
            session.heard_ms = self._context.now_ms
        if not problem.was_error:
            self._context.answer_worker(peer, error_answer(problem))

    def flush(self) -> None:
        """Acknowledge what was settled in this round, batched."""
        for session in self._to_ack.values():
            for start in range(0, len(session.acks), MAX_ACKS):
                self._context.to_worker(session, w.Ack(leases=session.acks[start : start + MAX_ACKS]))
            session.acks = []
        self._to_ack.clear()

    def unreachable(self, session: WorkerSession) -> None:
        """The route is gone: the session is over, but its worker has until `dead_ms` of silence to come back."""
        worker = session.worker
        self._end_session(session)
        if worker is not None and worker.session is None:
            self._context.emit("worker.away", worker=worker.name)
            journal.worker_gone(self._context, worker, "away", len(worker.leases))
            worker.lost_at_ms = session.heard_ms + self._context.settings.worker_dead_ms

    def lost(self, *sessions: WorkerSession, how: str = "lost") -> None:
        """Silence, or a bye: the workers and all their leases are lost, and nobody is to blame.

        All at once, so that the jobs of one do not go to another that is as lost, and use up their attempts there.
        `how` is for the log.
        """
        for session in sessions:
            self._end_session(session)
        for session in sessions:
            worker = session.worker
            if worker is not None and worker.session is None:
                self._lose(worker, how)
        if sessions:
            self._machine.fill_all()

    def forgive_absence(self) -> None:
        """Workers that could not come back while the broker stood still have `dead_ms` from now on."""
        for worker in self._fleet.workers.values():
            if worker.session is None:
                worker.lost_at_ms = self._context.now_ms + self._context.settings.worker_dead_ms

    def lose_absent(self) -> None:
        """Lose the workers that have not come back in time."""
        absent = [
            worker
            for worker in self._fleet.workers.values()
            if worker.session is None and worker.lost_at_ms <= self._context.now_ms
        ]
        for worker in absent:
            self._lose(worker)
        if absent:
            self._machine.fill_all()

    def say_bye(self, session: WorkerSession, reason: str) -> None:
        """End the session from here; used when the broker stops."""
        self._context.answer_worker(session.peer, Bye(reason=reason))

    # -- routing ----------------------------------------------------------------------------------------------------

    def _receive(self, peer: bytes, message: w.Message, body: bytes) -> None:
        handler = self._handlers.get(type(message))
        if handler is None:
            tag = message.__struct_config__.tag
            raise ProtocolError("wrong_direction", f"`{tag}` is sent by brokers only")
        session = self._context.workers.get(peer)
        if session is None:
            if isinstance(message, Hello):
                self._hello(peer, message)
            elif not isinstance(message, Pong | Bye):
                raise ProtocolError("no_session", "say hello first")
            return
        session.heard_ms = self._context.now_ms
        handler(session, message, body)

    # -- sessions ---------------------------------------------------------------------------------------------------

    def _hello(self, peer: bytes, message: Hello) -> None:
        session = WorkerSession(peer, self._context.new_session(), message.name, message.features, self._context.now_ms)
        self._context.workers[peer] = session
        self._welcome(session)

    def _hello_again(self, session: WorkerSession, _: Hello, __: bytes) -> None:
        self._welcome(session)

    def _welcome(self, session: WorkerSession) -> None:
        settings = self._context.settings
        welcome = Welcome(
            epoch=self._context.epoch,
            session=session.session,
            features=FEATURES,
            ping_ms=settings.worker_ping_ms,
            dead_ms=settings.worker_dead_ms,
            adopt_ms=settings.adopt_ms,
            orphan_ms=settings.orphan_ms,
            retain_ms=settings.retain_ms,
            limits=settings.limits,
        )
        self._context.to_worker(session, welcome)

    def _ping(self, session: WorkerSession, message: Ping, _: bytes) -> None:
        self._context.to_worker(session, Pong(n=message.n))

    def _nothing(self, session: WorkerSession, message: Header, body: bytes) -> None:
        """Being heard was all."""

    def _bye(self, session: WorkerSession, _: Bye, __: bytes) -> None:
        self.lost(session, how="left")

    def _end_session(self, session: WorkerSession) -> None:
        self._context.workers.pop(session.peer, None)
        self._to_ack.pop(session.peer, None)
        self._context.drop_worker(session.peer)
        worker = session.worker
        if worker is not None and worker.session is session:
            worker.session = None
            worker.synced = False

    def _lose(self, worker: Worker, how: str = "lost") -> None:
        """The worker is gone; its leases go back into the queue, or end their jobs."""
        leases = list(worker.leases.values())
        self._fleet.remove(worker)
        self._context.counts["workers_lost"] += 1
        self._context.emit("worker.lost", worker=worker.name, leases=len(leases))
        journal.worker_gone(self._context, worker, how, len(leases))
        for lease in leases:
            if lease.current:
                journal.attempt_lost(self._context, lease, "worker_lost")
                self._machine.worker_lost(lease)
            else:
                self._machine.settle_fenced(lease)

    # -- ready and held ---------------------------------------------------------------------------------------------

    def _ready(self, session: WorkerSession, message: w.Ready, body: bytes) -> None:
        if len(body) > MAX_DESCRIPTION_BYTES:
            raise ProtocolError("body_too_large", f"descriptions have {len(body)} of {MAX_DESCRIPTION_BYTES} bytes")
        description = _description(body)
        first = session.worker is None
        if session.worker is not None and session.worker.name != message.worker:
            raise ProtocolError("bad_header", "a session reports one `worker` only")
        worker = self._worker_of(session, message.worker)
        if body:
            self._tell_lms(worker, description)
            worker.description = description
        syncs = first or message.held is not None
        if syncs:
            worker.synced = False
        concerns_others = self._fleet.offer(worker, message)
        if first:
            self._context.emit("worker.ready", worker=worker.name, slots=worker.slots)
            journal.worker_ready(self._context, worker, message)
        if syncs:
            self._sync(worker, session, message)
        self._machine.fill(worker)
        if concerns_others:
            self._machine.fill_all()

    def _tell_lms(self, worker: Worker, description: dict[str, Any]) -> None:
        """Whose language models are throttled or not called from now on, and whose are called again."""
        before, after = _lm_states(worker.description), _lm_states(description)
        for profile in {**before, **after}:
            state = after.get(profile, "free")
            if state != before.get(profile, "free"):
                self._context.emit("worker.lm", worker=worker.name, profile=profile, state=state)

    def _worker_of(self, session: WorkerSession, name: str) -> Worker:
        worker = self._fleet.workers.get(name)
        if worker is None:
            worker = self._fleet.workers[name] = Worker(name)
        if worker.session is not session:
            if worker.session is not None:
                self._end_session(worker.session)
            worker.session = session
            worker.features = session.features
            worker.reported = set()
            session.worker = worker
        return worker

    def _sync(self, worker: Worker, session: WorkerSession, message: w.Ready) -> None:
        """Answer a page of held leases: those that are current, or adopted now, go on; the others are dropped."""
        keep = []
        adopted = []
        for held in message.held or []:
            lease = worker.leases.get(held.lease)
            if lease is None and held.lease not in worker.reported:
                lease = self._adoption.adopt(worker, held)
                if lease is not None:
                    adopted.append(lease)
            if lease is not None and lease.current:
                keep.append(held.lease)
        worker.reported.update(keep)
        self._context.to_worker(session, w.Synced(keep=keep))
        for lease in adopted:
            self._machine.show(lease)
        if message.more:
            return
        worker.synced = True
        reported, worker.reported = worker.reported, set()
        for lease in list(worker.leases.values()):
            if lease.lease not in reported:
                if lease.current:
                    journal.attempt_lost(self._context, lease, "never_received")
                    self._machine.never_received(lease)
                else:
                    self._machine.settle_fenced(lease)
            elif lease.job.state is State.CANCELLING:
                self._machine.cancel(lease.job)

    # -- attempts ---------------------------------------------------------------------------------------------------

    def _lease_of(self, session: WorkerSession, lease_id: str) -> Lease | None:
        if session.worker is None:
            raise ProtocolError("not_ready", "send `ready` first")
        return session.worker.leases.get(lease_id)

    def _current(self, session: WorkerSession, lease_id: str) -> Lease | None:
        """The lease if its job still waits for it; otherwise the message is counted and dropped."""
        lease = self._lease_of(session, lease_id)
        if lease is not None and lease.current:
            return lease
        self._context.counts["stale_messages"] += 1
        return None

    def _started(self, session: WorkerSession, message: w.Started, _: bytes) -> None:
        lease = self._current(session, message.lease)
        if lease is None:
            return
        self._machine.started(lease)
        job = lease.job
        if job.client is not None and "started" in job.submit.want and job.state is State.RUNNING:
            started = c.Started(job=job.job_id, attempt=lease.attempt, revision=message.revision, worker=message.worker)
            self._context.to_client(job.client, started)

    def _relays(self, session: WorkerSession, lease_id: str, want: str) -> Lease | None:
        """The lease whose output goes on to a client that wants it."""
        lease = self._current(session, lease_id)
        if lease is None:
            return None
        action = self._machine.action(lease.job, JobEvent.OUTPUT)
        if action is Action.IGNORE:
            return None
        if action is Action.RUN_AND_RELAY:
            self._machine.started(lease)
        wanted = lease.job.client is not None and want in lease.job.submit.want
        return lease if wanted else None

    def _chunk(self, session: WorkerSession, message: w.Chunk, body: bytes) -> None:
        lease = self._relays(session, message.lease, "chunks")
        if lease is not None and lease.job.client is not None:
            chunk = c.Chunk(job=lease.job.job_id, attempt=lease.attempt, seq=message.seq, reset=message.reset)
            self._context.to_client(lease.job.client, chunk, body)

    def _progress(self, session: WorkerSession, message: w.Progress, body: bytes) -> None:
        lease = self._relays(session, message.lease, "progress")
        if lease is not None and lease.job.client is not None:
            progress = c.Progress(
                job=lease.job.job_id,
                attempt=lease.attempt,
                done=message.done,
                total=message.total,
                note=message.note,
            )
            self._context.to_client(lease.job.client, progress, body)

    def _tool_call(self, session: WorkerSession, message: w.ToolCall, body: bytes) -> None:
        lease = self._relays(session, message.lease, "tools")
        if lease is not None and lease.job.client is not None:
            call = c.ToolCall(
                job=lease.job.job_id,
                attempt=lease.attempt,
                call=message.call,
                name=message.name,
                timeout_ms=message.timeout_ms,
            )
            self._context.to_client(lease.job.client, call, body)

    def _result(self, session: WorkerSession, message: w.Result, body: bytes) -> None:
        lease = self._lease_of(session, message.lease)
        session.acks.append(message.lease)
        self._to_ack[session.peer] = session
        if lease is None:
            self._context.counts["late_results"] += 1
        elif lease.current:
            self._machine.result(lease, message, body)
        else:
            self._context.counts["late_results"] += 1
            lease.job.late_usage = message.usage
            self._machine.settle_fenced(lease)

    def _released(self, session: WorkerSession, message: w.Released, _: bytes) -> None:
        lease = self._lease_of(session, message.lease)
        if lease is None:
            self._context.counts["stale_messages"] += 1
        elif lease.current:
            journal.given_back(self._context, lease, message)
            self._machine.released(lease, started=message.started, blame=message.blame)
        else:
            self._machine.settle_fenced(lease)

    def _request(self, session: WorkerSession, message: Request, body: bytes) -> None:
        answer = self._requests.answer(message, body, session)
        if answer is not None:
            self._context.to_worker(session, *answer)


def _lm_states(description: dict[str, Any]) -> dict[str, str]:
    """By profile: the states of language models that a worker tells of (SPEC section 11.6)."""
    rows = (row.get("lm") for row in description.get("executors", ()))
    return {str(lm.get("profile")): str(lm.get("state")) for lm in rows if isinstance(lm, dict)}


def _description(body: bytes) -> dict[str, Any]:
    """What a worker says of its programs and processes. Raises ProtocolError `invalid_body`.

    It goes on to clients, together with what others say: so it must be such that it can be written again.
    """
    description = bodies.decode(body)
    bodies.encode(description=description)
    executors = description.get("executors")
    if executors is not None and not (isinstance(executors, list) and all(isinstance(one, dict) for one in executors)):
        raise ProtocolError("invalid_body", "`executors` must be an array of maps")
    return description
