"""A worker of its own, in one loop, for faults: `python -m tests.conformance.kit.bare_worker [FAULT]`.

Its programs need no process and no language model. It supports everything but tools, progress, processes that die, and
isolation. A fault is one of wrong_workers.py.
"""

from __future__ import annotations

import json
import os
import sys
import time
import uuid
from dataclasses import dataclass, field
from typing import Any, Final

import msgpack
import zmq
from zmq.utils.monitor import recv_monitor_message

Header = dict[str, Any]

SUPPORTS: Final = ["chunks", "resume", "stop"]
SLOTS: Final = 2
PIECES: Final = 12
STORY_S: Final = 0.36
INPUTS: Final = {"echo": {"text": str}, "nap": {"ms": int}, "large": {"size": int}, "fail": {"text": str}}
INPUTS["story"] = {"text": str}
OFFERS: Final = [{"name": name, "revision": "r1"} for name in INPUTS]
DESCRIBED: Final = {"programs": {name: {"description": name, "inputs": {"type": "object"}} for name in INPUTS}}


def now() -> float:
    return time.monotonic()


@dataclass
class Attempt:
    """One lease that is held."""

    header: Header
    inputs: dict[str, Any]
    begun: float = field(default_factory=now)
    text: str = ""
    """Of a story: what is said by now, and of that what was sent."""
    sent: int = 0
    seq: int = 0
    credit: float = float("inf")
    want: tuple[str, ...] = ()
    resets: bool = False
    """The next chunk begins with a reset."""
    result: tuple[Header, Any] | None = None
    fenced: bool = False

    @property
    def left_ms(self) -> int:
        return max(0, int(self.header["timeout_ms"] - (now() - self.begun) * 1000))


