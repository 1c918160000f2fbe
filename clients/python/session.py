"""The client's session: hello and welcome, life, failover and backoff (SPEC sections 3 and 4). Pure.

One pass tries the addresses in their order, each for a bounded time; between passes it waits, jittered and at most
BACKOFF_MAX_MS. Without work there is no session to look for: the next job or request does that.
"""

import enum
from collections.abc import Callable, Sequence
from typing import Final

from dspymq.events import Connect, Disconnect, Output, Send, SessionDown, SessionUp
from dspymq.protocol.limits import Limits
from dspymq.protocol.messages import Bye, Error, Hello, Ping, Welcome
from dspymq.timers import Timers

BACKOFF_MIN_MS: Final = 50
BACKOFF_MAX_MS: Final = 1_000
GREETING_MIN_MS: Final = 1_000
GREETING_MAX_MS: Final = 5_000
"""How long one address may take to say welcome: the minimum in the first pass, doubled with each, so that a second
address is soon tried and a slow broker is not given up for ever."""
STALL_MS: Final = 500
"""A tick that comes so much late says that this process stood still."""
SECOND_LOOK_MS: Final = 1_000
"""After such a stall the peer's silence proves nothing for so long: what it sent is drained first."""


class State(enum.Enum):
    """Where the session stands."""

    IDLE = "idle"
    GREETING = "greeting"
    LIVE = "live"
    WAITING = "waiting"
    CLOSED = "closed"


class SessionHooks:
    """What a session tells its owner; each is called at most once a change."""

    def session_up(self, restarted: bool) -> None:
        """Welcome came: what is open may be sent."""

    def session_down(self) -> None:
        """What was sent in the session may be lost."""

    def refused(self, error: Error) -> None:
        """No address of the list takes this client, for good."""

    def is_busy(self) -> bool:
        """Whether there is anything to wait for."""
        return False


