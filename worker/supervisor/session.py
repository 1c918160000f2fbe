"""The life of the connection to a broker, without the connection: hello to silence, failover, backoff.

One session at a time, with the first of an ordered list of addresses that welcomes. A new socket for each attempt, so
that nothing of an old session can arrive in a new one. `Session` says what to do; `broker_link` does it.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from dspymq.protocol.messages import Bye, Error, Header, Hello, Ping, Pong, Welcome
from dspymq.protocol.worker_messages import Dispatch

WELCOME_MS: Final = 2_000
"""An attempt that was not welcomed by then has failed."""

BACKOFF_MS: Final = 100
BUSY_BACKOFF_MS: Final = 1_000
"""The longest pause while leases are held."""
IDLE_BACKOFF_MS: Final = 5_000
DEAD_MS: Final = 3_000
"""Silence that ends a session, as long as no broker has said what it wants."""

LOST_SESSION: Final = frozenset({"no_session"})

PROOFS: Final = 1 << 40
"""Numbers of the session's own pings begin here; those of the pool are smaller."""

WRONG_ENDPOINT: Final = "clients connect here, not workers: give the address of the workers' endpoint (--broker)"


class Open(NamedTuple):
    """Connect a new socket to this address and send hello."""

    address: str
    hello: Hello


class Close(NamedTuple):
    """Close the socket; what it still holds is lost."""


class Send(NamedTuple):
    """Send this message."""

    message: Header


class Up(NamedTuple):
    """The session began."""

    welcome: Welcome


class Down(NamedTuple):
    """The session that was up is over."""

    reason: str


class Deliver(NamedTuple):
    """A message for the pool."""

    message: Any


Step = Open | Close | Send | Up | Down | Deliver


class Phase(enum.Enum):
    """Where the connection is."""

    CLOSED = "closed"
    OPENING = "opening"
    UP = "up"


