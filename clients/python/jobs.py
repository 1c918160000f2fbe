"""The open jobs of a client: submit, resubmit, refusals, streams, results, deadlines, cancel, acks. Pure.

A job is open from `open` to its one end. Whatever happens to connections and brokers in between, it is sent again
with the same id and bytes, its deadline stands, and it ends exactly once (PROTOCOL.md sections 1, 5 and 8).
"""

from collections.abc import Callable
from typing import Any, Final

import msgspec

from dspymq import exceptions
from dspymq.chunks import TextStream
from dspymq.events import JobEnded, JobText, JobUpdated, OpenJob, Output, Send, ToolCalled, ToolsVoid
from dspymq.exceptions import DspymqError
from dspymq.prediction import Prediction
from dspymq.protocol import body as bodies
from dspymq.protocol.client_messages import (
    Accepted,
    Ack,
    Attach,
    Cancel,
    Chunk,
    Credit,
    Progress,
    Result,
    Started,
    Submit,
    ToolCall,
    ToolResult,
)
from dspymq.protocol.errors import Code, ProtocolError
from dspymq.protocol.messages import Error
from dspymq.session import Session
from dspymq.timers import Timers
from dspymq.tool_calls import Answer, Came, ToolLedger

ACK_BATCH: Final = 256
ACK_DELAY_MS: Final = 20
"""Results are acknowledged together: at the latest so long after the first, or so many at once."""
CANCEL_WAIT_MS: Final = 10_000
"""How long a cancelled job may take to say its end, before it ends here."""
RETRY_MIN_MS: Final = 100
RETRY_MAX_MS: Final = 5_000
"""Wait before a refused job is sent again, when the refusal names none: the minimum, doubled each time."""
UNKNOWN_EPOCH: Final = "unknown"

_NO_TOOLS: Final = Answer(Code.NOT_FOUND.value, "this client offers no tools for this job")
_CANCELLED: Final = Answer(Code.CANCELLED.value, "the job is being cancelled")


class Job:
    """One open job; changed only by its JobBook."""

    __slots__ = (
        "before_epochs",
        "body",
        "cancelling",
        "deadline_ms",
        "id",
        "last_epoch",
        "message",
        "other_epoch",
        "overdue",
        "reached",
        "refusals",
        "sent",
        "stream",
        "tools",
        "waits_retry",
    )

    def __init__(self, opened: OpenJob, now_ms: int) -> None:
        self.id = opened.message.job
        self.message = opened.message
        self.body = opened.body
        self.deadline_ms = now_ms + opened.timeout_ms
        self.last_epoch: str | None = UNKNOWN_EPOCH if opened.resume else None
        """Under which it was last sent."""
        self.other_epoch: str | None = None
        """The last one but that: a worker may hold the job for that broker, whether or not this one has got it."""
        self.before_epochs: tuple[str | None, str | None] = (self.last_epoch, self.other_epoch)
        self.sent = False
        """Sent in the present session, and not refused."""
        self.reached = False
        """Ever sent to a broker."""
        self.waits_retry = False
        self.cancelling = False
        self.overdue = False
        self.refusals = 0
        streams = "chunks" in opened.message.want
        self.stream = TextStream(opened.message.window) if streams else None
        self.tools = ToolLedger() if "tools" in opened.message.want else None

    @property
    def attaches(self) -> bool:
        """Whether its inputs are not at hand."""
        return isinstance(self.message, Attach)


