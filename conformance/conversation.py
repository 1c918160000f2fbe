"""The peers of a transcript in conversation with what is tested: what they do by themselves, between the steps.

Pings are answered and sessions kept alive; before another peer goes on, `ping` and `pong` show that what a peer has
sent was heard (R-3.17); what no step allows is seen at once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any, Final, Protocol

import msgpack

from dspymq.conformance.exchange import Exchange, Message, shown
from dspymq.conformance.matching import Mismatch

TAG: Final = b"DJP1"
OWN_PINGS: Final = 1 << 50
"""Numbers of pings that only keep a session alive, or show that a peer was heard, begin here."""
ONE_SHOT_BROKER: Final = "one-shot-broker"
"""A kind of peer: what a REQ socket under test connects to. It cannot be asked anything."""
_BEFORE_WELCOME_MS: Final = 20
_TURN_MS: Final = 20
_ANSWERED_BY_RESULT: Final = ("submit", "attach", "cancel")

Step = dict[str, Any]


class Driver(Protocol):
    """What carries messages, and time."""

    def connect(self, name: str, kind: str) -> None:
        """Open a peer's connection."""

    def send(self, name: str, frames: list[bytes]) -> None:
        """Send, as this peer."""

    def receive(self, wait_ms: int) -> list[tuple[str, list[bytes]]]:
        """What has come for any peer; waits up to `wait_ms` if nothing has. Time passes here only."""

    def lose(self, name: str) -> None:
        """The peer's connection is gone."""

    def now_ms(self) -> float:
        """Any clock."""

    def other(self, step: Step) -> bool:
        """A step that only some drivers know; False if this one does not."""


class PeerState:
    """What is known of one peer."""

    def __init__(self, name: str, kind: str, driver: Driver) -> None:
        self.name = name
        self.kind = kind
        self.inbox: deque[Message] = deque()
        self.updates: list[Message] = []
        """Of a worker under test: each `ready` without held, which may come at any time."""
        self.ping_ms: int | None = None
        """From welcome: the peer has a session."""
        self.sent_ms = driver.now_ms()
        self.unheard = False
        """It has sent something of which nothing shows yet that it was heard."""
        self.greeted = False
        """As a broker: hello came, and there was no answer yet."""
        self.welcomes = False
        """As a broker: there is a session."""
        self.has_answered = False
        """What is tested has once answered what shows that."""
        self.silent = False
        self.lost = False
        self.owed = 0
        """Of a one-shot peer: answers that have not come."""


