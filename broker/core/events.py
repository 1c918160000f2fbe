"""What can happen to a broker: the inputs of `BrokerCore.handle`."""

from typing import NamedTuple

from dspymq.protocol import client_messages, worker_messages
from dspymq.protocol.errors import ProtocolError


class OneShot(NamedTuple):
    """A REQ peer for the length of one question: its route, and the envelope to echo (SPEC section 3.6)."""

    route: bytes
    envelope: tuple[bytes, ...]


ClientPeer = bytes | OneShot
"""How the clients' endpoint names a peer; bytes are a ROUTER's routing id."""


class ClientMessage(NamedTuple):
    """A decoded message came in at the clients' endpoint."""

    peer: ClientPeer
    message: client_messages.Message
    body: bytes


class WorkerMessage(NamedTuple):
    """A decoded message came in at the workers' endpoint."""

    peer: bytes
    message: worker_messages.Message
    body: bytes


class BadClientMessage(NamedTuple):
    """Frames at the clients' endpoint that are no message."""

    peer: ClientPeer
    problem: ProtocolError


class BadWorkerMessage(NamedTuple):
    """Frames at the workers' endpoint that are no message."""

    peer: bytes
    problem: ProtocolError


class ClientUnreachable(NamedTuple):
    """The clients' socket no longer knows this route."""

    peer: ClientPeer


class WorkerUnreachable(NamedTuple):
    """The workers' socket no longer knows this route."""

    peer: bytes


class SlowConsumer(NamedTuple):
    """A client does not read: what waited for it was over the bound, and is gone."""

    peer: ClientPeer


class SlowWorker(NamedTuple):
    """The same of a worker."""

    peer: bytes


class RoundOver(NamedTuple):
    """A bounded round of receives ended: what was gathered for batching goes out."""


class Stalled(NamedTuple):
    """The broker itself stood still (suspend, SIGSTOP) for `for_ms`, and has drained its sockets since.

    The silence of others in that time proves nothing.
    """

    for_ms: int = 0


class Tick(NamedTuple):
    """Time passed; after a stall of its own the shell says Stalled before."""


class Shutdown(NamedTuple):
    """The broker ends: tell everybody."""


Event = (
    ClientMessage
    | WorkerMessage
    | BadClientMessage
    | BadWorkerMessage
    | ClientUnreachable
    | WorkerUnreachable
    | SlowConsumer
    | SlowWorker
    | RoundOver
    | Stalled
    | Tick
    | Shutdown
)
