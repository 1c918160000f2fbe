"""The executor's event loop: messages of the pipe in, up to `concurrency` jobs at once, messages out."""

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from dspymq.protocol import body as bodies
from dspymq.protocol import profile
from dspymq.protocol import worker_messages as w
from dspymq.protocol.errors import REASONS, ProtocolError
from dspymq.protocol.messages import Bye, Error, Ping, Pong, Reply, Request
from dspymq.worker import gate_messages
from dspymq.worker.executor import logs
from dspymq.worker.executor.context import CancelToken
from dspymq.worker.executor.definitions import DEFINE, Definitions
from dspymq.worker.executor.failures import JobError, job_error
from dspymq.worker.executor.gates import Gates
from dspymq.worker.executor.jobs import Job, JobRunner, Outcome, Watcher
from dspymq.worker.executor.lms import LMSet
from dspymq.worker.executor.preload import State
from dspymq.worker.executor.process import Leash
from dspymq.worker.executor.programs import Program
from dspymq.worker.executor.requests import Refused, Requests
from dspymq.worker.executor.specs import INLINE
from dspymq.worker.executor.streams import StreamBuffer
from dspymq.worker.executor.tool_calls import OpenCall
from dspymq.worker.executor.tool_channel import ToolChannel
from dspymq.worker.pipe import Pipe

log = logging.getLogger("dspymq.worker.executor")

INLINE_REVISION: Final = "inline"
"""What is offered as the revision of `_inline`; the result names the spec's hash."""

_MAX_DESCRIPTION_BYTES: Final = 900_000
"""Under the 1 MiB that a broker takes in `ready`, with room for what the supervisor adds."""

_DEFAULT_POOL_THREADS: Final = 64
"""DSPy hops through the loop's default pool on every call; programs share it through asyncio.to_thread."""


