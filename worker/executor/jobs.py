"""Runs one job: body bytes in, an Outcome out, whatever happens. No pipe and no protocol session here."""

import asyncio
import contextvars
import functools
import logging
import os
import time
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import dspy

from dspymq.protocol import body as bodies
from dspymq.protocol.messages import Timings, Usage
from dspymq.worker.executor import logs, outputs
from dspymq.worker.executor.context import SETTING, CancelToken, JobContext, JobStopped
from dspymq.worker.executor.definitions import DEFINE, Definitions, describe
from dspymq.worker.executor.failures import Failure, JobError, classify
from dspymq.worker.executor.lms import LMSet, ProfileLM, with_config
from dspymq.worker.executor.programs import Program
from dspymq.worker.executor.spec_scope import LMS_SETTING
from dspymq.worker.executor.specs import INLINE, SpecCache
from dspymq.worker.executor.streams import StreamBuffer
from dspymq.worker.executor.tool_channel import ToolChannel
from dspymq.worker.executor.tool_specs import Toolset, ToolsetCache
from dspymq.worker.executor.usage import JobUsage

log = logging.getLogger("dspymq.worker.jobs")


@dataclass(frozen=True)
class Job:
    """What to run. `revision` None takes whatever is here; `timeout_ms` is what is left.

    `defined`: the program is not here, but data that the broker has.
    """

    program: str
    body: bytes
    timeout_ms: int
    revision: str | None = None
    profile: str | None = None
    defined: bool = False


@dataclass(frozen=True)
class Outcome:
    """How a job ended: the fields of its result, and the body (empty unless `code` is OK)."""

    code: str
    reason: str | None = None
    message: str | None = None
    retryable: bool = False
    retry_after_ms: int | None = None
    details: dict[str, Any] | None = None
    body: bytes = b""
    usage: Usage = field(default_factory=Usage)
    timings: Timings = field(default_factory=Timings)
    revision: str | None = None


@dataclass(frozen=True)
class Watcher:
    """What the owner of a job wants to hear while it runs; all are called on the loop's thread but `on_progress`."""

    on_start: Callable[[str], None] | None = None
    on_text: Callable[[], None] | None = None
    on_progress: Callable[[int | None, int | None, str | None], None] | None = None


@dataclass(frozen=True)
class _Prepared:
    program: Program
    arguments: dict[str, Any]
    lm: ProfileLM | None


