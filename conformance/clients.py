"""A client under test: its COMMAND, and the brokers that it meets."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from dspymq.conformance.command import Command
from dspymq.conformance.conversation import ONE_SHOT_BROKER
from dspymq.conformance.matching import Memory, Mismatch
from dspymq.conformance.routers import Routers
from dspymq.protocol import Code

Step = dict[str, Any]


class ClientUnderTest(Routers):
    """An engine.Driver for one transcript. Close it at the end."""

    def __init__(self, argv: Sequence[str], transcript: dict[str, Any], memory: Memory, patience_s: float) -> None:
        peers: dict[str, str] = transcript["peers"]
        super().__init__(list(peers), "clients", [name for name, kind in peers.items() if kind == ONE_SHOT_BROKER])
        self._memory = memory
        self._patience_s = patience_s
        self._outcomes: dict[str, Step] = {}
        self._texts: dict[str, Any] = {}
        try:
            self._command = Command(argv, list(self.addresses.values()))
        except BaseException:
            super().close()
            raise

    def wait_ready(self) -> frozenset[str]:
        """What its driver supports. Raises CommandFault."""
        return self._command.wait_ready()

    def close(self) -> None:
        """End COMMAND, then the brokers."""
        self._command.close()
        super().close()

    def receive(self, wait_ms: int) -> list[tuple[str, list[bytes]]]:
        """As Routers; also notes what the driver tells."""
        found = super().receive(wait_ms)
        if not found:
            self._listen()
        return found

    def _listen(self) -> None:
        for said in self._command.heard():
            match said:
                case {"outcome": {"call": str(call), "code": str()} as outcome}:
                    if call in self._outcomes:
                        raise Mismatch(f"the call {call} has ended twice: {self._outcomes[call]}, then {outcome}")
                    self._outcomes[call] = outcome
                case {"text": {"call": str(call), "fields": dict(fields)}}:
                    self._texts[call] = fields

    def other(self, step: Step) -> bool:
        """Tell the client something, or look at what its caller gets."""
        if "tell" in step:
            told = self._memory.fill(step)
            self._command.tell({name: value for name, value in told.items() if name not in ("rule", "recommended")})
        elif "outcome" in step:
            self._check_outcome(step, self._outcome(step["outcome"]))
        elif "text" in step:
            self._check_text(step["text"], step["fields"])
        else:
            return False
        return True

    def _outcome(self, call: str) -> Step:
        end = time.monotonic() + self._patience_s
        while call not in self._outcomes:
            self._listen()
            if time.monotonic() > end:
                raise Mismatch(f"the driver tells no outcome of the call {call} within {self._patience_s:g} s")
            time.sleep(0.002)
        return self._outcomes[call]

    def _check_outcome(self, step: Step, said: Step) -> None:
        code = said["code"] if said["code"] in Code.__members__ else "UNKNOWN"
        wanted = {name: step[name] for name in ("code", "reason") if name in step}
        try:
            self._memory.match(wanted, {**said, "code": code}, "the outcome")
            if code == "OK":
                self._memory.match(step.get("outputs", {}), said.get("outputs", said.get("result")), "the outputs")
            if "attempt" in step and said.get("attempt") is not None:
                self._memory.match(step["attempt"], said["attempt"], "the attempt")
        except Mismatch as problem:
            raise Mismatch(f"{problem}\nin the outcome {said}") from None

    def _check_text(self, call: str, fields: dict[str, str]) -> None:
        end = time.monotonic() + self._patience_s
        while self._texts.get(call) != fields:
            self._listen()
            if time.monotonic() > end:
                found = self._texts.get(call, "not told")
                raise Mismatch(f"the text of the call {call} is {found}, not {fields}")
            time.sleep(0.002)
