"""The messages of the clients' endpoint: `Message` is their tagged union (SPEC section 4)."""

from typing import Annotated, Literal

import msgspec

from dspymq.protocol import messages as m
from dspymq.protocol.ids import Id
from dspymq.protocol.limits import MAX_ACKS, Count, Positive
from dspymq.protocol.messages import Bye, Error, Hello, Ping, Pong, Reply, Request, Welcome

OnDisconnect = Literal["cancel", "keep"]
JobState = Literal["queued", "dispatched", "running", "cancelling", "done"]
Priority = Annotated[int, msgspec.Meta(ge=0, le=9)]

DEFAULT_PRIORITY = 4


class Submit(m.Header, tag="submit", frozen=True, kw_only=True):
    """Run a program; sent again, with the same content, it attaches to the same job."""

    job: Id
    program: m.Name
    timeout_ms: Positive
    revision: m.Name | None = None
    profile: m.Name | None = None
    lane: m.Name = "default"
    priority: Priority = DEFAULT_PRIORITY
    want: list[m.Want] = []
    window: Positive | None = None
    on_disconnect: OnDisconnect = "cancel"
    fail_fast: bool = False
    redeliver: bool = True
    durable: bool = False
    affinity: Id | None = None
    known_epoch: Id | None = None
    trace: dict[str, str] | None = None


class Attach(m.Header, tag="attach", frozen=True, kw_only=True):
    """Join a job whose inputs are not at hand; answered by accepted or error."""

    job: Id
    want: list[m.Want] = []
    window: Positive | None = None


class Accepted(m.Header, tag="accepted", frozen=True, kw_only=True):
    """Where the job stands; `missing` names what no worker offers now."""

    job: Id
    state: JobState
    attempt: Count
    duplicate: bool = False
    waiting: bool = False
    missing: list[str] = []


class Started(m.StartedFields, tag="started", frozen=True, kw_only=True):
    """Only if wanted."""

    job: Id


class Chunk(m.ChunkFields, tag="chunk", frozen=True, kw_only=True):
    """A piece of the stream, if wanted."""

    job: Id


class Progress(m.ProgressFields, tag="progress", frozen=True, kw_only=True):
    """If wanted."""

    job: Id


class Credit(m.CreditFields, tag="credit", frozen=True, kw_only=True):
    """The client can take more."""

    job: Id


class Cancel(m.Header, tag="cancel", frozen=True, kw_only=True):
    """Stop the job; answered by its one result."""

    job: Id


class Result(m.ResultFields, tag="result", frozen=True, kw_only=True):
    """The job's end; the body of an OK is {outputs}."""

    job: Id


class Ack(m.Header, tag="ack", frozen=True, kw_only=True):
    """I have these results: forget them."""

    jobs: Annotated[list[Id], msgspec.Meta(max_length=MAX_ACKS)]


class ToolCall(m.ToolCallFields, tag="tool_call", frozen=True, kw_only=True):
    """If `tools` is wanted."""

    job: Id


class ToolResult(m.ToolResultFields, tag="tool_result", frozen=True, kw_only=True):
    """A second one for a call is ignored."""

    job: Id


class Event(m.Header, tag="event", frozen=True, kw_only=True):
    """Something a subscription waits for; a gap in `seq` means dropped. `at_ms` is Unix time."""

    sub: Id
    seq: Count
    kind: m.Name
    at_ms: Count


FromClient = Hello | Ping | Pong | Bye | Error | Submit | Attach | Credit | Cancel | Ack | ToolResult | Request
"""What a client may send (an `error` is taken and never answered)."""

FromBroker = (
    Welcome | Ping | Pong | Bye | Error | Accepted | Started | Chunk | Progress | Result | ToolCall | Reply | Event
)
"""What a broker sends to clients."""

Message = (
    Hello
    | Welcome
    | Ping
    | Pong
    | Bye
    | Error
    | Submit
    | Attach
    | Accepted
    | Started
    | Chunk
    | Progress
    | Credit
    | Cancel
    | Result
    | Ack
    | ToolCall
    | ToolResult
    | Request
    | Reply
    | Event
)