def serve(executor_id: str, sock: socket.socket, state: State | None) -> int:
    """Serve the pipe until it ends or says bye; the exit code of the process."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    loop.set_default_executor(ThreadPoolExecutor(_DEFAULT_POOL_THREADS, thread_name_prefix="loop"))
    return loop.run_until_complete(_serve(executor_id, sock, state))


async def _serve(executor_id: str, sock: socket.socket, state: State | None) -> int:
    pipe = Pipe.open(sock)
    loop = asyncio.get_running_loop()
    logs.serve(as_json=state is not None and state.spec.log_json)

    leash = Leash()

    def forked() -> None:
        # A program's child is no executor: it must neither speak for us, nor run our jobs once more, nor outlive us.
        pipe.abandon()
        leash.tie()
        loop.call_soon(os._exit, 0)

    os.register_at_fork(after_in_child=forked)
    problem = _problem(state)
    if problem is not None or state is None:
        if problem is not None:
            pipe.send(problem)
        await pipe.drained()
        return 3
    return await Executor(executor_id, pipe, state).run()


def _problem(state: State | None) -> Error | None:
    """Why this process cannot serve."""
    if state is None:
        return _error("programs_failed", "the executor was started without a spec in its environment")
    if state.failure is not None:
        return _error("programs_failed", state.failure, target=state.failed_target)
    if state.threads > 1 and state.pid != os.getpid():
        what = f"importing {state.thread_target}" if state.thread_target else "loading"
        message = f"{what} started {state.threads - 1} thread(s); such a process must not be forked"
        return _error("threads_started", message, target=state.thread_target)
    return None


def _error(reason: str, message: str, target: str | None = None) -> Error:
    details = {"target": target} if target else None
    return Error(code=str(REASONS[reason].code), reason=reason, message=message[:4096], details=details)


class Executor:
    """One executor on its loop."""

    def __init__(self, executor_id: str, pipe: Pipe, state: State) -> None:
        loop = asyncio.get_running_loop()
        self._id = executor_id
        self._pipe = pipe
        self._state = state
        self._spec = state.spec
        self._attempts: dict[str, Attempt] = {}
        self._requests = Requests(pipe)
        self._gates = Gates(self._spec.profiles, self._requests)
        profiles = {profile.name: profile for profile in self._spec.profiles}
        self._runner = JobRunner(
            state.programs,
            LMSet(profiles, loop, self._local_url, self._gates),
            concurrency=sum(self._spec.slots.values()),
            max_body_bytes=self._spec.max_body_bytes,
            definitions=Definitions(self._requests),
        )

    async def run(self) -> int:
        """Serve until the pipe ends or says bye."""
        self._pipe.send(*self._ready())
        beat = asyncio.create_task(self._beat())
        while (received := await self._pipe.receive()) is not None:
            message, body = received
            if isinstance(message, Bye):
                break
            self._handle(message, body)
        beat.cancel()
        return 0

    def _ready(self) -> tuple[w.Ready, bytes]:
        programs = self._state.programs
        offers = [w.Offer(name=name, revision=program.revision) for name, program in programs.items()]
        offers += [w.Offer(name=name, revision=INLINE_REVISION) for name in (INLINE, DEFINE)]
        ready = w.Ready(
            worker=self._id,
            slots=self._spec.slots,
            programs=offers,
            profiles=[profile.name for profile in self._spec.profiles],
        )
        return ready, _descriptions(programs, self._state)

    async def _beat(self) -> None:
        n = 0
        while True:
            n += 1
            self._pipe.send(Ping(n=n))
            await asyncio.sleep(self._spec.beat_ms / 1000)

    def _handle(self, message: w.Message, body: bytes) -> None:
        match message:
            case w.Dispatch():
                self._dispatch(message, body)
            case w.Cancel(lease=lease, cause=cause):
                if lease in self._attempts:
                    self._attempts[lease].token.cancel(cause)
            case w.Credit(lease=lease):
                if lease in self._attempts:
                    self._attempts[lease].credit(message)
            case w.Attach(lease=lease):
                if lease in self._attempts:
                    self._attempts[lease].attach(message)
            case w.ToolResult(lease=lease):
                if lease in self._attempts:
                    self._attempts[lease].tool_result(message, body)
            case Ping(n=n):
                self._pipe.send(Pong(n=n))
            case Reply():
                self._requests.answered(message, body)
            case Error(rid=str(rid)):
                self._requests.refused(rid, message)
            case Request(method=gate_messages.NEWS):
                self._gates.news(body)
            case Pong():
                pass
            case _:
                log.warning("event=unexpected_message type=%s", type(message).__name__)

    def _dispatch(self, dispatch: w.Dispatch, body: bytes) -> None:
        taken = sum(attempt.lane == dispatch.lane for attempt in self._attempts.values())
        if taken >= self._spec.slots.get(dispatch.lane, 0) or dispatch.lease in self._attempts:
            self._pipe.send(w.Released(lease=dispatch.lease, started=False, cause="capacity"))
            return
        attempt = Attempt(dispatch, self._pipe, self._id, self._spec.max_body_bytes)
        self._attempts[dispatch.lease] = attempt
        task = asyncio.create_task(attempt.run(self._runner, body))
        task.add_done_callback(lambda _: self._attempts.pop(dispatch.lease, None))

    async def _local_url(self, again: bool) -> str:
        """Ask the supervisor where the embedded model serves; `again`: the last address did not answer."""
        _, future = self._requests.ask("local_lm.url", bodies.encode(params={"again": again}), _url)
        try:
            return await future
        except Refused as refused:
            raise job_error(refused, otherwise="lm_unavailable") from None


class Attempt:
    """One lease at work here: its messages to and from the pipe."""

    def __init__(self, dispatch: w.Dispatch, pipe: Pipe, executor_id: str, max_body_bytes: int) -> None:
        self.token = CancelToken()
        self.lane = dispatch.lane
        self._dispatch = dispatch
        self._pipe = pipe
        self._executor_id = executor_id
        self._want = frozenset(dispatch.want)
        self._revision: str | None = None
        self._loop = asyncio.get_running_loop()
        self._flush_due = False
        self._progress: tuple[int | None, int | None, str | None] | None = None
        self._is_over = False
        self._stream = StreamBuffer(
            wanted="chunks" in self._want, window=dispatch.window, begin_with_reset=dispatch.attempt > 1
        )
        self._tools: ToolChannel | None = None
        if "tools" in self._want:
            self._tools = ToolChannel(self._send_tool_call, loop=self._loop, max_body_bytes=max_body_bytes)

    async def run(self, runner: JobRunner, body: bytes) -> None:
        """Run the job and send its result."""
        dispatch = self._dispatch
        logs.job.set(f"job={dispatch.job!r} lease={dispatch.lease} executor={self._executor_id}")
        revision = None if dispatch.program == INLINE else dispatch.revision
        job = Job(dispatch.program, body, dispatch.timeout_ms, revision, dispatch.profile, dispatch.defined)
        watcher = Watcher(on_start=self._on_start, on_text=self._on_text, on_progress=self._on_progress)
        outcome = await runner.run(job, self.token, self._stream, watcher, self._tools)
        self._flush(last=True)
        self._is_over = True
        try:
            self._pipe.send(self._result(outcome), outcome.body)
        except Exception as error:
            # Whatever a program put into its error: a job without a result would hold its slot until its deadline.
            log.exception("event=result_unsendable program=%s", dispatch.program)
            problem = f"the result cannot be sent: {type(error).__name__}"
            self._pipe.send(self._result(Outcome("INTERNAL", "internal", problem, timings=outcome.timings)))
        self._stream.forget()

    def credit(self, credit: w.Credit) -> None:
        """More chunks may go out."""
        if credit.attempt == self._dispatch.attempt:
            self._stream.credit(credit.upto)
            self._flush()

    def attach(self, attach: w.Attach) -> None:
        """The client came back, or another one came."""
        self._want = frozenset(attach.want)
        if "started" in self._want and self._revision is not None:
            self._send_started(self._revision)
        self._stream.attach(wanted="chunks" in self._want, window=attach.window)
        self._flush()
        if self._tools is not None:
            self._tools.attach(wanted="tools" in self._want)

    def tool_result(self, result: w.ToolResult, body: bytes) -> None:
        """The client answers a tool call."""
        if self._tools is not None and result.attempt == self._dispatch.attempt:
            self._tools.answer(result, body)

    def _on_start(self, revision: str) -> None:
        self._revision = revision
        self._send_started(revision)

    def _send_started(self, revision: str) -> None:
        dispatch = self._dispatch
        started = w.Started(lease=dispatch.lease, attempt=dispatch.attempt, revision=revision, worker=self._executor_id)
        self._pipe.send(started)

    def _on_text(self) -> None:
        if not self._flush_due:
            self._flush_due = True
            self._loop.call_soon(self._flush)

    def _flush(self, *, last: bool = False) -> None:
        self._flush_due = False
        if self._is_over:
            return
        while (chunk := self._stream.take(last=last)) is not None:
            message = w.Chunk(
                lease=self._dispatch.lease, attempt=self._dispatch.attempt, seq=chunk.seq, reset=chunk.reset
            )
            self._pipe.send(message, bodies.encode(fields=chunk.fields))

    def _on_progress(self, done: int | None, total: int | None, note: str | None) -> None:
        """From any thread; of several reports before the loop's next turn the newest goes out."""
        is_first = self._progress is None
        self._progress = (done, total, note)
        if is_first:
            self._loop.call_soon_threadsafe(self._send_progress)

    def _send_progress(self) -> None:
        progress, self._progress = self._progress, None
        if progress is None or self._is_over or "progress" not in self._want:
            return
        done, total, note = progress
        self._pipe.send(
            w.Progress(lease=self._dispatch.lease, attempt=self._dispatch.attempt, done=done, total=total, note=note)
        )

    def _send_tool_call(self, call: OpenCall, timeout_ms: int) -> None:
        dispatch = self._dispatch
        message = w.ToolCall(
            lease=dispatch.lease, attempt=dispatch.attempt, call=call.number, name=call.name, timeout_ms=timeout_ms
        )
        self._pipe.send(message, call.body)

    def _result(self, outcome: Outcome) -> w.Result:
        return w.Result(
            lease=self._dispatch.lease,
            attempt=self._dispatch.attempt,
            code=outcome.code,
            reason=outcome.reason,
            message=outcome.message,
            retryable=outcome.retryable,
            retry_after_ms=outcome.retry_after_ms,
            details=_safe_details(outcome.details),
            chunks=self._stream.next_seq,
            usage=outcome.usage,
            timings=outcome.timings,
            revision=outcome.revision or self._dispatch.revision,
        )


