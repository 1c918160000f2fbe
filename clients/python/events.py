"""What goes into the client's core and what comes out of it.

Inputs are what happened: a call of the API, a message, a lost link, time. Outputs are what a driver must do. Times
are milliseconds of one monotonic clock. All are values: nothing here is changed after it was made.
"""

from collections.abc import Sequence
from typing import Any

import msgspec

from dspymq.chunks import Chunk
from dspymq.exceptions import DspymqError
from dspymq.prediction import Prediction
from dspymq.protocol.client_messages import (
    Accepted,
    Attach,
    FromClient,
    Message,
    Progress,
    Started,
    Submit,
)
from dspymq.protocol.errors import ProtocolError
from dspymq.protocol.messages import Welcome
from dspymq.tool_calls import Answer


class OpenJob(msgspec.Struct, frozen=True, gc=False):
    """Run this job, or attach to it, and see it through until its one end.

    `resume` says that an earlier process may have sent this id already (`known_epoch` becomes `unknown`).
    """

    message: Submit | Attach
    body: bytes
    timeout_ms: int
    resume: bool = False


class CancelJob(msgspec.Struct, frozen=True, gc=False):
    """Stop the job; it ends with what its result says."""

    job: str


class ReadChunk(msgspec.Struct, frozen=True, gc=False):
    """The reader of a stream has taken the chunk `seq` of this attempt."""

    job: str
    attempt: int
    seq: int


class Subscribe(msgspec.Struct, frozen=True, gc=False):
    """Hear of these kinds of events, under a key that is this client's own."""

    key: str
    kinds: Sequence[str]


class Unsubscribe(msgspec.Struct, frozen=True, gc=False):
    """Hear no more of them."""

    key: str


class AnswerTool(msgspec.Struct, frozen=True, gc=False):
    """A tool was run: the answer of the run that `ToolCalled` named."""

    job: str
    run: int
    answer: Answer


class AskBroker(msgspec.Struct, frozen=True, gc=False):
    """Send a request, answered by `Answered` under the same `rid`."""

    rid: str
    method: str
    body: bytes
    timeout_ms: int


class PingBroker(msgspec.Struct, frozen=True, gc=False):
    """See that a broker answers; `Answered` under this `rid` says so (None, or the error)."""

    rid: str
    timeout_ms: int


class CloseClient(msgspec.Struct, frozen=True, gc=False):
    """End everything: open jobs and requests fail with ClientClosed."""


class Received(msgspec.Struct, frozen=True, gc=False):
    """A message of the broker."""

    message: Message
    body: bytes = b""


class Garbled(msgspec.Struct, frozen=True, gc=False):
    """Frames that are no message."""

    problem: ProtocolError


class LinkDown(msgspec.Struct, frozen=True, gc=False):
    """The transport knows that the connection is gone, or could not be made."""

    reason: str = "connection lost"


class Tick(msgspec.Struct, frozen=True, gc=False):
    """Time has passed; due whenever `ClientCore.wake_at_ms()` says so."""


Input = (
    OpenJob
    | CancelJob
    | ReadChunk
    | AnswerTool
    | Subscribe
    | Unsubscribe
    | AskBroker
    | PingBroker
    | CloseClient
    | Received
    | Garbled
    | LinkDown
    | Tick
)


class Connect(msgspec.Struct, frozen=True, gc=False):
    """Close the link, if there is one, and open one to this address."""

    address: str


class Disconnect(msgspec.Struct, frozen=True, gc=False):
    """Close the link; what was sent may take `linger_ms` to leave."""

    linger_ms: int = 0


class Send(msgspec.Struct, frozen=True, gc=False):
    """Send this over the link, in order, once it can take it."""

    message: FromClient
    body: bytes = b""


class JobUpdated(msgspec.Struct, frozen=True, gc=False):
    """Where a job stands."""

    job: str
    message: Accepted | Started | Progress


class JobText(msgspec.Struct, frozen=True, gc=False):
    """Text of a job's stream, in order, for its reader."""

    job: str
    chunks: Sequence[Chunk]


class ToolCalled(msgspec.Struct, frozen=True, gc=False):
    """The program calls a tool: run it, and say how that went by `AnswerTool` with this `run`. `body` is {args}."""

    job: str
    run: int
    name: str
    body: bytes
    timeout_ms: int


class ToolsVoid(msgspec.Struct, frozen=True, gc=False):
    """The job was begun anew: nobody waits for what its tools are running."""

    job: str


class SubscriptionReady(msgspec.Struct, frozen=True, gc=False):
    """The broker has taken it."""

    key: str


class EventArrived(msgspec.Struct, frozen=True, gc=False):
    """An event of a subscription: a `subscriptions.BrokerEvent`."""

    key: str
    event: Any


class SubscriptionEnded(msgspec.Struct, frozen=True, gc=False):
    """There will be no more events."""

    key: str
    error: DspymqError


class JobEnded(msgspec.Struct, frozen=True, gc=False):
    """The one end of a job."""

    job: str
    value: Prediction | DspymqError


class Answered(msgspec.Struct, frozen=True, gc=False):
    """The answer to a request or ping."""

    rid: str
    value: Any


class SessionUp(msgspec.Struct, frozen=True, gc=False):
    """A broker said welcome; `restarted` when it is another epoch than before."""

    address: str
    welcome: Welcome
    restarted: bool


class SessionDown(msgspec.Struct, frozen=True, gc=False):
    """The session is over; the core looks for another if there is work."""

    address: str
    reason: str


Output = (
    Connect
    | Disconnect
    | Send
    | JobUpdated
    | JobText
    | ToolCalled
    | ToolsVoid
    | JobEnded
    | Answered
    | SubscriptionReady
    | EventArrived
    | SubscriptionEnded
    | SessionUp
    | SessionDown
)
