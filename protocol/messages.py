"""Field types, bases, and the messages that both endpoints share (SPEC section 4).

`client_messages` and `worker_messages` hold the rest: one tagged union an endpoint, since job messages have twins
that name a `job` towards clients and a `lease` towards workers. Optional fields that are not set are left out.
"""

from typing import Annotated, Any, Literal

import msgspec

from dspymq.protocol.errors import REASONS, Code, ProtocolError
from dspymq.protocol.ids import Id
from dspymq.protocol.limits import Count, Limits, Positive

Text = Annotated[str, msgspec.Meta(max_length=4096)]
"""Words for people: a message, a note, a reason."""

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
"""A name that people choose: program, lane, profile, tool, method."""

Want = Literal["accepted", "started", "progress", "chunks", "tools"]
Cause = Literal["cancel", "deadline", "fenced"]
ReleaseCause = Literal["drain", "crash", "stall", "capacity"]
Blame = Literal["self", "shared", "none"]
Details = dict[str, Any]


class Header(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="t", gc=False):
    """Base of every message."""


class Hello(Header, tag="hello", frozen=True, kw_only=True):
    """The first message of a peer."""

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=64, pattern=r"^[ -~]+\Z")]
    lang: Annotated[str, msgspec.Meta(max_length=64)] = ""
    features: list[Name] = []
    auth: Annotated[str, msgspec.Meta(max_length=4096)] | None = None


class Welcome(Header, tag="welcome", frozen=True, kw_only=True):
    """The answer to hello: who answers, and the bounds of everything that waits."""

    epoch: Id
    session: Id
    features: list[Name] = []
    ping_ms: Positive
    dead_ms: Positive
    adopt_ms: Count
    orphan_ms: Count
    retain_ms: Count
    limits: Limits


class Ping(Header, tag="ping", frozen=True, kw_only=True):
    """Are you there; answered at once by `pong` with the same `n`."""

    n: Count = 0


class Pong(Header, tag="pong", frozen=True, kw_only=True):
    """The answer to ping."""

    n: Count = 0


class Bye(Header, tag="bye", frozen=True, kw_only=True):
    """The session ends on purpose."""

    reason: Text = ""


class Error(Header, tag="error", frozen=True, kw_only=True):
    """A message was refused and nothing changed. This form is frozen for all versions; it is never answered."""

    code: Name
    reason: Name
    message: Text = ""
    retryable: bool = False
    retry_after_ms: Count | None = None
    rid: str | None = None
    job: str | None = None
    lease: str | None = None
    details: Details | None = None


class Request(Header, tag="request", frozen=True, kw_only=True):
    """Ask the broker something; the body is {params}. Answered by `reply` or by `error` with this `rid`."""

    rid: Id
    method: Name


class Reply(Header, tag="reply", frozen=True, kw_only=True):
    """The answer to a request; the body is {result}."""

    rid: Id


class ModelUsage(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """Tokens of one model, and the cost in US dollars where the LM's price is known."""

    input_tokens: Count = 0
    output_tokens: Count = 0
    cost: Annotated[float, msgspec.Meta(ge=0, le=1e12)] | None = None


class Usage(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What one attempt used: LM calls, and tokens by model."""

    calls: Count = 0
    models: dict[str, ModelUsage] = {}


class Timings(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """Milliseconds of one attempt: in the broker's queue, in the program, of that at the LM."""

    queued_ms: Count | None = None
    run_ms: Count | None = None
    lm_ms: Count | None = None


class StartedFields(Header, frozen=True, kw_only=True):
    """The attempt runs; `worker` is the process that runs it, for people."""

    attempt: Count
    revision: Name
    worker: Text


class ChunkFields(Header, frozen=True, kw_only=True):
    """Text by output field, {fields: {name: text}}; `reset` replaces all that came before."""

    attempt: Count
    seq: Count
    reset: bool = False


class ProgressFields(Header, frozen=True, kw_only=True):
    """How far the attempt is; lossy, the newest wins."""

    attempt: Count
    done: Count | None = None
    total: Count | None = None
    note: Text | None = None


class CreditFields(Header, frozen=True, kw_only=True):
    """Absolute credit: chunks of this attempt with seq < upto may be sent."""

    attempt: Count
    upto: Count


class ResultFields(Header, frozen=True, kw_only=True):
    """The only terminal of a job."""

    attempt: Count
    code: Name
    reason: Name | None = None
    message: Text | None = None
    retryable: bool = False
    retry_after_ms: Count | None = None
    details: Details | None = None
    chunks: Count = 0
    usage: Usage | None = None
    timings: Timings | None = None
    revision: Name | None = None


class ToolCallFields(Header, frozen=True, kw_only=True):
    """The program calls a tool of its client; the body is {args}."""

    attempt: Count
    call: Count
    name: Name
    timeout_ms: Count


class ToolResultFields(Header, frozen=True, kw_only=True):
    """What the tool gave; the body is {value}."""

    attempt: Count
    call: Count
    code: Name
    message: Text | None = None


def error_answer(problem: ProtocolError) -> Error:
    """The `error` that answers a refused message."""
    return Error(
        code=problem.code,
        reason=problem.reason,
        message=problem.message[:4096],
        retryable=problem.retryable,
        retry_after_ms=problem.retry_after_ms,
        rid=problem.rid,
        job=problem.job,
        lease=problem.lease,
        details=problem.details,
    )


def is_registered(code: str, reason: str) -> bool:
    """Whether the registry has this reason under this code."""
    return reason in REASONS and REASONS[reason].code == Code(code)
