"""What the gate of an LM profile says to do, its settings, and its states."""

import enum
from typing import NamedTuple

import msgspec

from dspymq.worker.gate_messages import Mode


class GateSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What an operator chose. `circuit_failures` 0: never open; not `adaptive`: no limit after a pause."""

    circuit_failures: int = 5
    circuit_open_ms: int = 5_000
    adaptive: bool = True


class State(enum.Enum):
    """What a gate does with calls."""

    FREE = "free"
    THROTTLED = "throttled"
    OPEN = "open"


class Grant(NamedTuple):
    """This call may go out; its end is reported under `rid` if it is `counted`. `ticket` is its place in the row."""

    executor: str
    rid: str
    serial: int
    ticket: int
    counted: bool


class Refuse(NamedTuple):
    """This call may not go out, for a reason of the registry."""

    executor: str
    rid: str
    reason: str
    message: str
    retry_after_ms: int


class Tell(NamedTuple):
    """How the executor is to go about its calls from now on."""

    executor: str
    mode: Mode
    serial: int


class Note(NamedTuple):
    """The gate changed: a line for the operator, at one of the logging module's levels."""

    level: int
    text: str


Step = Grant | Refuse | Tell | Note
