"""The messages of the workers' endpoint: `Message` is their tagged union (SPEC section 4)."""

from typing import Annotated, Literal

import msgspec

from dspymq.protocol import messages as m
from dspymq.protocol.ids import Id
from dspymq.protocol.limits import MAX_ACKS, MAX_HELD, Count, Positive
from dspymq.protocol.messages import Bye, Error, Hello, Ping, Pong, Reply, Request, Welcome


class Offer(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A program that a worker runs, at one revision."""

    name: m.Name
    revision: m.Name


class Held(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A lease that a worker still has: running, or done and not yet acked. `left_ms` of its deadline."""

    lease: Id
    ns: str
    job: Id
    attempt: Count
    digest: str
    state: Literal["running", "done"]
    lane: m.Name = "default"
    seq: Count = 0
    left_ms: Count = 0


class Ready(m.Header, tag="ready", frozen=True, kw_only=True):
    """What the worker offers; the body describes its programs.

    `held` is there in the first `ready` of a session (and again after a stall of the worker's own): a page of the
    leases it holds, answered by `synced`. Left out, the message only replaces slots, programs and profiles.
    """

    worker: Id
    slots: dict[str, Count]
    programs: list[Offer] = []
    profiles: list[m.Name] = []
    held: Annotated[list[Held], msgspec.Meta(max_length=MAX_HELD)] | None = None
    more: bool = False


class Synced(m.Header, tag="synced", frozen=True, kw_only=True):
    """The answer to a page of held: go on with these, drop the rest of that page."""

    keep: list[Id] = []


class Dispatch(m.Header, tag="dispatch", frozen=True, kw_only=True):
    """Run this job under this lease; the body is the submit's."""

    lease: Id
    ns: str
    job: Id
    attempt: Positive
    digest: str
    program: m.Name
    revision: m.Name
    timeout_ms: Count
    profile: m.Name | None = None
    lane: m.Name = "default"
    want: list[m.Want] = []
    window: Positive | None = None
    isolate: bool = False
    defined: bool = False
    trace: dict[str, str] | None = None


class Attach(m.Header, tag="attach", frozen=True, kw_only=True):
    """The client of this lease attached again: take its want and window, send what it must see."""

    lease: Id
    want: list[m.Want] = []
    window: Positive | None = None


class Started(m.StartedFields, tag="started", frozen=True, kw_only=True):
    """Only if wanted; a first chunk, progress or tool_call implies it."""

    lease: Id


class Chunk(m.ChunkFields, tag="chunk", frozen=True, kw_only=True):
    """A piece of the stream, within credit."""

    lease: Id


class Progress(m.ProgressFields, tag="progress", frozen=True, kw_only=True):
    """If wanted."""

    lease: Id


class Credit(m.CreditFields, tag="credit", frozen=True, kw_only=True):
    """The client can take more."""

    lease: Id


class Cancel(m.Header, tag="cancel", frozen=True, kw_only=True):
    """Stop this attempt and answer with its result within `grace_ms`."""

    lease: Id
    cause: m.Cause
    grace_ms: Count


class Result(m.ResultFields, tag="result", frozen=True, kw_only=True):
    """The attempt's end."""

    lease: Id


class Ack(m.Header, tag="ack", frozen=True, kw_only=True):
    """I have these results: forget them."""

    leases: Annotated[list[Id], msgspec.Meta(max_length=MAX_ACKS)]


class ToolCall(m.ToolCallFields, tag="tool_call", frozen=True, kw_only=True):
    """Ask the client of this lease."""

    lease: Id


class ToolResult(m.ToolResultFields, tag="tool_result", frozen=True, kw_only=True):
    """The client's answer."""

    lease: Id


class Released(m.Header, tag="released", frozen=True, kw_only=True):
    """The lease is given back; also how a worker refuses a dispatch."""

    lease: Id
    started: bool
    cause: m.ReleaseCause
    blame: m.Blame = "none"
    details: m.Details | None = None


class Drain(m.Header, tag="drain", frozen=True, kw_only=True):
    """Finish or release what you have; stay connected, take nothing new."""

    grace_ms: Count


FromWorker = (
    Hello | Ping | Pong | Bye | Error | Ready | Started | Chunk | Progress | Result | ToolCall | Released | Request
)
"""What a worker may send (an `error` is taken and never answered)."""

FromBroker = (
    Welcome
    | Ping
    | Pong
    | Bye
    | Error
    | Synced
    | Dispatch
    | Attach
    | Credit
    | Cancel
    | Ack
    | ToolResult
    | Drain
    | Reply
)
"""What a broker sends to workers."""

Message = (
    Hello
    | Welcome
    | Ping
    | Pong
    | Bye
    | Error
    | Ready
    | Synced
    | Dispatch
    | Attach
    | Started
    | Chunk
    | Progress
    | Credit
    | Cancel
    | Result
    | Ack
    | ToolCall
    | ToolResult
    | Released
    | Request
    | Reply
    | Drain
)