def _url(_: str, body: bytes) -> str:
    with contextlib.suppress(ProtocolError):
        url = bodies.part(body, "result").get("url")
        if isinstance(url, str):
            return url
    raise JobError("internal", "the supervisor's answer to local_lm.url holds no url")


def _descriptions(programs: Mapping[str, Program], state: State) -> bytes:
    """The body of ready, {programs: {name: description}}, without schemas if it would be too long with them.

    `problems` and `source_dirs` are for the supervisor alone.
    """
    described = {name: program.description() for name, program in programs.items()}
    own = {"problems": dict(state.problems), "source_dirs": list(state.source_dirs)}
    body = bodies.encode(programs=described, **own)
    if len(body) > _MAX_DESCRIPTION_BYTES:
        log.warning("event=schemas_left_out bytes=%d limit=%d", len(body), _MAX_DESCRIPTION_BYTES)
        short = {name: {"description": one["description"][:200]} for name, one in described.items()}
        body = bodies.encode(programs=short, **own)
    return body


def _safe_details(details: dict[str, Any] | None) -> dict[str, Any] | None:
    """Details that a header may carry, as plain values (DSPy's errors hold subclasses of str, which msgspec refuses).

    Dropped where that is not possible, since the result matters more.
    """
    if details is None:
        return None
    try:
        packed = bodies.encode(**details)
        profile.check(packed)
    except ProtocolError:
        return None
    return bodies.decode(packed)