class Session:
    """One broker after another. Times are in milliseconds; `random` gives numbers from 0 to 1."""

    def __init__(self, addresses: Sequence[str], hello: Hello, random: Callable[[], float]) -> None:
        self._addresses = list(addresses)
        self._hello = hello
        self._random = random
        self._index = 0
        self._failures = 0
        self._due_ms = 0
        """CLOSED: when to try; OPENING: until when welcome must come."""
        self._heard_ms = 0
        self._pinged_ms = 0
        self._proved_ms = 0
        """What was said until then the broker has heard: it takes us for dead `dead_ms` later at the earliest."""
        self._asked: dict[int, int] = {}
        """When each ping was sent that has no answer yet, by its number."""
        self._proofs = PROOFS
        self._ping_ms = DEAD_MS // 3
        self.dead_ms = DEAD_MS
        self.phase = Phase.CLOSED
        self.last_failure = ""
        """Why the last attempt failed."""

    @property
    def address(self) -> str:
        """The broker of this, or the next, attempt."""
        return self._addresses[self._index]

    @property
    def stall_ms(self) -> int:
        """A pause of ours, or of the network, that may have cost the session: the broker may have heard us last a whole
        ping before it began."""
        return self.dead_ms - self._ping_ms

    def next_ms(self) -> int:
        """When `tick` is due."""
        if self.phase is Phase.UP:
            return min(self._ping_due_ms(), self._heard_ms + self.dead_ms)
        return self._due_ms

    def tick(self, now_ms: int, *, busy: bool) -> list[Step]:
        """Time passed. `busy`: leases are held, a broker is missed."""
        if self.phase is Phase.CLOSED:
            return self._open(now_ms) if now_ms >= self._due_ms else []
        if self.phase is Phase.OPENING:
            return self._failed(now_ms, "no welcome came", busy=busy) if now_ms >= self._due_ms else []
        if now_ms - self._heard_ms >= self.dead_ms:
            return self._lost(now_ms, f"silent for {now_ms - self._heard_ms} ms")
        if now_ms >= self._ping_due_ms():
            return [self._ask(now_ms)]
        return []

    def received(self, message: Any, now_ms: int, *, busy: bool) -> list[Step]:
        """A message came on the socket that is open."""
        silent_ms = now_ms - self._heard_ms
        self._heard_ms = now_ms
        if self.phase is Phase.UP and silent_ms > self.stall_ms:
            # The connection was cut off, and the broker may have taken us for dead meanwhile: a dispatch that waited
            # in the network may run elsewhere.
            return self._lost(now_ms, f"silent for {silent_ms} ms until now")
        kind = type(message)
        if kind is Ping:
            return [Send(Pong(n=message.n))]
        if kind is Pong and message.n >= PROOFS:
            self._proved_ms = self._asked.pop(message.n, self._proved_ms)
            return []
        if self.phase is Phase.OPENING:
            return self._while_opening(message, now_ms, busy=busy)
        if self.phase is not Phase.UP or kind is Welcome:
            return []
        if kind is Bye:
            return self._lost(now_ms, f"bye {message.reason}")
        if kind is Error and message.reason in LOST_SESSION:
            return self._lost(now_ms, message.reason)
        if kind is Error and message.reason == "wrong_endpoint":
            return [*self._failed(now_ms, WRONG_ENDPOINT, busy=busy), Down(WRONG_ENDPOINT)]
        if kind is Dispatch and now_ms - self._proved_ms >= self.dead_ms:
            # We hear the broker, and cannot know that it hears us: what it gave us long ago may run elsewhere.
            return self._lost(now_ms, f"not heard for {now_ms - self._proved_ms} ms")
        if kind is not Error and kind is not Pong:
            # This broker does more than greet.
            self._failures = 0
            self.last_failure = ""
        return [Deliver(message)]

    def disconnected(self, now_ms: int, *, busy: bool) -> list[Step]:
        """The connection under the socket broke, or was refused.

        The session cannot go on: a new connection is a new route. While opening, a single address is left to the
        socket, which tries again by itself.
        """
        if self.phase is Phase.UP:
            return self._lost(now_ms, "disconnected")
        if self.phase is Phase.OPENING and len(self._addresses) > 1:
            return self._failed(now_ms, "no connection", busy=busy)
        return []

    def restart(self, now_ms: int, reason: str) -> list[Step]:
        """Begin anew at once, with the same broker."""
        if self.phase is Phase.CLOSED:
            return []
        steps: list[Step] = [Close()]
        if self.phase is Phase.UP:
            steps.append(Down(reason))
        self.phase = Phase.CLOSED
        return steps + self._open(now_ms)

    # -- inside -----------------------------------------------------------------------------------------------------

    def _ping_due_ms(self) -> int:
        """However much is said besides: a ping is proof that what was said before it was heard."""
        return self._pinged_ms + self._ping_ms

    def _ask(self, now_ms: int) -> Step:
        self._pinged_ms = now_ms
        self._proofs += 1
        self._asked = {n: at_ms for n, at_ms in self._asked.items() if now_ms - at_ms < self.dead_ms}
        self._asked[self._proofs] = now_ms
        return Send(Ping(n=self._proofs))

    def _open(self, now_ms: int) -> list[Step]:
        self.phase = Phase.OPENING
        self._due_ms = now_ms + WELCOME_MS
        self._heard_ms = self._proved_ms = now_ms
        self._asked.clear()
        return [Open(self.address, self._hello)]

    def _while_opening(self, message: Any, now_ms: int, *, busy: bool) -> list[Step]:
        if isinstance(message, Welcome):
            self.phase = Phase.UP
            self._ping_ms = message.ping_ms
            self.dead_ms = message.dead_ms
            # Answered before anything is dispatched, which comes after `ready`.
            return [self._ask(now_ms), Up(message)]
        if isinstance(message, Error):
            return self._failed(now_ms, f"refused: {message.code} {message.reason}", busy=busy)
        if isinstance(message, Bye):
            return self._failed(now_ms, f"bye {message.reason}", busy=busy)
        return []

    def _lost(self, now_ms: int, reason: str) -> list[Step]:
        self.phase = Phase.CLOSED
        self._index = 0
        self._failures = 0
        # All workers lose a broker at the same moment, and should not come back at the same moment.
        self._due_ms = now_ms + int(BACKOFF_MS * self._random())
        return [Close(), Down(reason)]

    def _failed(self, now_ms: int, reason: str, *, busy: bool) -> list[Step]:
        self.phase = Phase.CLOSED
        self._failures += 1
        self._index = (self._index + 1) % len(self._addresses)
        pause = 0.0
        if self._index == 0:
            rounds = self._failures // len(self._addresses)
            longest = BUSY_BACKOFF_MS if busy else IDLE_BACKOFF_MS
            pause = min(longest, BACKOFF_MS << min(rounds, 10)) * (0.5 + 0.5 * self._random())
        self._due_ms = now_ms + int(pause)
        self.last_failure = reason
        return [Close()]
