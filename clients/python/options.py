"""What a caller may choose for a job, and how a call becomes a `submit`. Pure."""

import dataclasses
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final, Literal, TypedDict

import msgspec

from dspymq import exceptions
from dspymq.chunks import DEFAULT_WINDOW
from dspymq.events import OpenJob
from dspymq.plain import encode_body
from dspymq.protocol.client_messages import DEFAULT_PRIORITY, Attach, OnDisconnect, Submit
from dspymq.protocol.codec import encode_header
from dspymq.protocol.errors import ProtocolError
from dspymq.protocol.limits import Limits
from dspymq.protocol.messages import Want
from dspymq.tools import Tool, as_tools

INLINE: Final = "_inline"
"""The program name of a job that brings its own signature."""

Kind = Literal["predict", "chain_of_thought", "react"]
Watch = Literal["accepted", "started", "progress"]

_checker: Final = msgspec.msgpack.Decoder(Submit | Attach)
_MAX_HEADER_BYTES: Final = Limits().max_header_bytes


class JobOptions(TypedDict, total=False):
    """Options of one job; what is not given comes from the client (`Client(...)`, `with_options(...)`).

    timeout_s: seconds the job may take in all, queue included; then it ends as DeadlineExceeded. Default 60.
    profile: the LM profile of the worker that runs it; None is the worker's default.
    revision: run exactly this revision of the program.
    lane: the kind of slots it waits for, such as "default" or "batch".
    priority: 0 to 9, 9 first; orders this client's own jobs.
    kind, instructions: how an inline signature (a program text with "->") is run; "react" calls `tools`, for at most
        `max_iters` turns (default 20).
    tools: functions, or Tools, that the program may call while it runs; they run here. See Tool.
    config: parameters of the LM calls, such as {"temperature": 0.2}.
    fail_fast: Unavailable at once when no worker can run it now, instead of waiting.
    redeliver: False for programs with side effects: never run again after it may have started.
    durable: the broker journals it before it accepts it, where it has a store.
    on_disconnect: "cancel" it, or "keep" it going, when this client goes away.
    affinity: jobs of one key prefer the same worker.
    window: chunks of its stream that may be under way unread; None: no bound, read fast.
    trace: W3C trace context, carried to the worker.
    """

    timeout_s: float
    profile: str | None
    revision: str | None
    lane: str
    priority: int
    kind: Kind
    instructions: str | None
    max_iters: int | None
    tools: Sequence[Tool | Callable[..., Any]]
    config: Mapping[str, Any] | None
    fail_fast: bool
    redeliver: bool
    durable: bool
    on_disconnect: OnDisconnect
    affinity: str | None
    window: int | None
    trace: Mapping[str, str] | None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """All of JobOptions, with its defaults."""

    timeout_s: float = 60.0
    profile: str | None = None
    revision: str | None = None
    lane: str = "default"
    priority: int = DEFAULT_PRIORITY
    kind: Kind = "predict"
    instructions: str | None = None
    max_iters: int | None = None
    tools: Sequence[Tool] = ()
    config: Mapping[str, Any] | None = None
    fail_fast: bool = False
    redeliver: bool = True
    durable: bool = False
    on_disconnect: OnDisconnect = "cancel"
    affinity: str | None = None
    window: int | None = DEFAULT_WINDOW
    trace: Mapping[str, str] | None = None

    def changed(self, changes: JobOptions) -> "Options":
        """These options with some changed. Raises InvalidArgument for one that does not exist."""
        if not changes:
            return self
        unknown = [name for name in changes if name not in _NAMES]
        if unknown:
            text = f"no option {', '.join(unknown)}; there are {', '.join(sorted(_NAMES))}"
            raise exceptions.InvalidArgument(text, reason="invalid_option")
        values: dict[str, Any] = dict(changes)
        if "tools" in values:
            values["tools"] = as_tools(values["tools"])
        return dataclasses.replace(self, **values)


_NAMES: Final = frozenset(field.name for field in dataclasses.fields(Options))


def to_ms(seconds: float, name: str = "timeout_s") -> int:
    """Whole milliseconds, at least 1. Raises InvalidArgument unless the number is finite and above 0."""
    if not isinstance(seconds, int | float) or not math.isfinite(seconds) or seconds <= 0:
        raise exceptions.InvalidArgument(f"`{name}` must be seconds above 0, not {seconds!r}", reason="invalid_option")
    return max(1, math.ceil(seconds * 1_000))


def submit_event(
    program: str,
    inputs: Mapping[str, Any],
    options: Options,
    *,
    job_id: str,
    stream: bool,
    watch: Collection[Watch],
    resume: bool,
) -> OpenJob:
    """The event that starts a job. Raises InvalidArgument, naming what is wrong."""
    timeout_ms = to_ms(options.timeout_s)
    if not isinstance(inputs, Mapping):
        text = f"inputs must be a mapping from names to values, not {type(inputs).__name__}"
        raise exceptions.InvalidArgument(text, reason="invalid_inputs")
    spec: dict[str, Any] | None = None
    if "->" in program:
        spec = {"signature": program, "kind": options.kind}
        if options.instructions is not None:
            spec["instructions"] = options.instructions
        if options.max_iters is not None:
            spec["max_iters"] = options.max_iters
    message = Submit(
        job=job_id,
        program=INLINE if spec else program,
        timeout_ms=timeout_ms,
        revision=options.revision,
        profile=options.profile,
        lane=options.lane,
        priority=options.priority,
        want=_want(stream, watch, options),
        window=options.window if stream else None,
        on_disconnect=options.on_disconnect,
        fail_fast=options.fail_fast,
        redeliver=options.redeliver,
        durable=options.durable,
        affinity=options.affinity,
        trace=dict(options.trace) if options.trace else None,
    )
    _check(message)
    try:
        config = dict(options.config) if options.config else None
        tools = [tool.spec for tool in options.tools] or None
        body = encode_body(inputs=dict(inputs), spec=spec, config=config, tools=tools)
    except ProtocolError as problem:
        raise exceptions.from_protocol_error(problem) from None
    return OpenJob(message, body, timeout_ms, resume)


def attach_event(job_id: str, options: Options, *, stream: bool, watch: Collection[Watch]) -> OpenJob:
    """The event that joins a job whose inputs are not at hand. Raises InvalidArgument."""
    timeout_ms = to_ms(options.timeout_s)
    message = Attach(job=job_id, want=_want(stream, watch, options), window=options.window if stream else None)
    _check(message)
    return OpenJob(message, b"", timeout_ms)


def _want(stream: bool, watch: Collection[Watch], options: Options) -> list[Want]:
    want: list[Want] = [*dict.fromkeys(watch)]
    if stream:
        want.append("chunks")
    if options.tools:
        want.append("tools")
    return want


def _check(message: Submit | Attach) -> None:
    """Let the protocol's own types look at it: what the broker would refuse is refused here."""
    try:
        header = encode_header(message)
        _checker.decode(header)
    except (msgspec.ValidationError, ProtocolError) as problem:
        raise exceptions.InvalidArgument(str(problem), reason="bad_header", job=message.job) from None
    if len(header) > _MAX_HEADER_BYTES:
        text = f"the header takes {len(header)} bytes, the limit is {_MAX_HEADER_BYTES}; shorten `trace`"
        raise exceptions.ResourceExhausted(text, reason="header_too_large", job=message.job)