class JobRunner:
    """Runs jobs side by side on one event loop; nothing of one is left when the next begins."""

    def __init__(
        self,
        programs: Mapping[str, Program],
        lms: LMSet,
        *,
        concurrency: int,
        max_body_bytes: int,
        specs: SpecCache | None = None,
        definitions: Definitions | None = None,
    ) -> None:
        """`concurrency` bounds the threads of synchronous programs; the owner starts no more jobs than that.

        `definitions` leads to the programs that clients have defined; None: there are none.
        """
        self._programs = programs
        self._lms = lms
        self._max_body_bytes = max_body_bytes
        self._specs = specs or SpecCache()
        self._definitions = definitions
        self._toolsets = ToolsetCache()
        self._threads = ThreadPoolExecutor(concurrency, thread_name_prefix="program")

    async def run(
        self,
        job: Job,
        token: CancelToken,
        stream: StreamBuffer | None = None,
        watcher: Watcher | None = None,
        tools: ToolChannel | None = None,
    ) -> Outcome:
        """Run the job to its end. Never raises: whatever a program does becomes an outcome, with the usage so far.

        `tools` leads to the client's tools; None if the client takes no tool calls.
        """
        watcher = watcher or Watcher()
        loop = asyncio.get_running_loop()
        began_s = time.monotonic()
        usage = JobUsage()
        deadline_s = loop.time() + job.timeout_ms / 1000
        timer = loop.call_at(deadline_s, token.cancel, "deadline")
        context = JobContext(
            token=token,
            usage=usage,
            deadline_s=deadline_s,
            stream=stream,
            on_text=watcher.on_text,
            on_progress=watcher.on_progress,
            tools=tools,
        )
        token.on_cancel(context.close_calls)
        revision: str | None = None
        body = b""
        failure: Failure | None = None
        try:
            if job.program == DEFINE:
                body = bodies.encode(outputs=describe(bodies.decode(job.body).get("spec")))
            else:
                defined = await self._defined(job, context)
                prepared = self._prepare(job, tools, defined)
                revision = prepared.program.revision
                if stream is not None:
                    stream.restrict(_streamed_fields(prepared.program))
                if token.cause is None:
                    if watcher.on_start is not None:
                        watcher.on_start(revision)
                    returned = await self._call(prepared, context)
                    body = self._finish(prepared.program, returned, stream)
        except BaseException as error:
            failure = _classified(error, self._lms.secrets)
            if failure.reason in ("program_error", "internal") and token.cause is None:
                _log(job.program, failure.reason, error)
        finally:
            timer.cancel()
            context.end()
        if token.cause is not None:
            failure, body = _stopped(token.cause, job.timeout_ms), b""
        timings = Timings(run_ms=round((time.monotonic() - began_s) * 1000), lm_ms=usage.lm_ms())
        if failure is None:
            return Outcome("OK", body=body, usage=usage.total(), timings=timings, revision=revision)
        return Outcome(
            failure.code,
            failure.reason,
            failure.message,
            failure.is_retryable(),
            failure.retry_after_ms,
            failure.details,
            usage=usage.total(),
            timings=timings,
            revision=revision,
        )

    async def _defined(self, job: Job, context: JobContext) -> Any:
        """The spec of a program that a client has defined; None if the job's program is another. Raises JobError."""
        program = self._programs.get(job.program)
        if not job.defined or self._definitions is None or job.revision is None:
            return None
        if program is not None and program.revision == job.revision:
            return None
        task = context.enter_call()
        try:
            return await self._definitions.spec(job.program, job.revision)
        finally:
            context.leave_call(task)

    def _prepare(self, job: Job, tools: ToolChannel | None, defined: Any = None) -> _Prepared:
        """Everything that can be refused before the program runs and before any LM call. Raises JobError."""
        body = bodies.decode(job.body)
        inputs = _map_of(body, "inputs")
        toolset = self._toolsets.toolset(body.get("tools"))
        if tools is not None:
            tools.toolset = toolset
        elif toolset.specs:
            raise JobError("invalid_tools", "a body with `tools` needs `tools` in `want`, or nobody would be called")
        program = self._program(job, body, toolset, defined)
        arguments = program.interface.arguments(inputs)
        lm = self._lms.get(job.profile)
        if body.get("config"):
            if lm is None:
                raise JobError("lm_not_configured", "`config` needs an LM profile, and there is no `default` here")
            lm = with_config(lm, body["config"])
        return _Prepared(program, arguments, lm)

    def _program(self, job: Job, body: Mapping[str, Any], toolset: Toolset, defined: Any) -> Program:
        spec = body.get("spec")
        if job.program == INLINE:
            if not spec:
                raise JobError("invalid_spec", f"a job for {INLINE} brings a `spec` in its body")
            return self._specs.program(spec, toolset)
        if spec:
            raise JobError("invalid_body", f"`spec` belongs to jobs for the program {INLINE}")
        if defined is not None:
            return replace(self._specs.program(defined, toolset), name=job.program, revision=str(job.revision))
        program = self._programs.get(job.program)
        if program is None:
            raise JobError("unknown_program", f"no program {job.program!r} here")
        if job.revision is not None and job.revision != program.revision:
            raise JobError(
                "unknown_revision", f"{job.program!r} is here at revision {program.revision}, not {job.revision}"
            )
        return program

    async def _call(self, prepared: _Prepared, context: JobContext) -> Any:
        module, arguments = prepared.program.module, prepared.arguments
        loop = asyncio.get_running_loop()
        with dspy.context(**_settings(prepared, context), **{LMS_SETTING: self._lms}):
            if prepared.program.is_async:
                running: asyncio.Future[Any] = loop.create_task(_called(module, arguments))
                context.token.on_cancel(lambda: _cancel(running))
            else:
                call = functools.partial(contextvars.copy_context().run, _called_in_thread, module, arguments, context)
                running = loop.run_in_executor(self._threads, call)
        # Not `await running`: a thread cannot be cancelled, and its job is not over before it is.
        await asyncio.wait({running})
        return running.result()

    def _finish(self, program: Program, returned: Any, stream: StreamBuffer | None) -> bytes:
        found = outputs.fields_of(returned, program.interface)
        body = outputs.encode(found, self._max_body_bytes)
        if stream is not None and stream.wanted:
            texts = program.interface.texts if program.interface.is_exact else found.keys()
            stream.settle({name: found[name] for name in texts if isinstance(found.get(name), str)})
        return body


