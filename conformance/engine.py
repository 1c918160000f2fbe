"""Runs the steps of a transcript over a driver: a broker's core in virtual time, or real sockets."""

from __future__ import annotations

from typing import Any, Final

import msgpack

from dspymq.conformance import legal
from dspymq.conformance.conversation import ONE_SHOT_BROKER, TAG, Conversation, Driver, PeerState, Step
from dspymq.conformance.exchange import Message, shown
from dspymq.conformance.matching import Memory, Mismatch, body_frame, frame, unpacked
from dspymq.conformance.vectors import with_defaults

PATIENCE_MS: Final = 25_000


class Failure(AssertionError):
    """A transcript was not kept: at which step, which rule it broke, and what it should have been."""

    def __init__(self, text: str, step: int | None, rule: str, wanted: Any, *, recommended: bool = False) -> None:
        super().__init__(text)
        self.text = text
        self.step = step
        """None: after the last step."""
        self.rule = rule
        self.wanted = wanted
        self.recommended = recommended
        """The step asks for what is only recommended."""


class Stream:
    """What the chunks of a lease make, as they came."""

    def __init__(self) -> None:
        self.next_seq = 0
        self.fields: dict[str, str] = {}


class Engine:
    """Runs one transcript; raises Failure, or whatever else the driver raises.

    `patience_ms` is how long a message may take for which the transcript has no time of its own, `scale` stretches the
    times within which a transcript awaits something.
    """

    def __init__(
        self,
        driver: Driver,
        transcript: dict[str, Any],
        role: str = "broker",
        memory: Memory | None = None,
        patience_ms: int = PATIENCE_MS,
        scale: float = 1.0,
    ) -> None:
        self._driver = driver
        self._role = role
        self._transcript = transcript
        self._patience_ms = patience_ms
        self._scale = scale
        self.memory = Memory() if memory is None else memory
        self._talk = Conversation(driver, transcript["peers"], role, patience_ms)
        self.exchange = self._talk.exchange
        self._streams: dict[str, Stream] = {}

    @property
    def stood_still_ms(self) -> float:
        """For how long at most this process left its peers alone, whatever the steps say."""
        return self._talk.stood_still_ms

    def run(self) -> None:
        """All steps, and then nobody may have been sent anything more."""
        steps = self._transcript["steps"]
        advice: Failure | None = None
        """What was only recommended is told when all that is demanded was kept."""
        for index, step in enumerate(steps):
            self.exchange.step = index
            try:
                self._step(step)
            except AssertionError as problem:
                # What no step allows is never a matter of recommendation.
                recommended = bool(step.get("recommended")) and getattr(problem, "rule", None) is None
                blamed = self._blamed(step, problem)
                failure = Failure(str(problem), index, blamed, step, recommended=recommended)
                if not recommended:
                    raise failure from problem
                advice = advice or failure
        self.exchange.step = len(steps)
        for peer in self._talk.peers:
            # Who waits for welcome, or for the answer to a REQ, cannot be asked.
            if not (peer.lost or peer.owed or peer.greeted or peer.kind == ONE_SHOT_BROKER):
                try:
                    self._talk.expect_nothing(peer)
                except AssertionError as problem:
                    text = f"at the end, {peer.name}: {problem}"
                    rule = self._blamed({}, problem)
                    raise Failure(text, None, rule, "nothing more") from problem
        if advice is not None:
            raise advice

    def _blamed(self, step: Step, problem: AssertionError) -> str:
        """The rule that is broken when this step fails in this way (protocol/vectors/README.md)."""
        named = step.get("rule")
        field = ""
        if isinstance(problem, Mismatch):
            if problem.rule is not None:
                return problem.rule
            field = problem.field
        if isinstance(named, dict):
            named = named.get("t", named.get("")) if field == "t" else named.get(field)
        return str(named or self._transcript["rules"][0])

    def _step(self, step: Step) -> None:
        if "wait_ms" in step:
            self._talk.settle(None)
            self._talk.pass_time(step["wait_ms"])
        elif "peer" in step:
            self._step_of(self._talk.peer(step["peer"]), step)
        else:
            self._talk.settle(None)
            self._talk.note("", f"{step}")
            assert self._driver.other(step), f"no such step: {step}"
            self._talk.take_turn()
            for peer in self._talk.peers if "restart_broker" in step else ():
                peer.lost = True

    def _step_of(self, peer: PeerState, step: Step) -> None:
        match step:
            case {"send": header}:
                self._talk.settle(peer)
                if header["t"] == "welcome":
                    self._talk.before_welcome(peer)
                self._talk.say(peer, self.memory.fill(header), body_frame(step.get("body"), self.memory))
            case {"send_frames": texts}:
                self._talk.settle(peer)
                frames = [frame(each) for each in texts]
                self._talk.note(peer.name, f"kit sends  {legal.shown(frames)}")
                self._talk.send(peer, frames)
            case {"expect": _}:
                self._expect(peer, step)
            case {"expect_in_any_order": steps}:
                self._expect_in_any_order(peer, steps)
            case {"expect_stream": wanted}:
                self._expect_stream(peer, wanted)
            case {"expect_frames": texts}:
                self._expect_frames(peer, [frame(each) for each in texts])
            case {"expect_nothing": _}:
                self._talk.settle(peer)
                self._talk.expect_nothing(peer)
            case {"expect_silence_ms": ms}:
                self._talk.pass_time(ms)
                assert not peer.inbox, f"this came in the silence: {peer.inbox[0].header}"
            case {"silent": silent}:
                peer.silent = silent
            case {"lost": _}:
                self._talk.settle(None)
                self._talk.lose(peer)
            case _:
                raise AssertionError(f"no such step: {step}")

    def _next(self, peer: PeerState, within_ms: int) -> Message:
        message = self._talk.next(peer, within_ms)
        if self._role == "worker" and message.header["t"] == "chunk":
            self._note_chunk(message)
        return message

    def _expect_frames(self, peer: PeerState, wanted: list[bytes]) -> None:
        message = self._next(peer, self._patience_ms)
        found = [*message.envelope, TAG, msgpack.packb(message.header)]
        assert found[: len(wanted)] == wanted, f"the frames are {[each.hex() for each in found]}"

    def _expect(self, peer: PeerState, step: Step) -> None:
        begun = self._driver.now_ms()
        if "awaiting" in step:
            self._await(peer, step)
            return
        if self._role == "client" and step["expect"]["t"] == "ack" and not self._talk.acks:
            return
        within_ms = int(step["within_ms"] * max(1.0, self._scale)) if "within_ms" in step else self._patience_ms
        message = self._next(peer, within_ms)
        while message.header["t"] in step.get("skipping", ()):
            message = self._next(peer, int(begun + within_ms - self._driver.now_ms()))
        took = self._driver.now_ms() - begun
        self._match(peer, step, message)
        least = step.get("not_before_ms", 0)
        assert took >= least, f"it came after {took} ms, not {least} ms or more"

    def _await(self, peer: PeerState, step: Step) -> None:
        """Wait until the newest update of a worker is this."""
        end = self._driver.now_ms() + self._patience_ms
        while True:
            try:
                assert peer.updates, "no update has come"
                self._match(peer, step, peer.updates[-1])
            except AssertionError:
                if self._driver.now_ms() > end:
                    raise
                self._talk.pump(20)
            else:
                return

    def _expect_stream(self, peer: PeerState, wanted: dict[str, Any]) -> None:
        """Chunks until the result of the lease, which stays for the next step; their text, and how many there were."""
        lease = wanted["lease"]
        count = 0
        while (message := self._next(peer, self._patience_ms)).header["t"] == "chunk":
            count += 1
        peer.inbox.appendleft(message)
        assert message.header.get("lease") == lease, f"not of this stream: {message.header}"
        assert count <= wanted.get("at_most", count), f"{count} chunks came, not {wanted['at_most']} at most"
        stream = self._streams.get(lease, Stream())
        if stream.fields != wanted["fields"]:
            raise Mismatch(f"the text is {stream.fields}, not {wanted['fields']}", "fields")
        self.memory[f"{lease}.chunks"] = stream.next_seq

    def _note_chunk(self, message: Message) -> None:
        header = message.header
        stream = self._streams.setdefault(header["lease"], Stream())
        if header["seq"] != stream.next_seq:
            raise Mismatch(f"the seq of a chunk is {header['seq']}, not {stream.next_seq}", rule="R-9.2")
        stream.next_seq += 1
        if header.get("reset"):
            stream.fields.clear()
        body = unpacked(message.body)
        fields = body.get("fields") if isinstance(body, dict) else None
        if not isinstance(fields, dict) or not all(isinstance(each, str) for pair in fields.items() for each in pair):
            raise Mismatch(f"the body of a chunk is {body!r}, not {{fields: {{name: text}}}}", rule="R-9.1")
        for name, text in fields.items():
            stream.fields[name] = stream.fields.get(name, "") + text

    def _match(self, peer: PeerState, step: Step, message: Message) -> None:
        endpoint = "workers" if "worker" in (self._role, peer.kind) else "clients"
        header = with_defaults(endpoint, message.header)
        try:
            self.memory.match(step["expect"], header, "the header")
            if "body" in step:
                self.memory.match_body(step["body"], message.body)
        except Mismatch as problem:
            text = f"{problem}\nin {shown(message.header, message.body)}"
            raise Mismatch(text, problem.field, problem.rule) from problem

    def _expect_in_any_order(self, peer: PeerState, steps: list[Step]) -> None:
        left = list(steps)
        while left:
            message = self._next(peer, self._patience_ms)
            problems = []
            for each in left:
                try:
                    self._match(peer, each, message)
                except Mismatch as problem:
                    problems.append(problem)
                else:
                    left.remove(each)
                    break
            else:
                # Of the same type and about the same thing, if there is one: then its fields tell more.
                field = next((each.field for each in problems if each.field not in ("t", "job", "lease")), "")
                raise Mismatch(f"{message.header} is none of {left}", field)
