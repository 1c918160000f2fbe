"""The session that SPEC.md works in hex: played through the broker's core, and written as the text of its blocks.

`python -m tests.conformance.spec_session` prints the blocks, to be pasted into SPEC.md after a change.
"""

from __future__ import annotations

import json
from typing import Any, Final, NamedTuple

import msgpack

from dspymq.broker.core import BrokerCore, CoreSettings
from dspymq.broker.core import events as ev
from dspymq.broker.core.effects import ToClient, ToWorker
from dspymq.protocol import body as bodies
from dspymq.protocol import client_messages as c
from dspymq.protocol import encode
from dspymq.protocol import messages as m
from dspymq.protocol import worker_messages as w

EPOCH: Final = "017f22e2-79b0-7cc3-98c4-dc0c0c07398f"
WORKER: Final = "017f22e2-7a00-7000-8000-000000000001"
JOB: Final = "017f22e2-7b00-7000-8000-0000000000a1"
TYPO: Final = "017f22e2-7b00-7000-8000-0000000000a2"

_HEX_A_LINE: Final = 32


class Step(NamedTuple):
    """One message on the wire: who to whom (`C > B`), and its frames."""

    way: str
    frames: tuple[bytes, ...]

    @property
    def header(self) -> dict[str, Any]:
        """Its header."""
        value: dict[str, Any] = msgpack.unpackb(self.frames[1])
        return value

    @property
    def body(self) -> Any:
        """Its body, None if it has none."""
        return msgpack.unpackb(self.frames[2]) if len(self.frames) > 2 else None


def play() -> list[Step]:
    """The whole session, in the order of the wire; what the broker says is what its core says."""
    play = _Play()
    client, worker = play.client, play.worker
    client(m.Hello(name="demo", lang="hex", features=["ack"]))
    client(m.Ping(n=1))
    worker(m.Hello(name="pool", lang="hex", features=["chunks"]))
    ready = w.Ready(
        worker=WORKER, slots={"default": 1}, programs=[w.Offer(name="qa", revision="r1")], profiles=["small"], held=[]
    )
    worker(ready, bodies.encode(programs={"qa": {"description": "Answers a question."}}))
    play.now_ms += 100
    client(c.Submit(job=JOB, program="qa", timeout_ms=30_000), bodies.encode(inputs={"question": "2+2?"}))
    play.now_ms += 640
    result = w.Result(
        lease=f"{EPOCH}-000000000001",
        attempt=1,
        code="OK",
        usage=m.Usage(calls=1, models={"small": m.ModelUsage(input_tokens=9, output_tokens=1)}),
        timings=m.Timings(run_ms=640, lm_ms=630),
        revision="r1",
    )
    worker(result, bodies.encode(outputs={"answer": "4"}))
    client(c.Ack(jobs=[JOB]))
    client(c.Submit(job=TYPO, program="qaa", timeout_ms=30_000), bodies.encode(inputs={"question": "2+2?"}))
    client(m.Bye(reason="done"))
    return play.steps


class _Play:
    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.now_ms = 1_000
        self._core = BrokerCore(CoreSettings(), EPOCH)

    def client(self, message: Any, body: bytes = b"") -> None:
        self._send("C > B", message, body, ev.ClientMessage(b"client", message, body))

    def worker(self, message: Any, body: bytes = b"") -> None:
        self._send("W > B", message, body, ev.WorkerMessage(b"worker", message, body))

    def _send(self, way: str, message: Any, body: bytes, event: ev.Event) -> None:
        self.steps.append(Step(way, tuple(encode(message, body))))
        for each in (event, ev.RoundOver()):
            for effect in self._core.handle(each, self.now_ms):
                if isinstance(effect, ToClient | ToWorker):
                    back = "B > C" if isinstance(effect, ToClient) else "B > W"
                    self.steps.append(Step(back, tuple(encode(effect.message, effect.body))))


def block(steps: list[tuple[int, Step]]) -> str:
    """Numbered steps as SPEC.md shows them: frames in hex, then header and body as JSON."""
    lines = []
    for number, step in steps:
        lines.append(f"#{number}  {step.way}  {step.header['t']}")
        for index, frame in enumerate(step.frames):
            for start in range(0, len(frame), _HEX_A_LINE):
                label = f"[{index}]" if start == 0 else "   "
                lines.append(f"    {label} {frame[start : start + _HEX_A_LINE].hex(' ')}")
        lines.append(f"    = {json.dumps(step.header)}")
        if step.body is not None:
            lines.append(f"    + {json.dumps(step.body)}")
        lines.append("")
    return "\n".join(lines)


def halves(steps: list[Step]) -> tuple[list[tuple[int, Step]], list[tuple[int, Step]]]:
    """The client's half and the worker's, numbered in the order of the whole."""
    numbered = list(enumerate(steps, 1))
    return [s for s in numbered if "C" in s[1].way], [s for s in numbered if "W" in s[1].way]


def annotate(data: bytes) -> str:
    """One line for each msgpack token: its bytes, and what they say."""
    lines: list[str] = []
    _Tokens(data, lines).value(0)
    return "\n".join(lines)


class _Tokens:
    """Reads the forms that the session uses: fixmap, fixarray, fixstr, str8, map16, small and 16-bit integers."""

    def __init__(self, data: bytes, lines: list[str]) -> None:
        self._data = data
        self._at = 0
        self._lines = lines

    def value(self, depth: int) -> None:
        first = self._data[self._at]
        if first & 0xF0 == 0x80:
            self._say(1, f"map of {first & 15}", depth)
            for _ in range(2 * (first & 15)):
                self.value(depth + 1)
        elif first & 0xF0 == 0x90:
            self._say(1, f"array of {first & 15}", depth)
            for _ in range(first & 15):
                self.value(depth + 1)
        elif first & 0xE0 == 0xA0:
            self._text(1, first & 31, depth)
        elif first == 0xD9:
            self._text(2, self._data[self._at + 1], depth)
        elif first == 0xDE:
            size = int.from_bytes(self._data[self._at + 1 : self._at + 3], "big")
            self._say(3, f"map of {size}", depth)
            for _ in range(2 * size):
                self.value(depth + 1)
        elif first == 0xCD:
            self._say(3, str(int.from_bytes(self._data[self._at + 1 : self._at + 3], "big")), depth)
        elif first < 0x80:
            self._say(1, str(first), depth)
        else:
            raise ValueError(f"no words for {first:#x}")

    def _text(self, head: int, size: int, depth: int) -> None:
        text = self._data[self._at + head : self._at + head + size].decode()
        self._say(head + size, json.dumps(text), depth)

    def _say(self, size: int, words: str, depth: int) -> None:
        shown = self._data[self._at : self._at + size]
        text = shown.hex(" ") if size <= 13 else f"{shown[:12].hex(' ')} ..."
        self._lines.append(f"{text:<40}{'  ' * depth}{words}")
        self._at += size


def main() -> None:
    """Print what belongs into SPEC.md."""
    steps = play()
    for half in halves(steps):
        print(block(half))
    for number in (1, 9):
        print(f"#{number}")
        for frame in steps[number - 1].frames[1:]:
            print(annotate(frame), end="\n\n")


if __name__ == "__main__":
    main()
