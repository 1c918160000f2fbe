"""An executor's process, pure: takes a dispatch, calls the model once, streams, calls tools, answers or dies.

What a job does stands in its inputs (`Plan`), so that it goes over the wire like any other. Streams go through the
real `StreamBuffer`, tool calls through the real `OpenCalls`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec

from dspymq.protocol import body as bodies
from dspymq.protocol import worker_messages as w
from dspymq.protocol.messages import Bye, Ping, Usage
from dspymq.worker.executor.streams import StreamBuffer
from dspymq.worker.executor.tool_calls import OpenCall, OpenCalls
from tests.unit.model.ledger import Ledger
from tests.unit.model.world import World

BEAT_MS: Final = 600
TOOL_MS: Final = 2_000


class Plan(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a job's program does. Times in milliseconds."""

    run_ms: int = 20
    pieces: int = 0
    """Pieces of text that it streams."""
    tools: int = 0
    """Calls of its client's tool."""
    end: str = "ok"
    """ok; fail: the program raises; invalid: refused before it runs; hang: never ends by itself; die: takes its
    process with it."""
    stubborn: bool = False
    """Ignores its cancel."""


def tool_value(lease: str, left: int) -> str:
    """What the tool gives for these arguments."""
    return f"tool-of-{lease[-4:]}-{left}"


class Executor:
    """One process. `say(message, body)` writes to its pipe, `exited(code)` comes after all that it wrote."""

    def __init__(
        self,
        world: World,
        ledger: Ledger,
        name: str,
        slots: dict[str, int],
        say: Callable[[Any, bytes], None],
        exited: Callable[[int | None], None],
    ) -> None:
        self.world = world
        self.ledger = ledger
        self.name = name
        self.say = say
        self.alive = True
        self.is_ready = False
        self.frozen = False
        self.attempts: dict[str, Attempt] = {}
        self._slots = slots
        self._exited = exited
        self._told_ms = 0
        self._deferred: list[tuple[Callable[..., None], tuple[Any, ...]]] = []

    def ready(self) -> None:
        """It has loaded its programs."""
        self.is_ready = True
        offers = [w.Offer(name="p", revision="r"), w.Offer(name="q", revision="r")]
        message = w.Ready(worker=self.name, slots=self._slots, programs=offers, profiles=["default"])
        self.say(message, bodies.encode(programs={"p": {}, "q": {}}))
        self._beat()

    def told(self, message: Any, body: bytes) -> None:
        """The supervisor wrote to the pipe."""
        self._told_ms = max(self.world.now_ms + self.world.rng.randint(0, 2), self._told_ms)
        self.later(self._told_ms - self.world.now_ms, self._take, message, body)

    def later(self, ms: int, call: Callable[..., None], *args: Any) -> None:
        """Do this then, unless the process has ended; one that stands still does it when it goes on."""
        self.world.after(ms, self._now, call, args)

    def die(self, code: int | None) -> None:
        """The process ends; what it has written is still read."""
        if not self.alive:
            return
        self.alive = False
        self.world.saw(self.name, f"executor ends with {code}, {len(self.attempts)} jobs")
        for lease in self.attempts:
            self.ledger.executor_ended(lease)
        self.attempts.clear()
        self._exited(code)

    def freeze(self, ms: int) -> None:
        """It stands still (a program holds the GIL)."""
        if self.alive and not self.frozen:
            self.frozen = True
            self.world.after(ms, self.thaw)

    def thaw(self) -> None:
        """It goes on."""
        self.frozen = False
        deferred, self._deferred = self._deferred, []
        for call, args in deferred:
            self._now(call, args)

    # -- inside -----------------------------------------------------------------------------------------------------

    def _now(self, call: Callable[..., None], args: tuple[Any, ...]) -> None:
        if not self.alive:
            return
        if self.frozen:
            self._deferred.append((call, args))
        else:
            call(*args)

    def _beat(self) -> None:
        self.say(Ping(), b"")
        self.later(BEAT_MS, self._beat)

    def _take(self, message: Any, body: bytes) -> None:
        if isinstance(message, Bye):
            self.world.check(not self.attempts, f"{self.name} is told to leave with jobs on it")
            self.die(0)
        elif isinstance(message, w.Dispatch):
            self._dispatch(message, body)
        elif message.lease in self.attempts:
            self.attempts[message.lease].told(message, body)

    def _dispatch(self, dispatch: w.Dispatch, body: bytes) -> None:
        world = self.world
        world.check(dispatch.lease not in self.attempts, f"{self.name}: a lease is dispatched once", dispatch)
        lanes = [attempt.dispatch.lane for attempt in self.attempts.values()] + [dispatch.lane]
        world.check(
            lanes.count(dispatch.lane) <= self._slots.get(dispatch.lane, 0), f"{self.name}: over its slots", lanes
        )
        alone = [a for a in self.attempts.values() if a.dispatch.isolate or dispatch.isolate]
        world.check(not alone, f"{self.name}: a job with `isolate` has company", dispatch)
        self.attempts[dispatch.lease] = Attempt(self, dispatch, body)