class Session:
    """See the module. `emit` takes the outputs, `random` gives numbers in [0, 1)."""

    def __init__(
        self,
        addresses: Sequence[str],
        hello: Hello,
        *,
        timers: Timers,
        hooks: SessionHooks,
        emit: Callable[[Output], None],
        random: Callable[[], float],
    ) -> None:
        if not addresses:
            raise ValueError("a client needs at least one address")
        self.addresses = tuple(addresses)
        self.state = State.IDLE
        self.epoch: str | None = None
        self.limits = Limits()
        self.last_failure = ""
        self._welcome: Welcome | None = None
        self._hello = hello
        self._timers = timers
        self._hooks = hooks
        self._emit = emit
        self._random = random
        self._index = 0
        self._passes = 0
        self._fruitful = False
        self._refusals: list[Error] = []
        self._heard_at = 0
        self._sent_at = 0
        self._judge_from = 0

    @property
    def live(self) -> bool:
        """Whether messages that need a session may be sent."""
        return self.state is State.LIVE

    @property
    def address(self) -> str:
        """The address in use, or tried last."""
        return self.addresses[self._index]

    def want(self, now_ms: int) -> None:
        """There is work: connect, unless that is under way."""
        if self.state is State.IDLE:
            self._passes = 0
            self._start_pass(now_ms)

    def sent(self, now_ms: int) -> None:
        """Something was sent."""
        self._sent_at = now_ms

    def heard(self, now_ms: int, *, fruitful: bool) -> None:
        """A message came; a fruitful one shows that this broker does more than greet."""
        self._heard_at = now_ms
        self._fruitful = self._fruitful or fruitful

    def welcomed(self, welcome: Welcome, now_ms: int) -> None:
        """`welcome` came."""
        if self.state is State.LIVE and self._welcome is not None and self._welcome.session == welcome.session:
            return
        if self.state not in (State.GREETING, State.LIVE):
            return
        again = self.state is State.LIVE
        restarted = self.epoch is not None and self.epoch != welcome.epoch
        self.state = State.LIVE
        self.epoch = welcome.epoch
        self.limits = welcome.limits
        self._welcome = welcome
        self._fruitful = False
        self._timers.cancel("greeting")
        self._timers.set("life", now_ms + min(welcome.ping_ms, welcome.dead_ms))
        self._emit(SessionUp(self.address, welcome, restarted))
        if again:
            self._hooks.session_down()
        self._hooks.session_up(restarted)

    def unknown(self, now_ms: int) -> None:
        """`no_session`: the broker does not know this session (it was restarted). Greet it again on this link.

        A storm of them, one for each message that was under way, costs one hello; a broker that greets and then
        still does not know the session is left, with backoff.
        """
        if self.state is not State.LIVE:
            return
        if not self._fruitful:
            self.lost("the broker forgets its sessions", now_ms)
            return
        self._timers.cancel("life")
        self._emit(SessionDown(self.address, "no_session"))
        self._hooks.session_down()
        self._greet(now_ms)

    def not_greeted(self, error: Error, now_ms: int) -> None:
        """An `error` that answers hello."""
        if self.state is not State.GREETING:
            return
        self.last_failure = f"{error.code}/{error.reason}: {error.message}"
        if not error.retryable:
            self._refusals.append(error)
        self._failed(now_ms)

    def lost(self, reason: str, now_ms: int) -> None:
        """The link or the session is gone."""
        if self.state is State.GREETING:
            self.last_failure = reason
            self._failed(now_ms)
        elif self.state is State.LIVE:
            self.last_failure = reason
            self.state = State.WAITING
            self._timers.cancel("life")
            self._emit(SessionDown(self.address, reason))
            self._emit(Disconnect())
            self._hooks.session_down()
            if self._fruitful:
                self._passes = 0
                self._start_pass(now_ms)
            else:
                self._wait(now_ms)

    def close(self, reason: str) -> None:
        """Say bye, if there is anybody, and never connect again."""
        if self.state is State.LIVE:
            self._emit(Send(Bye(reason=reason)))
            self._emit(Disconnect(linger_ms=500))
        elif self.state is State.GREETING:
            self._emit(Disconnect())
        self.state = State.CLOSED
        for key in ("life", "greeting", "reconnect"):
            self._timers.cancel(key)

    def reconnect_due(self, now_ms: int) -> None:
        """The wait between two passes is over."""
        if self.state is State.WAITING:
            self._start_pass(now_ms)

    def greeting_due(self, now_ms: int) -> None:
        """No welcome in time."""
        if self.state is State.GREETING:
            self.last_failure = "no welcome in time"
            self._failed(now_ms)

    def life_due(self, now_ms: int, late_ms: int) -> None:
        """Ping if nothing was sent for ping_ms; give the broker up if nothing came for dead_ms."""
        welcome = self._welcome
        if self.state is not State.LIVE or welcome is None:
            return
        if late_ms > STALL_MS:
            self._judge_from = now_ms + SECOND_LOOK_MS
        dies_at = max(self._heard_at + welcome.dead_ms, self._judge_from)
        if now_ms >= dies_at:
            self.lost(f"silent for {now_ms - self._heard_at} ms", now_ms)
            return
        if now_ms - self._sent_at >= welcome.ping_ms:
            self._emit(Send(Ping()))
        self._timers.set("life", min(dies_at, self._sent_at + welcome.ping_ms))

    def _start_pass(self, now_ms: int) -> None:
        if not self._hooks.is_busy():
            self.state = State.IDLE
            return
        self._index = 0
        self._refusals.clear()
        self._connect(now_ms)

    def _connect(self, now_ms: int) -> None:
        self._emit(Connect(self.address))
        self._greet(now_ms)

    def _greet(self, now_ms: int) -> None:
        self.state = State.GREETING
        self._emit(Send(self._hello))
        self._sent_at = now_ms
        patience_ms = min(GREETING_MAX_MS, GREETING_MIN_MS << min(self._passes, 8))
        self._timers.set("greeting", now_ms + patience_ms)

    def _failed(self, now_ms: int) -> None:
        self._timers.cancel("greeting")
        self._emit(Disconnect())
        if self._index + 1 < len(self.addresses):
            self._index += 1
            self._connect(now_ms)
            return
        if len(self._refusals) == len(self.addresses):
            self.state = State.IDLE
            self._hooks.refused(self._refusals[0])
            return
        self._wait(now_ms)

    def _wait(self, now_ms: int) -> None:
        longest_ms = min(BACKOFF_MAX_MS, BACKOFF_MIN_MS << min(self._passes, 16))
        self._passes += 1
        self.state = State.WAITING
        self._timers.set("reconnect", now_ms + int(longest_ms * (0.5 + 0.5 * self._random())))
