"""What a broker does: the outputs of `BrokerCore.handle`, for the shell to carry out in order."""

from typing import NamedTuple

from dspymq.broker.core.events import ClientPeer
from dspymq.protocol.messages import Header


class ToClient(NamedTuple):
    """Send at the clients' endpoint."""

    peer: ClientPeer
    message: Header
    body: bytes = b""


class ToWorker(NamedTuple):
    """Send at the workers' endpoint."""

    peer: bytes
    message: Header
    body: bytes = b""


class DropClient(NamedTuple):
    """This session is over: nothing that still waits for the peer is sent."""

    peer: ClientPeer


class DropWorker(NamedTuple):
    """This session is over: nothing that still waits for the peer is sent."""

    peer: bytes


class Log(NamedTuple):
    """One line for the operator; `level` is one of the logging module's numbers."""

    level: int
    text: str


Effect = ToClient | ToWorker | DropClient | DropWorker | Log