class BareWorker:
    """A worker; subclasses break it."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._context: zmq.Context[Any] = zmq.Context()
        self._socket: zmq.Socket[bytes] | None = None
        self.worker = uuid.uuid4().hex
        self.held: dict[str, Attempt] = {}
        self.drain_at: float | None = None
        self.turn = now()
        self.connect()

    # -- the session --------------------------------------------------------------------------------------------------

    def new_socket(self) -> zmq.Socket[bytes]:
        socket = self._context.socket(zmq.DEALER)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.IMMEDIATE, 1)
        return socket

    def connect(self) -> None:
        if self._socket is not None:
            self._socket.disable_monitor()
            self._monitor.close(0)
            self._socket.close(0)
        self._socket = self.new_socket()
        self._monitor = self._socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        self._socket.connect(self._address)
        self.ping_s, self.dead_s, self.max_body = 5.0, 15.0, 16 << 20
        self.heard = self.said = now()
        self.greet()

    def greet(self) -> None:
        self.welcomed, self.synced, self.greeted = False, False, False

    def send(self, t: str, body: Any = None, **fields: Any) -> bool:
        header = {"t": t, **{name: value for name, value in fields.items() if value is not None}}
        frames = [b"DJP1", msgpack.packb(header)] + ([] if body is None else [msgpack.packb(body)])
        assert self._socket is not None
        try:
            self._socket.send_multipart(frames, zmq.DONTWAIT)
        except zmq.Again:
            return False
        self.said = now()
        return True

    def step(self) -> None:
        """One turn: what came, then what time asks for."""
        assert self._socket is not None
        if self._monitor.poll(0):
            recv_monitor_message(self._monitor)
            self.connect()
            return
        if not self.greeted:
            self.greeted = self.send("hello", name="bare", features=["chunks"])
        came = self._socket.poll(4)
        # One look at the clock for both: a stop between two would show as silence and not as a stop.
        looked = now()
        if self.was_stopped(looked) and self.begins_anew():
            pass
        elif came:
            for _ in range(100):
                try:
                    frames = self._socket.recv_multipart(zmq.DONTWAIT)
                except zmq.Again:
                    break
                if self.was_stopped(now()) and self.begins_anew():
                    break
                self.heard = now()
                self.take_frames(frames)
        elif self.welcomed and looked - self.heard >= self.dead_s:
            self.connect()
            return
        if self.welcomed and now() - self.said >= self.ping_s:
            self.send("ping")
        for attempt in list(self.held.values()):
            self.work(attempt)
        if self.drain_at is not None and now() >= self.drain_at:
            self.drain_at = None
            for lease, attempt in list(self.held.items()):
                if attempt.result is None:
                    del self.held[lease]
                    self.send("released", lease=lease, started=True, cause="drain")
            self.ready()

    def was_stopped(self, at: float) -> bool:
        """Whether so long has passed since this was last asked that the broker may have ended the session."""
        paused_s, self.turn = at - self.turn, at
        return self.welcomed and paused_s >= self.dead_s - self.ping_s

    def begins_anew(self) -> bool:
        """After a stop, what waits in the socket may run elsewhere by now (R-3.16): whether it was left there."""
        self.connect()
        return True

    def take_frames(self, frames: list[bytes]) -> None:
        """Whatever is wrong is dropped."""
        try:
            if len(frames) not in (2, 3) or frames[0] != b"DJP1":
                return
            pairs = msgpack.unpackb(frames[1], object_pairs_hook=list)
            header = msgpack.unpackb(frames[1])
            if len(pairs) != len(header):
                return
            take = getattr(self, f"take_{header['t']}", None)
            if take is not None:
                take(header, frames[2] if len(frames) == 3 else b"")
        except (ValueError, TypeError, KeyError, AttributeError, msgpack.UnpackException):
            return

    def take_ping(self, header: Header, _: bytes) -> None:
        self.send("pong", n=header.get("n", 0))

    def take_welcome(self, header: Header, _: bytes) -> None:
        self.welcomed = True
        self.ping_s, self.dead_s = header["ping_ms"] / 1000, header["dead_ms"] / 1000
        self.max_body = header["limits"]["max_body_bytes"]
        self.report()

    def take_error(self, header: Header, _: bytes) -> None:
        if header["reason"] == "no_session":
            if self.welcomed:
                self.greet()
        elif header.get("lease") in self.held and header["reason"] in (
            "body_too_large",
            "header_too_large",
            "bad_header",
        ):
            self.end(self.held[header["lease"]], "RESOURCE_EXHAUSTED", "result_too_large")

    def take_bye(self, _: Header, __: bytes) -> None:
        self.greet()

    # -- what is held -------------------------------------------------------------------------------------------------

    def entry(self, lease: str, attempt: Attempt) -> Header:
        ids = {name: attempt.header[name] for name in ("ns", "job", "attempt", "digest")}
        state = "running" if attempt.result is None else "done"
        return {"lease": lease, **ids, "state": state, "seq": attempt.seq, "left_ms": attempt.left_ms}

    def report(self) -> None:
        self.held = {lease: attempt for lease, attempt in self.held.items() if not attempt.fenced}
        held = [self.entry(lease, attempt) for lease, attempt in self.held.items()]
        self.send("ready", DESCRIBED, worker=self.worker, slots={"default": SLOTS}, programs=OFFERS, held=held)

    def ready(self) -> None:
        self.send("ready", worker=self.worker, slots={"default": SLOTS}, programs=OFFERS)

    def take_synced(self, header: Header, _: bytes) -> None:
        self.synced = True
        kept = header.get("keep", [])
        self.held = {lease: attempt for lease, attempt in self.held.items() if lease in kept}
        for attempt in self.held.values():
            attempt.want = ()
            self.send_result(attempt)

    def take_ack(self, header: Header, _: bytes) -> None:
        for lease in header["leases"]:
            self.held.pop(lease, None)

    # -- attempts -----------------------------------------------------------------------------------------------------

    def take_dispatch(self, header: Header, octets: bytes) -> None:
        lease = header["lease"]
        if not self.synced or lease in self.held:
            return
        self.drain_at = None
        if sum(each.result is None for each in self.held.values()) >= SLOTS:
            self.send("released", lease=lease, started=False, cause="capacity")
            return
        attempt = self.held[lease] = Attempt(header, {})
        attempt.want = tuple(header.get("want", ()))
        attempt.credit = header.get("window", float("inf"))
        attempt.resets = header["attempt"] > 1
        problem = self.check(header, octets, attempt)
        if problem is not None:
            self.end(attempt, *problem[:2], details=problem[2])
        elif "started" in attempt.want:
            self.send("started", lease=lease, attempt=header["attempt"], revision="r1", worker="bare")

    def check(self, header: Header, octets: bytes, attempt: Attempt) -> tuple[str, str, Any] | None:
        """Code, reason and details if it cannot be run."""
        if header["program"] not in INPUTS:
            return "NOT_FOUND", "unknown_program", None
        if header["revision"] != "r1":
            return "NOT_FOUND", "unknown_revision", None
        if header.get("profile", "default") != "default":
            return "NOT_FOUND", "unknown_profile", None
        try:
            body = msgpack.unpackb(octets)
            inputs = body["inputs"] or {}
            attempt.inputs = dict(inputs.items())
        except (ValueError, TypeError, KeyError, AttributeError, msgpack.UnpackException):
            return "INVALID_ARGUMENT", "invalid_body", None
        wanted = INPUTS[header["program"]]
        for name, value in attempt.inputs.items():
            if isinstance(value, float) and value.is_integer():
                attempt.inputs[name] = int(value)
        wrong = [{"field": name, "problem": "missing"} for name in wanted if name not in attempt.inputs]
        for name, value in attempt.inputs.items():
            if name not in wanted:
                wrong.append({"field": name, "problem": "unknown"})
            elif not isinstance(value, wanted[name]):
                wrong.append({"field": name, "problem": "type"})
        return ("INVALID_ARGUMENT", "invalid_inputs", {"fields": wrong}) if wrong else None

    def work(self, attempt: Attempt) -> None:
        """Go on with an attempt, as far as time has come."""
        if attempt.result is not None:
            return
        ran_s, inputs = now() - attempt.begun, attempt.inputs
        if self.is_late(attempt):
            self.end(attempt, "DEADLINE_EXCEEDED", "deadline")
            return
        match attempt.header["program"]:
            case "echo":
                self.end(attempt, outputs={"text": inputs["text"]})
            case "nap" if ran_s * 1000 >= inputs["ms"]:
                self.end(attempt, outputs={"ms": inputs["ms"]})
            case "large":
                self.end(attempt, outputs={"text": "x" * inputs["size"]})
            case "fail":
                self.end(attempt, "UNKNOWN", "program_error", message=inputs["text"])
            case "story":
                said = int(min(1.0, ran_s / STORY_S) * PIECES)
                attempt.text = inputs["text"][: len(inputs["text"]) * said // PIECES]
                self.tell(attempt)
                if said == PIECES:
                    self.end(attempt, outputs={"answer": attempt.text})

    def is_late(self, attempt: Attempt) -> bool:
        return attempt.left_ms == 0

    def tell(self, attempt: Attempt, *, last: bool = False) -> None:
        """Send what is new of the text, within credit; the last chunk needs none (R-9.3)."""
        if not self.synced or "chunks" not in attempt.want or (attempt.seq >= attempt.credit and not last):
            return
        text = attempt.text if attempt.resets else attempt.text[attempt.sent :]
        if not text:
            return
        fields = {"lease": attempt.header["lease"], "attempt": attempt.header["attempt"], "seq": attempt.seq}
        self.send("chunk", {"fields": {"answer": text}}, **fields, reset=attempt.resets or None)
        attempt.seq, attempt.sent, attempt.resets = attempt.seq + 1, len(attempt.text), False

    def end(self, attempt: Attempt, code: str = "OK", reason: str | None = None, **more: Any) -> None:
        """The attempt has this result."""
        outputs = more.pop("outputs", None)
        body = None if outputs is None else {"outputs": outputs}
        if body is not None and len(msgpack.packb(body)) > self.max_body:
            body, code, reason = None, "RESOURCE_EXHAUSTED", "result_too_large"
        if code == "OK":
            self.tell(attempt, last=True)
        timings = {"run_ms": int((now() - attempt.begun) * 1000)}
        said = {"code": code, "reason": reason, "usage": {"calls": 0}, "timings": timings, "revision": "r1", **more}
        attempt.result = said, body
        self.send_result(attempt)

    def send_result(self, attempt: Attempt) -> None:
        if self.synced and attempt.result is not None:
            said, body = attempt.result
            ids = {"lease": attempt.header["lease"], "attempt": attempt.header["attempt"], "chunks": attempt.seq}
            self.send("result", body, **ids, **said)

    def take_cancel(self, header: Header, _: bytes) -> None:
        attempt = self.held.get(header["lease"])
        ends = {"cancel": ("CANCELLED", "cancelled"), "deadline": ("DEADLINE_EXCEEDED", "deadline")}
        ends["fenced"] = ends["cancel"]
        end = ends[header["cause"]]
        if attempt is not None:
            attempt.fenced = header["cause"] == "fenced"
            if attempt.result is None:
                self.end(attempt, *end)

    def take_credit(self, header: Header, _: bytes) -> None:
        attempt = self.held.get(header["lease"])
        if attempt is not None and header["attempt"] == attempt.header["attempt"]:
            attempt.credit = max(attempt.credit, header["upto"])

    def take_attach(self, header: Header, _: bytes) -> None:
        attempt = self.held.get(header["lease"])
        if attempt is None or attempt.result is not None:
            return
        attempt.want = tuple(header.get("want", ()))
        attempt.credit = attempt.seq + header.get("window", float("inf"))
        attempt.resets = True
        if "started" in attempt.want:
            ids = {"lease": header["lease"], "attempt": attempt.header["attempt"]}
            self.send("started", **ids, revision="r1", worker="bare")
        self.tell(attempt)

    def take_drain(self, header: Header, _: bytes) -> None:
        self.drain_at = now() + header["grace_ms"] / 1000


def main() -> None:
    """Run until the end of stdin."""
    from tests.conformance.kit.wrong_workers import FAULTS

    made = FAULTS[sys.argv[1]][0] if len(sys.argv) > 1 else BareWorker
    worker = made(os.environ["DSPYMQ_BROKERS"])
    print(json.dumps({"ready": True, "pid": os.getpid(), "supports": SUPPORTS}), flush=True)
    stdin = zmq.Poller()
    stdin.register(sys.stdin.fileno(), zmq.POLLIN)
    while not stdin.poll(0):  # nothing is told: what can be read is the end
        worker.step()
    os._exit(0)


if __name__ == "__main__":
    main()
