"""The executor's side of the gates of LM profiles (dspymq.worker.supervisor.lm_gate): how calls go out and end.

While a gate is free a call costs no message. All of it is for the thread of the executor's event loop.
"""

import asyncio
import math
from collections.abc import Iterable
from typing import Final, NoReturn

from dspy.lm15 import (
    LM15Error,
    ProviderError,
    RateLimitError,
    ServerError,
    StreamAssemblyError,
    TransportError,
)
from dspy.lm15 import TimeoutError as LMTimeout

from dspymq.worker import gate_messages as g
from dspymq.worker.executor.requests import Refused, Requests
from dspymq.worker.profiles import LMProfile

_FAILED: Final = (TransportError, LMTimeout, ServerError, StreamAssemblyError)
"""What a provider, or the way to it, did wrong."""


CIRCUIT_OPEN: Final = "lm_circuit_open"
"""The reason, and the `provider_code` by which the error is known however often it was wrapped or raised anew."""


class CircuitOpenError(ServerError):  # type: ignore[misc]
    """The provider has failed again and again, and was not called. Programs see DSPy's LMServerError."""

    def __init__(self, message: str, *, retry_after: float | None) -> None:
        super().__init__(message, retry_after=retry_after, provider_code=CIRCUIT_OPEN)


class ThrottledError(RateLimitError):  # type: ignore[misc]
    """The provider throttles, and the call's turn did not come in time. Programs see DSPy's LMRateLimitError."""


def outcome_of(error: BaseException | None) -> g.Outcome:
    """What the end of a call says of its provider."""
    if error is None:
        return "ok"
    if isinstance(error, RateLimitError):
        return "throttled"
    if isinstance(error, _FAILED):
        return "failed"
    return "alive" if isinstance(error, ProviderError) else "neutral"


def retry_after_s(error: BaseException | None) -> float | None:
    """What a provider asked for, in seconds; None if nothing."""
    asked = getattr(error, "retry_after", None)
    if isinstance(asked, int | float) and math.isfinite(asked) and asked >= 0:
        return float(asked)
    return None


class Permit:
    """A call that is at its provider. `grant` names it to the supervisor, None if it did not have to ask."""

    __slots__ = ("grant", "serial", "ticket")

    def __init__(self, serial: int, grant: str | None = None, ticket: int | None = None) -> None:
        self.serial = serial
        self.grant = grant
        self.ticket = ticket


class Gate:
    """One profile's gate."""

    def __init__(self, profile: LMProfile, requests: Requests) -> None:
        self.max_wait_s = profile.max_throttle_wait_s
        self._profile = profile.name
        self._requests = requests
        self._mode: g.Mode = "free"
        self._serial = 0
        self._open: set[Permit] = set()
        self._free = 0
        """Those of them that did not have to ask."""

    def news(self, news: g.News) -> None:
        """The supervisor says how to go on."""
        before, self._mode, self._serial = self._mode, news.mode, news.serial
        if self._mode == "ask":
            if before != "ask":
                self._report("census", self._serial - 1)
        else:
            self._free = len(self._open)
            for permit in self._open:
                permit.grant = None

    def enter(self) -> Permit | None:
        """A call goes out at once; None if it has to `ask`."""
        if self._mode == "ask":
            return None
        permit = Permit(self._serial)
        self._open.add(permit)
        self._free += 1
        return permit

    async def ask(self, *, wait_s: float, left_s: float, retry: bool, ticket: int | None) -> Permit:
        """Wait for the supervisor to let a call out. Raises CircuitOpenError or ThrottledError.

        It waits `wait_s` at most, and its job has `left_s` left. `retry`: it has been at the provider; `ticket` is of
        its last permit.
        """
        ask = g.Ask(
            profile=self._profile,
            wait_ms=max(0, math.floor(wait_s * 1000)),
            left_ms=max(0, math.floor(left_s * 1000)),
            retry=retry,
            ticket=ticket,
        )
        rid, future = self._requests.ask(g.ASK, g.written(ask), self._granted)
        try:
            return await future
        except asyncio.CancelledError:
            if future.cancelled():
                withdraw = g.Withdraw(profile=self._profile, rid=rid)
                self._requests.tell(g.WITHDRAW, g.written(withdraw))
            elif future.exception() is None:
                self.leave(future.result(), asyncio.CancelledError())
            raise
        except Refused as refused:
            _raise(refused)

    def leave(self, permit: Permit, error: BaseException | None) -> None:
        """The call has ended; with `error`, if it did not succeed."""
        self._open.discard(permit)
        self._free -= permit.grant is None
        outcome = outcome_of(error)
        if self._mode != "ask":
            if outcome in ("alive", "neutral") or (outcome == "ok" and self._mode == "free"):
                return
            if outcome == "ok":
                self._mode = "free"
        asked_s = retry_after_s(error)
        self._report(
            outcome,
            permit.serial,
            grant=permit.grant,
            retry_after_ms=None if asked_s is None else math.ceil(asked_s * 1000),
            why=_why(error),
        )

    def _granted(self, rid: str, body: bytes) -> Permit:
        # At once, and not when its task runs again: what comes next on the pipe must find it open.
        leave = g.read(body, g.Leave, "result")
        permit = Permit(leave.serial, rid if leave.counted else None, leave.ticket)
        self._open.add(permit)
        self._free += not leave.counted
        return permit

    def _report(
        self,
        outcome: g.Outcome,
        serial: int,
        *,
        grant: str | None = None,
        retry_after_ms: int | None = None,
        why: str = "",
    ) -> None:
        report = g.Report(
            profile=self._profile,
            outcome=outcome,
            serial=serial,
            free=self._free,
            grant=grant,
            retry_after_ms=retry_after_ms,
            why=why,
        )
        self._requests.tell(g.REPORT, g.written(report))


class Gates:
    """The gates of all profiles of an executor."""

    def __init__(self, profiles: Iterable[LMProfile], requests: Requests) -> None:
        self._gates = {profile.name: Gate(profile, requests) for profile in profiles}

    def get(self, profile: str) -> Gate | None:
        """The gate of a profile."""
        return self._gates.get(profile)

    def news(self, body: bytes) -> None:
        """The supervisor says something of a gate."""
        news = g.read(body, g.News)
        gate = self._gates.get(news.profile)
        if gate is not None:
            gate.news(news)


def _why(error: BaseException | None) -> str:
    if not isinstance(error, LM15Error):
        return "" if error is None else type(error).__name__
    status = f" {error.status}" if error.status is not None else ""
    return f"{type(error).__name__}{status}"


def _raise(refused: Refused) -> NoReturn:
    error = refused.error
    kind = CircuitOpenError if error.reason == CIRCUIT_OPEN else ThrottledError
    asked_s = None if error.retry_after_ms is None else error.retry_after_ms / 1000
    raise kind(error.message, retry_after=asked_s) from None
