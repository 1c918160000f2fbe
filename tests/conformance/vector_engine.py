"""Runs the steps of a transcript over a driver: a broker's core in virtual time, or real sockets.

Messages of different peers reach what is tested in the order of the steps: before another peer goes on, `ping` and
`pong` show that what a peer has sent was heard (R-3.17). Pings are answered by themselves.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Final, NamedTuple, Protocol

import msgpack

from tests.conformance.vector_match import Memory, Mismatch, body_frame, frame, with_defaults

TAG: Final = b"DJP1"
OWN_PINGS: Final = 1 << 50
"""Numbers of pings that only keep a session alive, or show that a peer was heard, begin here."""
PATIENCE_MS: Final = 25_000

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


class Message(NamedTuple):
    """A message as it came."""

    header: dict[str, Any]
    body: bytes
    envelope: list[bytes]


class Stream:
    """What the chunks of a lease make, as they came."""

    def __init__(self) -> None:
        self.next_seq = 0
        self.fields: dict[str, str] = {}


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
        self.silent = False
        self.lost = False
        self.owed = 0
        """Of a one-shot peer: answers that have not come."""


class Engine:
    """Runs one transcript; raises AssertionError, naming the step."""

    def __init__(
        self, driver: Driver, transcript: dict[str, Any], role: str = "broker", memory: Memory | None = None
    ) -> None:
        self._driver = driver
        self._role = role
        self._transcript = transcript
        self.memory = Memory() if memory is None else memory
        self._peers: dict[str, PeerState] = {}
        self._streams: dict[str, Stream] = {}
        self._numbers = 0

    def run(self) -> None:
        """All steps, and then nobody may have been sent anything more."""
        for index, step in enumerate(self._transcript["steps"]):
            try:
                self._step(step)
            except AssertionError as problem:
                where = f"{self._transcript['name']}, step {index}: {step}"
                raise AssertionError(f"{where}\n{problem}") from problem
        for peer in self._peers.values():
            if not peer.lost and not peer.owed:
                try:
                    self._expect_nothing(peer)
                except AssertionError as problem:
                    name = self._transcript["name"]
                    raise AssertionError(f"{name}: at its end, peer {peer.name}: {problem}") from problem

    def _step(self, step: Step) -> None:
        if "wait_ms" in step:
            self._settle(None)
            end = self._driver.now_ms() + step["wait_ms"]
            while (left := end - self._driver.now_ms()) > 0:
                self._pump(max(1, int(left)))
            return
        if "peer" not in step:
            self._settle(None)
            assert self._driver.other(step), f"no such step: {step}"
            for peer in self._peers.values() if "restart_broker" in step else ():
                peer.lost = True
            return
        peer = self._peer(step["peer"])
        if "send" in step:
            self._settle(peer)
            header = msgpack.packb(self.memory.fill(step["send"]))
            body = body_frame(step.get("body"), self.memory)
            self._send(peer, [TAG, header] if body is None else [TAG, header, body])
            if step["send"]["t"] == "bye":
                peer.ping_ms = None
        elif "send_frames" in step:
            self._settle(peer)
            self._send(peer, [frame(each) for each in step["send_frames"]])
        elif "expect" in step:
            self._expect(peer, step)
        elif "expect_in_any_order" in step:
            self._expect_in_any_order(peer, step["expect_in_any_order"])
        elif "expect_stream" in step:
            self._expect_stream(peer, step["expect_stream"])
        elif "expect_frames" in step:
            message = self._next(peer, PATIENCE_MS)
            found = [*message.envelope, TAG, msgpack.packb(message.header)]
            wanted = [frame(each) for each in step["expect_frames"]]
            assert found[: len(wanted)] == wanted, f"the frames are {[each.hex() for each in found]}"
        elif "expect_nothing" in step:
            self._settle(peer)
            self._expect_nothing(peer)
        elif "expect_silence_ms" in step:
            end = self._driver.now_ms() + step["expect_silence_ms"]
            while (left := end - self._driver.now_ms()) > 0:
                self._pump(max(1, int(left)))
            assert not peer.inbox, f"this came in the silence: {peer.inbox[0].header}"
        elif "silent" in step:
            peer.silent = step["silent"]
        elif "lost" in step:
            self._settle(None)
            self._driver.lose(peer.name)
            peer.lost = True
            peer.inbox.clear()
        else:
            raise AssertionError(f"no such step: {step}")

    def _peer(self, name: str) -> PeerState:
        peer = self._peers.get(name)
        if peer is None:
            kind = self._transcript["peers"][name]
            self._driver.connect(name, kind)
            peer = self._peers[name] = PeerState(name, kind, self._driver)
        return peer

    # -- sending ------------------------------------------------------------------------------------------------------

    def _send(self, peer: PeerState, frames: list[bytes]) -> None:
        if peer.kind == "one-shot":
            peer.owed += 1
        self._driver.send(peer.name, frames)
        peer.sent_ms = self._driver.now_ms()
        peer.unheard = True

    def _own_ping(self, peer: PeerState) -> int:
        self._numbers += 1
        number = OWN_PINGS + self._numbers
        self._send(peer, [TAG, msgpack.packb({"t": "ping", "n": number})])
        return number

    def _settle(self, acting: PeerState | None) -> None:
        """What the others have sent has been heard, before `acting` goes on."""
        for peer in self._peers.values():
            able = peer.ping_ms is not None and peer.kind != "one-shot" and not peer.silent and not peer.lost
            if peer is not acting and peer.unheard and able:
                number = self._own_ping(peer)
                end = self._driver.now_ms() + PATIENCE_MS
                while peer.unheard and self._driver.now_ms() < end:
                    self._pump(20, heard=(peer, number))
                if peer.unheard and peer.ping_ms is not None:
                    raise Mismatch(f"peer {peer.name} is not answered: {list(peer.inbox)}")

    # -- receiving ----------------------------------------------------------------------------------------------------

    def _pump(self, wait_ms: int, heard: tuple[PeerState, int] | None = None) -> None:
        """Take in what comes, answer pings, and keep sessions alive."""
        for name, frames in self._driver.receive(min(wait_ms, 20)):
            peer = self._peers[name]
            at = frames.index(TAG)
            header = msgpack.unpackb(frames[at + 1])
            t = header["t"]
            if t == "ping" and not peer.silent:
                self._send(peer, [TAG, msgpack.packb({"t": "pong", "n": header.get("n", 0)})])
                peer.unheard = False
                continue
            if t == "pong" and OWN_PINGS < header.get("n", 0) <= OWN_PINGS + self._numbers:
                if heard is not None and heard == (peer, header["n"]):
                    peer.unheard = False
                continue
            if t == "hello":
                peer.lost = False
            elif t == "welcome":
                peer.ping_ms = header["ping_ms"]
            elif t == "bye" or (t == "error" and header["reason"] == "no_session"):
                peer.ping_ms = None
            if t != "ping":
                peer.owed = max(0, peer.owed - 1)
            message = Message(header, frames[at + 2] if len(frames) > at + 2 else b"", frames[:at])
            if self._role == "worker" and t == "ready" and "held" not in header:
                peer.updates.append(message)
            else:
                peer.inbox.append(message)
        for peer in self._peers.values():
            if peer.ping_ms is None or peer.silent or peer.lost or peer.kind not in ("client", "worker"):
                continue
            if self._driver.now_ms() - peer.sent_ms >= peer.ping_ms / 2:
                self._own_ping(peer)

    def _next(self, peer: PeerState, within_ms: int) -> Message:
        end = self._driver.now_ms() + within_ms
        while not peer.inbox:
            left = end - self._driver.now_ms()
            assert left > 0, f"nothing came for {peer.name} within {within_ms} ms"
            self._pump(max(1, int(left)))
        message = peer.inbox.popleft()
        if self._role == "worker" and message.header["t"] == "chunk":
            self._note_chunk(message)
        return message

    def _expect(self, peer: PeerState, step: Step) -> None:
        begun = self._driver.now_ms()
        if "awaiting" in step:
            self._await(peer, step)
            return
        message = self._next(peer, step.get("within_ms", PATIENCE_MS))
        while message.header["t"] in step.get("skipping", ()):
            message = self._next(peer, PATIENCE_MS)
        took = self._driver.now_ms() - begun
        self._match(peer, step, message)
        least = step.get("not_before_ms", 0)
        assert took >= least, f"it came after {took} ms, not {least} ms or more"

    def _await(self, peer: PeerState, step: Step) -> None:
        """Wait until the newest update of a worker is this."""
        end = self._driver.now_ms() + PATIENCE_MS
        while True:
            try:
                assert peer.updates, "no update has come"
                self._match(peer, step, peer.updates[-1])
            except AssertionError:
                if self._driver.now_ms() > end:
                    raise
                self._pump(20)
            else:
                return

    def _expect_stream(self, peer: PeerState, wanted: dict[str, Any]) -> None:
        """Chunks until the result of the lease, which stays for the next step; their text, and how many there were."""
        lease = wanted["lease"]
        count = 0
        while (message := self._next(peer, PATIENCE_MS)).header["t"] == "chunk":
            count += 1
        peer.inbox.appendleft(message)
        assert message.header.get("lease") == lease, f"not of this stream: {message.header}"
        assert count <= wanted.get("at_most", count), f"{count} chunks came"
        stream = self._streams.get(lease, Stream())
        assert stream.fields == wanted["fields"], f"the text is {stream.fields}, not {wanted['fields']}"
        self.memory[f"{lease}.chunks"] = stream.next_seq

    def _note_chunk(self, message: Message) -> None:
        header = message.header
        stream = self._streams.setdefault(header["lease"], Stream())
        assert header["seq"] == stream.next_seq, f"seq is {header['seq']}, not {stream.next_seq}"
        stream.next_seq += 1
        if header.get("reset"):
            stream.fields.clear()
        for name, text in msgpack.unpackb(message.body)["fields"].items():
            stream.fields[name] = stream.fields.get(name, "") + text

    def _match(self, peer: PeerState, step: Step, message: Message) -> None:
        endpoint = "workers" if "worker" in (self._role, peer.kind) else "clients"
        header = with_defaults(endpoint, message.header)
        try:
            self.memory.match(step["expect"], header, "the header")
            if "body" in step:
                self.memory.match_body(step["body"], message.body)
        except Mismatch as problem:
            body = message.body[:200]
            raise Mismatch(f"{problem}\nin {message.header} with the body {body!r}") from problem

    def _expect_in_any_order(self, peer: PeerState, steps: list[Step]) -> None:
        left = list(steps)
        while left:
            message = self._next(peer, PATIENCE_MS)
            for each in left:
                try:
                    self._match(peer, each, message)
                except Mismatch:
                    continue
                left.remove(each)
                break
            else:
                raise Mismatch(f"{message.header} is none of {left}")

    def _expect_nothing(self, peer: PeerState) -> None:
        """Ask something, and take nothing but its answer."""
        self._numbers += 1
        if peer.kind == "broker":
            answer: dict[str, Any] = {"t": "pong", "n": self._numbers}
            question: dict[str, Any] = {"t": "ping", "n": self._numbers}
        else:
            answer = {"rid": f"fence-{self._numbers}"}
            question = {"t": "request", "method": "stats.get", **answer}
        self._send(peer, [TAG, msgpack.packb(question)])
        message = self._next(peer, PATIENCE_MS)
        while peer.silent and message.header["t"] == "ping":
            message = self._next(peer, PATIENCE_MS)
        found = {name: message.header.get(name) for name in answer}
        assert found == answer, f"this came instead of nothing: {message.header} {message.body[:100]!r}"
        peer.unheard = False
