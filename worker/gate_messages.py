"""What executors and their supervisor say to each other about the gates of LM profiles, in `request` and `reply`.

An executor asks (`ASK`) and is answered by a `reply` with a `Leave`, or by an `error` with a reason of the registry.
`REPORT`, `WITHDRAW` and `NEWS` (from the supervisor) are not answered. No dspy import, no zmq.
"""

from typing import Final, Literal, TypeVar

import msgspec

from dspymq.protocol import body as bodies

ASK: Final = "lm_gate.ask"
REPORT: Final = "lm_gate.report"
WITHDRAW: Final = "lm_gate.withdraw"
NEWS: Final = "lm_gate.news"

Mode = Literal["free", "watch", "ask"]
"""Calls go out and troubles are reported; the next success is reported, too; each call asks, each end is reported."""

Outcome = Literal["ok", "alive", "throttled", "failed", "neutral", "census"]
"""An answer; a refusal that is the request's own fault; a 429; the provider's own failure; nothing was learnt (a call
that was stopped, or that never reached the provider); no call has ended, this only says how many are open."""


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """May a call of this profile go out? It waits `wait_ms` at most, its job has `left_ms` left.

    `retry`: it has been at the provider before; `ticket` is its place in the row from then.
    """

    profile: str
    wait_ms: int
    left_ms: int
    retry: bool = False
    ticket: int | None = None


class Leave(msgspec.Struct, frozen=True, kw_only=True):
    """It may. `serial` is for its report; a `counted` one is reported under the request's rid, however it ends."""

    serial: int
    ticket: int
    counted: bool


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """How a call ended. `grant` is the rid under which it was granted, None if it began without.

    `serial` is that of its begin. `free` is how many calls that began without are still open here. `why` is for
    people: a kind of error, nothing that a provider wrote.
    """

    profile: str
    outcome: Outcome
    serial: int
    free: int
    grant: str | None = None
    retry_after_ms: int | None = None
    why: str = ""


class Withdraw(msgspec.Struct, frozen=True, kw_only=True):
    """The call that asked under this rid does not want its leave any more."""

    profile: str
    rid: str


class News(msgspec.Struct, frozen=True, kw_only=True):
    """How calls of this profile go out from now on, and the serial of those that ask nobody."""

    profile: str
    mode: Mode
    serial: int


T = TypeVar("T", Ask, Leave, Report, Withdraw, News)


def written(message: Ask | Report | Withdraw | News) -> bytes:
    """The body of a request that says this."""
    return bodies.encode(params=msgspec.to_builtins(message))


def read(body: bytes, kind: type[T], key: str = "params") -> T:
    """What a body says. Raises msgspec.ValidationError or ProtocolError."""
    return msgspec.convert(bodies.part(body, key), kind)
