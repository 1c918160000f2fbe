"""The leases of a pool: given to executors, relayed, ended, held until the broker has their end."""

from __future__ import annotations

from collections import deque
from typing import Final

from dspymq.protocol import worker_messages as w
from dspymq.protocol.errors import REASONS, Code
from dspymq.protocol.messages import Blame, Cause, Details, ReleaseCause
from dspymq.worker.supervisor.context import Context
from dspymq.worker.supervisor.executors import Crew, Executor, ExecutorState
from dspymq.worker.supervisor.leases import LIVE, ON_EXECUTOR, Lease, LeaseState, blame_of, too_large
from dspymq.worker.supervisor.link_state import LinkState

MIN_GRACE_MS: Final = 1_000
"""A first cancel gives at least this much time, whatever the broker says: a process is at stake."""

STREAMED: Final = frozenset({"chunks", "tools"})
"""What a client wants of which a part may have been lost with a session."""


class Work:
    """All leases that the pool holds."""

    def __init__(self, context: Context, crew: Crew, link: LinkState, leases: dict[str, Lease]) -> None:
        self._context = context
        self._crew = crew
        self._link = link
        self.leases = leases
        self._alone: deque[Lease] = deque()
        """Leases that wait for an executor of their own."""
        self._fence_due = False
        self.job_ended = False
        """An executor may have done enough."""
        self._bounced = False
        """A dispatch was given back for want of room: its job comes here again only after another `ready`."""

    # -- from the broker --------------------------------------------------------------------------------------------

    def dispatch(self, message: w.Dispatch, body: bytes) -> None:
        """Take a job, or give it back at once."""
        if message.lease in self.leases:
            return
        context = self._context
        lease = self.leases[message.lease] = Lease(message, body, context.now_ms)
        context.alarm.set(lease.due_ms)
        if context.closing:
            self.release(lease, started=False, cause="drain")
        elif self._crew.generations.is_stale(message.program, message.revision):
            self._give_stale(lease)
        elif message.isolate:
            self._alone.append(lease)
            self.want_isolated()
        else:
            executor = self._crew.choose(lease.lane)
            if executor is None:
                self._bounced = True
                self.release(lease, started=False, cause="capacity")
            else:
                self._give(lease, executor)

    def _give_stale(self, lease: Lease) -> None:
        """It was on its way when its revision was replaced: who still has that runs it, or it comes again elsewhere."""
        executor = None if lease.dispatch.isolate else self._crew.choose_retiring(lease)
        if executor is not None:
            self._give(lease, executor)
        else:
            self._give_back_stale(lease)

    def _give_back_stale(self, lease: Lease) -> None:
        self.release(lease, started=False, cause="capacity")
        # Its job avoids this pool until the next `ready`.
        self._crew.changed = True

    def changed_over(self) -> None:
        """Another generation serves: what waits for a process of its own cannot have the earlier one any more."""
        for lease in list(self._alone):
            if self._crew.generations.is_stale(lease.dispatch.program, lease.dispatch.revision):
                self._alone.remove(lease)
                self._give_back_stale(lease)

    def attach(self, message: w.Attach) -> None:
        """Another client, or the same again, follows this job."""
        lease = self.leases.get(message.lease)
        if lease is None or lease.state not in LIVE:
            return
        lease.want = frozenset(message.want)
        lease.window = message.window
        self._attach_executor(lease)
        if lease.started is not None and "started" in lease.want and self._link.open:
            self._context.to_broker(lease.started)

    def forward(self, message: w.Credit | w.ToolResult, body: bytes) -> None:
        """Pass on what the client of a lease says to its program."""
        lease = self.leases.get(message.lease)
        if lease is not None and lease.executor is not None:
            self._context.to_executor(lease.executor.id, message, body)

    def cancel(self, lease_id: str, cause: Cause, grace_ms: int) -> None:
        """Stop a lease; its executor answers with a result within the grace, or is condemned."""
        lease = self.leases.get(lease_id)
        if lease is None or lease.state not in LIVE:
            return
        if lease.state is LeaseState.WAITING:
            self._alone.remove(lease)
            lease.cancel_cause = cause
            self._end_unstarted(lease, cause)
            return
        context = self._context
        first = lease.cancel_cause is None
        due_ms = context.now_ms + (max(grace_ms, MIN_GRACE_MS) if first else grace_ms)
        lease.due_ms = due_ms if first else min(lease.due_ms, due_ms)
        context.alarm.set(lease.due_ms)
        if first:
            lease.cancelled_ms = context.now_ms
        if cause != lease.cancel_cause and lease.executor is not None:
            lease.cancel_cause = cause
            context.to_executor(lease.executor.id, w.Cancel(lease=lease.id, cause=cause, grace_ms=grace_ms))

    def acknowledged(self, leases: list[str]) -> None:
        """The broker has these results."""
        for lease_id in leases:
            lease = self.leases.get(lease_id)
            if lease is not None and lease.state not in LIVE:
                del self.leases[lease_id]

    def confirmed(self, fence: int) -> None:
        """The broker has heard all that was sent before this ping."""
        heard = [
            lease.id
            for lease in self.leases.values()
            if lease.state is LeaseState.RELEASED and 0 < lease.fence <= fence
        ]
        for lease_id in heard:
            del self.leases[lease_id]

    def refused(self, lease_id: str, reason: str) -> None:
        """The broker did not take a message of this lease; a result must arrive in some form."""
        lease = self.leases.get(lease_id)
        if lease is None or lease.state is not LeaseState.DONE or not isinstance(lease.end, w.Result):
            return
        if lease.end.code == Code.RESOURCE_EXHAUSTED and lease.end.details is None:
            return
        if reason in ("header_too_large", "body_too_large", "bad_header"):
            lease.end = too_large(lease.end, f"the broker refused the result: {reason}")
            lease.end_body = b""
            self._send_end(lease)

    def drop(self, lease: Lease) -> None:
        """The broker no longer knows this lease: stop it, forget it, send nothing."""
        lease.dropped = True
        if lease.state is LeaseState.WAITING:
            self._alone.remove(lease)
        if lease.state in ON_EXECUTOR:
            self._crew.changed = True
            self.cancel(lease.id, "fenced", self._context.settings.cancel_grace_ms)
        else:
            del self.leases[lease.id]

    def forget_fenced(self) -> None:
        """Another session begins: what nobody waits for any more must not be taken over by another broker."""
        for lease in list(self.leases.values()):
            if lease.cancel_cause == "fenced" and not lease.dropped:
                self.drop(lease)

    def resume(self) -> None:
        """The broker and the pool agree again: send the ends that are held, and make streams whole."""
        for lease in list(self.leases.values()):
            if lease.dropped:
                continue
            if lease.never_began and not lease.reported:
                del self.leases[lease.id]
            elif lease.state not in LIVE:
                self._send_end(lease)
            elif lease.state in ON_EXECUTOR:
                if lease.started is not None and "started" in lease.want:
                    self._context.to_broker(lease.started)
                if lease.want & STREAMED:
                    self._attach_executor(lease)
        self._fence_if_due()

    def uncongested(self) -> None:
        """The broker reads again: streams that lost chunks begin anew."""
        for lease in self.leases.values():
            if lease.gap and lease.state in ON_EXECUTOR:
                self._attach_executor(lease)

    # -- from executors ---------------------------------------------------------------------------------------------

    def started(self, executor: Executor, message: w.Started) -> None:
        """The program runs."""
        lease = executor.leases.get(message.lease)
        if lease is None or lease.started is not None:
            return
        lease.started = message
        lease.state = LeaseState.RUNNING
        if "started" in lease.want and self._link.open and not lease.dropped:
            self._context.to_broker(message)

    def chunk(self, executor: Executor, message: w.Chunk, body: bytes) -> None:
        """A piece of a stream."""
        lease = executor.leases.get(message.lease)
        if lease is None:
            return
        lease.seq = message.seq + 1
        if "chunks" not in lease.want or lease.dropped:
            return
        if not self._link.flowing:
            lease.gap = True
            return
        if message.reset:
            lease.gap = False
        if not lease.gap:
            self._context.to_broker(message, body)

    def progress(self, executor: Executor, message: w.Progress, body: bytes) -> None:
        """Lossy: what cannot be sent now is not sent."""
        lease = executor.leases.get(message.lease)
        if lease is not None and "progress" in lease.want and self._link.flowing and not lease.dropped:
            self._context.to_broker(message, body)

    def tool_call(self, executor: Executor, message: w.ToolCall, body: bytes) -> None:
        """A program calls its client; a call that cannot be sent now comes again with the next attach."""
        lease = executor.leases.get(message.lease)
        if lease is not None and self._link.open and not lease.dropped:
            self._context.to_broker(message, body)

    def result(self, executor: Executor, message: w.Result, body: bytes) -> None:
        """The end of an attempt."""
        lease = executor.leases.get(message.lease)
        if lease is None:
            return
        self._leave_executor(lease, executor)
        if lease.dropped:
            del self.leases[lease.id]
            return
        limit = self._context.limits.max_body_bytes
        if len(body) > limit:
            message = too_large(message, f"the outputs have {len(body)} bytes, the limit is {limit}")
            body = b""
        self._end(lease, message, body)

    def given_back(self, executor: Executor, message: w.Released) -> None:
        """The executor does not run it."""
        lease = executor.leases.get(message.lease)
        if lease is None:
            return
        self._leave_executor(lease, executor)
        self.release(lease, started=message.started, cause=message.cause, blame=message.blame, details=message.details)

    def executor_ready(self, executor: Executor) -> None:
        """An isolated executor takes the lease that waited longest, or is not needed any more."""
        if executor.isolated:
            if self._alone:
                self._give(self._alone.popleft(), executor)
            else:
                self._crew.leave(executor)

    def executor_gone(self, executor: Executor, exit_code: int | None) -> None:
        """Its process has ended: every job on it is given back, with who is to blame."""
        leases = list(executor.leases.values())
        running = [lease for lease in leases if lease.state is LeaseState.RUNNING]
        convicted = any(lease.evidence for lease in running)
        details: Details = {"executor": executor.id, "exit_code": exit_code}
        if executor.killed and executor.worn:
            details["killed_for"] = executor.worn
        for lease in leases:
            has_started = lease.state is LeaseState.RUNNING
            cause: ReleaseCause = executor.killed_for or "crash"
            blame: Blame = "none"
            if has_started and cause != "drain":
                blame = blame_of(lease, alone=len(running) == 1, convicted=convicted)
            executor.remove(lease)
            if not lease.dropped:
                self._context.warning(
                    f"lease.lost {lease.shown()} executor={executor.id} pid={executor.pid} cause={cause} blame={blame} "
                    f"started={has_started}"
                )
            self.release(lease, started=has_started, cause=cause, blame=blame, details=details)
        if executor.isolated and executor.state is ExecutorState.STARTING and self._alone:
            # One failed start gives one lease back: the broker may have a better place for it.
            self.release(self._alone.popleft(), started=False, cause="crash", details=details)

    # -- time -------------------------------------------------------------------------------------------------------

    def look(self) -> None:
        """Time passed: deadlines, and cancels that were ignored."""
        now_ms = self._context.now_ms
        for lease in list(self.leases.values()):
            if lease.state not in LIVE or lease.overdue:
                continue
            if lease.due_ms > now_ms:
                self._context.alarm.set(lease.due_ms)
            elif lease.cancel_cause is None:
                self.cancel(lease.id, "deadline", self._context.settings.cancel_grace_ms)
            elif lease.executor is not None:
                self._ignored_cancel(lease, lease.executor)

    def want_isolated(self) -> None:
        """Have as many isolated executors started as there are leases for them."""
        if self._alone:
            self._crew.start_isolated(len(self._alone))

    def give_back_unstarted(self) -> None:
        """A drain begins: what has not been started need not be."""
        while self._alone:
            self.release(self._alone.popleft(), started=False, cause="drain")

    def busy_executors(self, dispatched_before_ms: int) -> list[Executor]:
        """Executors that still have a lease whose dispatch is older than that."""
        return [
            executor
            for executor in self._crew.executors.values()
            if any(lease.taken_ms < dispatched_before_ms for lease in executor.leases.values())
        ]

    def release(
        self,
        lease: Lease,
        *,
        started: bool,
        cause: ReleaseCause,
        blame: Blame = "none",
        details: Details | None = None,
    ) -> None:
        """Give a lease back to the broker."""
        if lease.dropped:
            del self.leases[lease.id]
            return
        lease.state = LeaseState.RELEASED
        lease.body = b""
        lease.end = w.Released(lease=lease.id, started=started, cause=cause, blame=blame, details=details)
        self._send_end(lease)

    def finish_round(self) -> None:
        """At the end of an event: ask for the proof that what was given back has been heard."""
        self._fence_if_due()

    # -- inside -----------------------------------------------------------------------------------------------------

    def _give(self, lease: Lease, executor: Executor) -> None:
        lease.state = LeaseState.SENT
        message = lease.for_executor(self._context.now_ms) if executor.isolated else lease.dispatch
        executor.add(lease)
        if message.attempt > 1:
            self._context.info(
                f"lease.taken {lease.shown()} executor={executor.id} pid={executor.pid} isolated={executor.isolated}"
            )
        self._context.to_executor(executor.id, message, lease.body)
        lease.body = b""

    def _attach_executor(self, lease: Lease) -> None:
        """Ask the program's stream to begin anew; what still comes of the old one is not sent."""
        if lease.executor is None:
            return
        lease.gap = "chunks" in lease.want
        attach = w.Attach(lease=lease.id, want=sorted(lease.want), window=lease.window)
        self._context.to_executor(lease.executor.id, attach)

    def _leave_executor(self, lease: Lease, executor: Executor) -> None:
        executor.remove(lease)
        executor.jobs += 1
        self.job_ended = True
        if self._bounced or lease.dropped or not (executor.takes_jobs or executor.isolated):
            self._bounced = False
            self._crew.changed = True
        if executor.state is ExecutorState.CONDEMNED:
            self._end_condemned(executor)
        elif executor.isolated and not executor.leases:
            self._crew.leave(executor)

    def _ignored_cancel(self, lease: Lease, executor: Executor) -> None:
        lease.overdue = True
        # While its executor's loop does not run at all, the job that stops it cannot be told from its neighbours.
        lease.evidence = executor.beat_ms > lease.cancelled_ms
        self._crew.condemn(executor, lease)
        self._end_condemned(executor)

    def _end_condemned(self, executor: Executor) -> None:
        if not executor.leases:
            self._crew.leave(executor)
        elif all(lease.overdue for lease in executor.leases.values()):
            self._crew.kill(executor, "stall")

    def _end_unstarted(self, lease: Lease, cause: Cause) -> None:
        reason = "deadline" if cause == "deadline" else "cancelled"
        result = w.Result(
            lease=lease.id,
            attempt=lease.dispatch.attempt,
            code=REASONS[reason].code,
            reason=reason,
            message="stopped before it was started",
            retryable=REASONS[reason].retryable,
        )
        self._end(lease, result, b"")

    def _end(self, lease: Lease, message: w.Result, body: bytes) -> None:
        lease.state = LeaseState.DONE
        lease.body = b""
        lease.end = message
        lease.end_body = body
        self._send_end(lease)

    def _send_end(self, lease: Lease) -> None:
        if not self._link.open or lease.end is None:
            return
        # The broker must know of the slots that are gone before it fills those that come free.
        self._link.tell_changes()
        if lease.state is LeaseState.RELEASED:
            lease.fence = self._link.fence()
            self._fence_due = True
        self._context.to_broker(lease.end, lease.end_body)

    def _fence_if_due(self) -> None:
        if self._fence_due and self._link.open:
            self._fence_due = False
            self._link.send_fence()