class Conversation:
    """All peers of one transcript. `kinds` are the peers' kinds by name, `role` is that of what is tested."""

    def __init__(self, driver: Driver, kinds: Mapping[str, str], role: str, patience_ms: int) -> None:
        self._driver = driver
        self._kinds = kinds
        self._role = role
        self._patience_ms = patience_ms
        self.exchange = Exchange(driver.now_ms())
        self._peers: dict[str, PeerState] = {}
        self._settled: set[str] = set()
        """Of a worker under test: leases that it has settled in this session."""
        self._owed: dict[tuple[str, str], int] = {}
        """Of a broker under test: results that a peer may still get, by job."""
        self.acks = True
        """Of a client under test: it says that it acknowledges results."""
        self._numbers = 0
        self._turned_ms = driver.now_ms()
        self.stood_still_ms = 0.0
        """The longest that this process let its peers wait for their turn: it may be too busy to keep the rules."""

    @property
    def peers(self) -> Iterable[PeerState]:
        """Those that were named."""
        return self._peers.values()

    def peer(self, name: str) -> PeerState:
        """A peer, which connects when it is first named."""
        peer = self._peers.get(name)
        if peer is None:
            kind = self._kinds[name]
            self._driver.connect(name, kind)
            peer = self._peers[name] = PeerState(name, kind, self._driver)
        return peer

    def note(self, peer: str, what: str) -> None:
        """Something for the record of the exchange."""
        self.exchange.note(self._driver.now_ms(), peer, what)

    # -- sending ------------------------------------------------------------------------------------------------------

    def say(self, peer: PeerState, header: dict[str, Any], body: bytes | None) -> None:
        """A step sends this message."""
        self.exchange.sent(self._driver.now_ms(), peer.name, header, body or b"")
        self._note_session(peer, header)
        if header["t"] in _ANSWERED_BY_RESULT and "job" in header:
            # One result answers all that is asked before it comes.
            self._owed[peer.name, header["job"]] = 1
        packed = msgpack.packb(header)
        self.send(peer, [TAG, packed] if body is None else [TAG, packed, body])
        if header["t"] == "error" and "lease" in header:
            self._settled.discard(header["lease"])

    def _note_session(self, peer: PeerState, header: dict[str, Any]) -> None:
        """What the kit says as a broker begins a session, or ends it; as another, its bye does."""
        if header["t"] == "welcome":
            peer.greeted, peer.welcomes = False, True
        elif header["t"] == "bye" or header.get("reason") == "no_session":
            peer.welcomes = False
        if header["t"] == "bye":
            peer.ping_ms = None

    def before_welcome(self, peer: PeerState) -> None:
        """Who does not wait for welcome has sent something by then."""
        if peer.greeted:
            self.pump(_BEFORE_WELCOME_MS)

    def lose(self, peer: PeerState) -> None:
        """Close its connection without a word."""
        self.note(peer.name, "the kit closes the connection")
        self._driver.lose(peer.name)
        peer.lost, peer.greeted, peer.welcomes = True, False, False
        peer.inbox.clear()

    def send(self, peer: PeerState, frames: list[bytes]) -> None:
        """Send these frames."""
        if peer.kind == "one-shot":
            peer.owed += 1
        self._driver.send(peer.name, frames)
        peer.sent_ms = self._driver.now_ms()
        peer.unheard = True

    def _own_ping(self, peer: PeerState) -> int:
        self._numbers += 1
        number = OWN_PINGS + self._numbers
        self.send(peer, [TAG, msgpack.packb({"t": "ping", "n": number})])
        return number

    def settle(self, acting: PeerState | None) -> None:
        """What the others have sent has been heard, before `acting` goes on."""
        for peer in self._peers.values():
            has_session = peer.welcomes if peer.kind == "broker" else peer.ping_ms is not None
            able = has_session and peer.kind != "one-shot" and not peer.silent and not peer.lost
            if peer is not acting and peer.unheard and able:
                number = self._own_ping(peer)
                end = self._driver.now_ms() + self._patience_ms
                while peer.unheard and self._driver.now_ms() < end:
                    self.pump(20, heard=(peer, number))
                if peer.unheard and (peer.welcomes or peer.ping_ms is not None):
                    raise Mismatch("a ping is not answered", rule=None if peer.has_answered else "R-3.13")

    # -- receiving ----------------------------------------------------------------------------------------------------

    def pass_time(self, ms: int) -> None:
        """Take in what comes for so long."""
        end = self._driver.now_ms() + ms
        while (left := end - self._driver.now_ms()) > 0:
            self.pump(max(1, int(left)))

    def pump(self, wait_ms: int, heard: tuple[PeerState, int] | None = None) -> None:
        """Take in what comes, answer pings, and keep sessions alive."""
        wait_ms = min(wait_ms, _TURN_MS)
        came = self._driver.receive(wait_ms)
        self.stood_still_ms = max(self.stood_still_ms, self._driver.now_ms() - self._turned_ms - wait_ms)
        self.take_turn()
        for name, frames in came:
            self._take(self._peers[name], frames, heard)
        for peer in self._peers.values():
            if peer.ping_ms is None or peer.silent or peer.lost or peer.kind not in ("client", "worker"):
                continue
            if self._driver.now_ms() - peer.sent_ms >= peer.ping_ms / 2:
                was_unheard = peer.unheard
                self._own_ping(peer)
                peer.unheard = was_unheard

    def take_turn(self) -> None:
        """From now on peers wait for their turn."""
        self._turned_ms = self._driver.now_ms()

    def _take(self, peer: PeerState, frames: list[bytes], heard: tuple[PeerState, int] | None) -> None:
        at = frames.index(TAG)
        header = msgpack.unpackb(frames[at + 1])
        t = header["t"]
        if peer.greeted and t not in ("hello", "bye"):
            raise Mismatch(f"this came between hello and welcome: {header}", rule="R-3.6")
        if t == "ping" and not peer.silent:
            was_unheard = peer.unheard
            self.send(peer, [TAG, msgpack.packb({"t": "pong", "n": header.get("n", 0)})])
            peer.unheard = was_unheard
            return
        if t == "pong" and OWN_PINGS < header.get("n", 0) <= OWN_PINGS + self._numbers:
            if heard is not None and heard == (peer, header["n"]):
                peer.unheard = False
            peer.has_answered = True
            return
        message = Message(header, frames[at + 2] if len(frames) > at + 2 else b"", frames[:at])
        self.exchange.came(self._driver.now_ms(), peer.name, header, message.body)
        if t == "hello":
            peer.lost = False
            peer.greeted = True
            peer.welcomes = False
            self._settled.clear()
            self.acks = "ack" in header.get("features", ())
        elif t == "welcome":
            peer.ping_ms = header["ping_ms"]
        elif t == "bye" or (t == "error" and header["reason"] == "no_session"):
            peer.ping_ms = None
        if t != "ping":
            peer.owed = max(0, peer.owed - 1)
        if self._role == "worker" and t == "ready" and "held" not in header:
            peer.updates.append(message)
        elif self._role != "client" or t != "ack" or self.acks:
            self._see_that_it_may_come(peer, message)
            peer.inbox.append(message)

    def _see_that_it_may_come(self, peer: PeerState, message: Message) -> None:
        """What no step allows, whatever it is about."""
        header = message.header
        if self._role != "broker" and header["t"] == "error":
            # They may send one for the other's logs; in a transcript all would be answers.
            raise Mismatch(f"an error is answered: {header}", rule="R-3.19")
        if self._role == "broker" and header["t"] == "result" and "job" in header:
            owed = self._owed.get((peer.name, header["job"]), 0)
            self._owed[peer.name, header["job"]] = owed - 1
            if owed < 1:
                raise Mismatch(f"a second result of a job: {header}", rule="R-5.5")
        if self._role == "worker" and header["t"] in ("result", "released"):
            if header["lease"] in self._settled:
                raise Mismatch(f"a lease is settled for the second time: {header}", rule="R-6.7")
            self._settled.add(header["lease"])

    def next(self, peer: PeerState, within_ms: int) -> Message:
        """The next message for this peer. Raises AssertionError if none comes."""
        end = self._driver.now_ms() + within_ms
        while not peer.inbox:
            left = end - self._driver.now_ms()
            assert left > 0, f"nothing came for {peer.name} in time ({within_ms / 1000:g} s)"
            self.pump(max(1, int(left)))
        return peer.inbox.popleft()

    def expect_nothing(self, peer: PeerState) -> None:
        """Ask something, and take nothing but its answer."""
        self._numbers += 1
        if peer.kind == "broker":
            answer: dict[str, Any] = {"t": "pong", "n": self._numbers}
            question: dict[str, Any] = {"t": "ping", "n": self._numbers}
        else:
            answer = {"rid": f"fence-{self._numbers}"}
            question = {"t": "request", "method": "stats.get", **answer}
        self.send(peer, [TAG, msgpack.packb(question)])
        try:
            message = self.next(peer, self._patience_ms)
            while peer.silent and message.header["t"] == "ping":
                message = self.next(peer, self._patience_ms)
        except Mismatch:
            raise
        except AssertionError:
            rule = "R-3.13" if question["t"] == "ping" else "R-10.1"
            raise Mismatch(f"this is not answered: {question}", rule=None if peer.has_answered else rule) from None
        if not _answers(message, answer):
            if not peer.has_answered:
                self._see_whether_it_answers(peer, answer)
            raise Mismatch(f"this came instead of nothing: {shown(message.header, message.body)}")
        peer.unheard = False
        peer.has_answered = True

    def _see_whether_it_answers(self, peer: PeerState, answer: dict[str, Any]) -> None:
        """Raises Mismatch (R-3.13) if the question of `expect_nothing` is never answered."""
        if answer.get("t") != "pong":
            return
        end = self._driver.now_ms() + self._patience_ms
        while not any(_answers(each, answer) for each in peer.inbox):
            if self._driver.now_ms() > end:
                raise Mismatch("a ping is not answered", rule="R-3.13")
            self.pump(20)


def _answers(message: Message, answer: dict[str, Any]) -> bool:
    return all(message.header.get(name) == value for name, value in answer.items())