async def _called(module: Any, arguments: dict[str, Any]) -> Any:
    owner = os.getpid()
    try:
        return await module.acall(**arguments)
    except (SystemExit, KeyboardInterrupt) as error:
        raise JobError("program_error", f"the program raised {type(error).__name__}") from error
    finally:
        _end_if_forked(owner)


def _called_in_thread(module: Any, arguments: dict[str, Any], context: JobContext) -> Any:
    if context.token.cause is not None:
        raise JobStopped
    owner = os.getpid()
    try:
        return module(**arguments)
    except (SystemExit, KeyboardInterrupt, StopIteration) as error:
        # StopIteration cannot be set on a Future: whoever waits for it would wait for ever.
        raise JobError("program_error", f"the program raised {type(error).__name__}") from error
    finally:
        _end_if_forked(owner)


def _end_if_forked(owner: int) -> None:
    """A child that a program forked has come out of the program: the job, and all else here, is its parent's."""
    if os.getpid() != owner:
        os._exit(0)


def _cancel(running: asyncio.Future[Any]) -> None:
    running.cancel()


def _settings(prepared: _Prepared, context: JobContext) -> dict[str, Any]:
    """DSPy's settings for this job alone; histories are lists that every job would append to.

    The trace is the job's own, and ends with it: dspy.BestOfN and dspy.Refine need one.
    """
    settings: dict[str, Any] = {
        SETTING: context,
        "usage_tracker": context.usage,
        "track_usage": False,
        "trace": [],
        "disable_history": True,
        "send_stream": None,
        "stream_listeners": [],
        "caller_modules": None,
        "caller_predict": None,
        "warn_on_type_mismatch": False,  # its warning shows the value
    }
    if prepared.lm is not None:
        settings["lm"] = prepared.lm.lm
        if prepared.lm.adapter is not None:
            settings["adapter"] = prepared.lm.adapter
    return settings


def _streamed_fields(program: Program) -> frozenset[str] | None:
    known = program.interface.outputs is not None
    return program.interface.texts if known else None


def _map_of(body: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = body.get(key)
    if value is None or value == []:
        return {}
    if not isinstance(value, dict):
        raise JobError("invalid_body", f"`{key}` must be a map, not {type(value).__name__}")
    return value


def _classified(error: BaseException, secrets: Collection[str]) -> Failure:
    try:
        return classify(error, secrets)
    except Exception:
        # An error whose own text cannot be read.
        return Failure("program_error", f"the program raised {type(error).__name__}")


def _log(program: str, reason: str, error: BaseException) -> None:
    """For the operator: where it happened. The message stays out, it may hold what the client sent."""
    place = logs.place_of(error.__traceback__)
    log.warning("event=job_failed program=%s reason=%s type=%s at=%s", program, reason, type(error).__name__, place)


def _stopped(cause: str, timeout_ms: int) -> Failure:
    if cause == "deadline":
        return Failure("deadline", f"the job did not end within {timeout_ms} ms")
    return Failure("cancelled", "the job was cancelled" if cause == "cancel" else "the attempt was fenced")