class JobBook:
    """See the module. Timer keys are `("job", id)`, `("retry", id)` and `"acks"`."""

    def __init__(
        self,
        session: Session,
        *,
        timers: Timers,
        emit: Callable[[Output], None],
        random: Callable[[], float],
        connect_timeout_ms: int | None,
        deadline_slack_ms: int,
    ) -> None:
        self._session = session
        self._timers = timers
        self._emit = emit
        self._random = random
        self._connect_timeout_ms = connect_timeout_ms
        self._slack_ms = deadline_slack_ms
        self._jobs: dict[str, Job] = {}
        self._acks: list[str] = []

    def __len__(self) -> int:
        return len(self._jobs)

    def get(self, job_id: str) -> Job | None:
        """The open job, or None."""
        return self._jobs.get(job_id)

    def open(self, opened: OpenJob, now_ms: int) -> None:
        """Take a job over; it is sent as soon as there is a session."""
        job = Job(opened, now_ms)
        self._jobs[job.id] = job
        if (job.attaches or opened.resume) and job.id in self._acks:
            # Its result is wanted once more: the broker must not forget it yet.
            self._acks.remove(job.id)
        due_ms = job.deadline_ms
        if not self._session.live and self._connect_timeout_ms is not None:
            due_ms = min(due_ms, now_ms + self._connect_timeout_ms)
        self._timers.set(("job", job.id), due_ms)
        if self._session.live:
            self._send(job, now_ms)

    def cancel(self, job_id: str, now_ms: int) -> None:
        """Stop a job. One that no broker can know ends here and now."""
        job = self._jobs.get(job_id)
        if job is None or job.cancelling:
            return
        job.cancelling = True
        if job.sent:
            self._emit(Send(Cancel(job=job.id)))
        elif job.last_epoch is None and not job.attaches:
            self._end(job, exceptions.Cancelled("cancelled before it was sent", reason="cancelled", job=job.id))
            return
        if not job.overdue:
            job.deadline_ms = min(job.deadline_ms, now_ms + CANCEL_WAIT_MS)
            self._timers.set(("job", job.id), job.deadline_ms)

    def read(self, job_id: str, attempt: int, seq: int) -> None:
        """The reader of a stream took a chunk; credit follows when half the window is used."""
        job = self._jobs.get(job_id)
        if job is None or job.stream is None:
            return
        upto = job.stream.read(attempt, seq)
        if upto is not None and job.sent:
            self._emit(Send(Credit(job=job.id, attempt=attempt, upto=upto)))

    def session_up(self, now_ms: int) -> None:
        """Send every open job, in the order in which they were opened; those refused wait out their time."""
        for job in list(self._jobs.values()):
            if not job.waits_retry:
                self._send(job, now_ms)

    def session_down(self) -> None:
        """Whatever was sent has to be sent again; what has no time left for that is over (SPEC R-5.10)."""
        for job in list(self._jobs.values()):
            job.sent = False
            if job.overdue:
                self._give_up(job)

    def accepted(self, message: Accepted | Started | Progress) -> None:
        """News of a job that its client wanted."""
        job = self._jobs.get(message.job)
        if job is None:
            return
        if job.stream is not None:
            self._text(job, job.stream.restart(message.attempt))
        self._emit(JobUpdated(job.id, message))

    def chunk(self, message: Chunk, body: bytes) -> None:
        """A piece of a stream; dropped when nobody reads it."""
        job = self._jobs.get(message.job)
        if job is None or job.stream is None:
            return
        try:
            fields = bodies.part(body, "fields")
        except ProtocolError:
            fields = {}
        self._text(job, job.stream.take(message, fields))

    def tool_call(self, message: ToolCall, body: bytes) -> None:
        """The program calls a tool: run it once, and answer each time that it comes."""
        job = self._jobs.get(message.job)
        if job is None or job.tools is None:
            self._answer_tool(message.job, message.attempt, message.call, _NO_TOOLS)
            return
        if job.cancelling:
            self._answer_tool(job.id, message.attempt, message.call, _CANCELLED)
            return
        known = job.tools.came(message.attempt, message.call, message.name, body)
        if isinstance(known, Answer):
            self._answer_tool(job.id, message.attempt, message.call, known)
        elif known is Came.NEW:
            run, voids = job.tools.begin(message.attempt, message.call, message.name, body)
            if voids:
                self._emit(ToolsVoid(job.id))
            self._emit(ToolCalled(job.id, run, message.name, body, message.timeout_ms))

    def tool_answered(self, job_id: str, run: int, answer: Answer) -> None:
        """A tool was run. Without a session the answer is kept: its call comes again."""
        job = self._jobs.get(job_id)
        if job is None or job.tools is None:
            return
        limit = self._session.limits.max_body_bytes
        if len(answer.body) > limit:
            text = f"what the tool returned has {len(answer.body)} bytes, the limit is {limit}"
            answer = Answer(Code.RESOURCE_EXHAUSTED.value, text)
        call = job.tools.answered(run, answer)
        if call is not None and job.sent:
            self._answer_tool(job.id, *call, answer)

    def result(self, message: Result, body: bytes, now_ms: int) -> None:
        """The end of a job. Always acknowledged: what is not open here is wanted by nobody here."""
        self._acks.append(message.job)
        if len(self._acks) >= ACK_BATCH:
            self.flush_acks()
        elif len(self._acks) == 1:
            self._timers.set("acks", now_ms + ACK_DELAY_MS)
        job = self._jobs.get(message.job)
        if job is not None:
            self._end(job, self._outcome(job, message, body))

    def refused(self, error: Error, now_ms: int) -> None:
        """`error` named this job: send it again later if that may help within its deadline, else it ends."""
        job = self._jobs.get(error.job or "")
        if job is None:
            return
        refusal = exceptions.from_refusal(error)
        if job.cancelling and not job.attaches and error.retryable:
            self._end(job, exceptions.Cancelled("cancelled while it waited to be sent again", job=job.id))
            return
        if not error.retryable or error.reason == "no_worker":
            self._end(job, refusal)
            return
        wait_ms = self._retry_wait_ms(job, error)
        if now_ms + wait_ms >= job.deadline_ms:
            self._end(job, refusal)
            return
        # Refused means that nothing was made: what an earlier broker knows of the job is what counts again.
        job.last_epoch, job.other_epoch = job.before_epochs
        job.sent = False
        job.waits_retry = True
        job.refusals += 1
        self._timers.set(("retry", job.id), now_ms + wait_ms)

    def fail(self, job_id: str, error: DspymqError) -> None:
        """End one job with this error."""
        job = self._jobs.get(job_id)
        if job is not None:
            self._end(job, error)

    def fail_all(self, make_error: Callable[[str], DspymqError]) -> None:
        """End every job; `make_error` is given each id."""
        for job in list(self._jobs.values()):
            self._end(job, make_error(job.id))

    def retry_due(self, job_id: str, now_ms: int) -> None:
        """The wait after a refusal is over."""
        job = self._jobs.get(job_id)
        if job is not None:
            job.waits_retry = False
            if self._session.live:
                self._send(job, now_ms)

    def job_due(self, job_id: str, now_ms: int) -> None:
        """A job's time to reach a broker, its deadline, or the slack after that, has come."""
        job = self._jobs.get(job_id)
        if job is None:
            return
        if now_ms < job.deadline_ms:
            if job.reached or self._session.live:
                self._timers.set(("job", job.id), job.deadline_ms)
            else:
                self._end(job, unreachable(self._session, job.id))
        elif job.sent and not job.overdue:
            # The broker's own answer is worth waiting for a little: it carries the usage.
            job.overdue = True
            self._timers.set(("job", job.id), now_ms + self._slack_ms)
        else:
            self._give_up(job)

    def flush_acks(self) -> None:
        """Send the acks that are due; without a session they wait for the next."""
        if self._acks and self._session.live:
            self._emit(Send(Ack(jobs=self._acks)))
            self._acks = []
            self._timers.cancel("acks")

    def forget_acks(self) -> None:
        """Another broker: the results that were not yet acknowledged are gone with the old one."""
        self._acks.clear()

    def _send(self, job: Job, now_ms: int) -> None:
        limit = self._session.limits.max_body_bytes
        if len(job.body) > limit:
            problem = ProtocolError("body_too_large", f"the inputs take {len(job.body)} bytes, the limit is {limit}")
            problem.job = job.id
            self._end(job, exceptions.from_protocol_error(problem))
            return
        epoch = self._session.epoch
        anew = job.last_epoch != epoch
        job.before_epochs = (job.last_epoch, job.other_epoch)
        if anew:
            job.other_epoch = job.last_epoch
        message: Submit | Attach = job.message
        if isinstance(message, Submit):
            left_ms = max(1, job.deadline_ms - now_ms)
            known_epoch = job.other_epoch or job.last_epoch
            message = msgspec.structs.replace(message, timeout_ms=left_ms, known_epoch=known_epoch)
        if job.stream is not None and job.reached:
            job.stream.rejoin(anew=anew)
        if job.tools is not None and job.reached:
            job.tools.rejoin(anew=anew)
        job.last_epoch = epoch
        job.sent = job.reached = True
        self._emit(Send(message, job.body))
        if job.cancelling:
            self._emit(Send(Cancel(job=job.id)))

    def _answer_tool(self, job_id: str, attempt: int, call: int, answer: Answer) -> None:
        if self._session.live:
            result = ToolResult(job=job_id, attempt=attempt, call=call, code=answer.code, message=answer.message)
            self._emit(Send(result, answer.body))

    def _outcome(self, job: Job, message: Result, body: bytes) -> Prediction | DspymqError:
        if message.code != Code.OK:
            return exceptions.from_result(message)
        try:
            outputs: dict[str, Any] = bodies.part(body, "outputs")
        except ProtocolError as problem:
            return exceptions.Internal(f"bad result: {problem.message}", reason="invalid_body", job=job.id)
        if job.stream is not None:
            self._text(job, job.stream.finish(message, outputs))
        return Prediction.from_result(message, outputs)

    def _give_up(self, job: Job) -> None:
        if not job.reached and not job.cancelling:
            self._end(job, unreachable(self._session, job.id))
            return
        if job.sent and not job.attaches and not job.cancelling:
            self._emit(Send(Cancel(job=job.id)))
        if job.cancelling:
            error: DspymqError = exceptions.Cancelled("cancelled; the broker did not confirm it", reason="cancelled")
        else:
            where = "the broker did not answer" if job.sent else f"no session: {self._session.last_failure}"
            error = exceptions.DeadlineExceeded(f"no result in time ({where})", reason="deadline", retryable=True)
        error.job = job.id
        self._end(job, error)

    def _retry_wait_ms(self, job: Job, error: Error) -> int:
        if error.retry_after_ms is not None:
            # Spread out those that were refused together, never earlier than asked for.
            return max(1, int(error.retry_after_ms * (1 + 0.25 * self._random())))
        longest_ms = min(RETRY_MAX_MS, RETRY_MIN_MS << min(job.refusals, 16))
        return int(longest_ms * (0.5 + 0.5 * self._random()))

    def _text(self, job: Job, chunks: list[Any]) -> None:
        if chunks:
            self._emit(JobText(job.id, chunks))

    def _end(self, job: Job, value: Prediction | DspymqError) -> None:
        del self._jobs[job.id]
        self._timers.cancel(("job", job.id))
        if job.waits_retry:
            self._timers.cancel(("retry", job.id))
        self._emit(JobEnded(job.id, value))


def unreachable(session: Session, job_id: str | None) -> exceptions.BrokerUnreachable:
    """The one line that says where no broker answered, and why as far as it is known."""
    where = ", ".join(session.addresses)
    why = f" ({session.last_failure})" if session.last_failure else ""
    return exceptions.BrokerUnreachable(f"no broker answered at {where}{why}", retryable=True, job=job_id)