class Attempt:
    """One lease at work."""

    def __init__(self, executor: Executor, dispatch: w.Dispatch, body: bytes) -> None:
        self._executor = executor
        self.dispatch = dispatch
        self._want = frozenset(dispatch.want)
        self._plan = msgspec.convert(bodies.part(body, "inputs")["plan"], Plan)
        self._started = False
        self._calls = 0
        self._piece = 0
        self._cause = ""
        self._over = False
        self._text = ""
        self._tools = OpenCalls()
        self._tools_left = self._plan.tools if "tools" in self._want else 0
        self._waits = False
        """The program waits for a tool."""
        self._stream = StreamBuffer(
            wanted="chunks" in self._want, window=dispatch.window, begin_with_reset=dispatch.attempt > 1
        )
        self._later(executor.world.rng.randint(0, 3), self._begin)
        self._later(dispatch.timeout_ms, self._cancel, "deadline")

    def told(self, message: Any, body: bytes) -> None:
        """The supervisor has something for this lease."""
        if isinstance(message, w.Cancel):
            self._cancel(message.cause)
        elif isinstance(message, w.Credit):
            if message.attempt == self.dispatch.attempt:
                self._stream.credit(message.upto)
                self._flush()
        elif isinstance(message, w.Attach):
            self._attach(message)
        elif isinstance(message, w.ToolResult):
            self._tool_result(message, body)

    # -- the program ------------------------------------------------------------------------------------------------

    def _later(self, ms: int, call: Callable[..., None], *args: Any) -> None:
        self._executor.later(ms, self._unless_over, call, args)

    def _unless_over(self, call: Callable[..., None], args: tuple[Any, ...]) -> None:
        if not self._over:
            call(*args)

    def _begin(self) -> None:
        if self._plan.end == "invalid":
            self._result("INVALID_ARGUMENT", "invalid_inputs")
            return
        self._started = True
        self._send_started()
        self._calls = 1
        self._executor.ledger.call(self.dispatch.job, self.dispatch.lease, self._executor.name)
        self._later(self._step_ms(), self._step)

    def _step_ms(self) -> int:
        return self._plan.run_ms // (self._plan.pieces + 1)

    def _step(self) -> None:
        if self._tools_left and not self._waits and self._piece * 2 >= self._plan.pieces:
            self._call_tool()
            return
        if self._piece < self._plan.pieces:
            self._write(f"{self._piece} ")
            self._piece += 1
            self._later(self._step_ms(), self._step)
        elif self._plan.end == "die":
            self._executor.die(-11)
        elif self._plan.end == "fail":
            self._result("UNKNOWN", "program_error")
        elif self._plan.end == "ok":
            self._finish()

    def _write(self, text: str) -> None:
        piece = text if self._text else f"{self.dispatch.lease}: {text}"
        self._text += piece
        self._stream.write(0, "text", piece)
        self._flush()

    def _finish(self) -> None:
        if not self._text:
            self._text = f"{self.dispatch.lease}: all at once"
        self._stream.settle({"text": self._text})
        self._executor.ledger.texts[self.dispatch.lease] = self._text
        self._result("OK", None, bodies.encode(outputs={"text": self._text, "run": [self.dispatch.lease]}))

    def _cancel(self, cause: str) -> None:
        if self._cause or self._plan.stubborn:
            return
        self._cause = cause
        self._later(self._executor.world.rng.randint(0, 5), self._stopped)

    def _stopped(self) -> None:
        if self._cause == "deadline":
            self._result("DEADLINE_EXCEEDED", "deadline")
        else:
            self._result("CANCELLED", "cancelled")

    # -- tools ------------------------------------------------------------------------------------------------------

    def _call_tool(self) -> None:
        self._tools_left -= 1
        self._waits = True
        body = bodies.encode(args={"lease": self.dispatch.lease, "left": self._tools_left})
        call = self._tools.open("tool", body, self._executor.world.now_ms, TOOL_MS)
        if "tools" in self._want:
            self._send_call(call, TOOL_MS)
        self._later(TOOL_MS, self._tool_over, call.number, "no answer ")

    def _send_call(self, call: OpenCall, timeout_ms: int) -> None:
        dispatch = self.dispatch
        message = w.ToolCall(
            lease=dispatch.lease, attempt=dispatch.attempt, call=call.number, name=call.name, timeout_ms=timeout_ms
        )
        self._executor.say(message, call.body)

    def _tool_result(self, message: w.ToolResult, body: bytes) -> None:
        if message.attempt == self.dispatch.attempt:
            self._tool_over(message.call, f"{message.code} {bodies.decode(body).get('value')} ")

    def _tool_over(self, number: int, text: str) -> None:
        if self._tools.close(number):
            world = self._executor.world
            mine = not text.startswith("OK") or text == f"OK {tool_value(self.dispatch.lease, self._tools_left)} "
            world.check(mine, "the answer of another call", self.dispatch, text)
            self._waits = False
            self._write(text)
            self._later(self._step_ms(), self._step)

    # -- messages ---------------------------------------------------------------------------------------------------

    def _attach(self, message: w.Attach) -> None:
        self._want = frozenset(message.want)
        if self._started and "started" in self._want:
            self._send_started()
        self._stream.attach(wanted="chunks" in self._want, window=message.window)
        self._flush()
        if "tools" in self._want:
            for call, left_ms in self._tools.again(self._executor.world.now_ms):
                self._send_call(call, left_ms)

    def _send_started(self) -> None:
        dispatch = self.dispatch
        self._executor.say(
            w.Started(lease=dispatch.lease, attempt=dispatch.attempt, revision="r", worker=self._executor.name), b""
        )

    def _flush(self, *, last: bool = False) -> None:
        while (chunk := self._stream.take(last=last)) is not None:
            message = w.Chunk(
                lease=self.dispatch.lease, attempt=self.dispatch.attempt, seq=chunk.seq, reset=chunk.reset
            )
            self._executor.say(message, bodies.encode(fields=chunk.fields))

    def _result(self, code: str, reason: str | None, body: bytes = b"") -> None:
        self._flush(last=True)
        self._over = True
        del self._executor.attempts[self.dispatch.lease]
        self._executor.say(
            w.Result(
                lease=self.dispatch.lease,
                attempt=self.dispatch.attempt,
                code=code,
                reason=reason,
                chunks=self._stream.next_seq,
                usage=Usage(calls=self._calls),
                revision="r",
            ),
            body,
        )
