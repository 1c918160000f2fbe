"""A client's process: the real core, played as `driver.Driver` plays it, and a user who reads, cancels, leaves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec

from dspymq import events as ev
from dspymq.core import ClientCore, CoreConfig
from dspymq.exceptions import DspymqError
from dspymq.prediction import Prediction
from dspymq.protocol import body as bodies
from dspymq.protocol import client_codec, encode
from dspymq.protocol import client_messages as c
from dspymq.tool_calls import Answer
from tests.unit.model.client_oracle import ClientOracle
from tests.unit.model.executor import Plan, tool_value
from tests.unit.model.ledger import Ledger
from tests.unit.model.wire import Frames, Island, Network, Socket
from tests.unit.model.world import World

SLACK_MS: Final = 500
CODEC: Final = client_codec()


class Handle:
    """One call of a user: a job that was submitted or attached to, until its one end."""

    def __init__(self, opened: ev.OpenJob, plan: Plan, now_ms: int) -> None:
        self.opened = opened
        self.job = opened.message.job
        self.plan = plan
        self.due_ms = now_ms + opened.timeout_ms
        self.wants_text = "chunks" in opened.message.want
        self.reads = True
        """Whether its user takes the text that comes; without that no credit is given."""
        self.text: dict[str, str] = {}
        self.value: Prediction | DspymqError | None = None
        self.cancelled = False
        self.was_sent = False
        self.alone_ms = 0
        """The longest time in which its client heard no broker."""


class ClientHost:
    """One host; its process may crash and be started again."""

    def __init__(
        self, world: World, network: Network, ledger: Ledger, name: str, addresses: Sequence[str], oracle: ClientOracle
    ) -> None:
        self.world = world
        self.name = name
        self.island = Island()
        self.handles: dict[str, Handle] = {}
        """What is open in the process that runs."""
        self.lost: list[Handle] = []
        """What was open when a process crashed."""
        self.socket: Socket | None = None
        self.stopped = False
        self.went_on_ms = 0
        self.reads = True
        self.closed = False
        self._network = network
        self._ledger = ledger
        self._addresses = list(addresses)
        self._oracle = oracle
        self._waiting: list[Callable[[], None]] = []
        self._timer_ms = 0
        self._starts = 0
        self._rids = 0
        self._heard_ms = 0
        self._tools_run: set[Any] = set()
        self.core = self._new_core()

    def _new_core(self) -> ClientCore:
        self._starts += 1
        config = CoreConfig(addresses=self._addresses, name=self.name, deadline_slack_ms=SLACK_MS)
        self._oracle.new_process(self.name)
        return ClientCore(config, self.world.rng.random)

    # -- its user ---------------------------------------------------------------------------------------------------

    def submit(self, message: c.Submit, plan: Plan, *, resume: bool = False) -> Handle:
        """Run a job, or with `resume` go on with one that an earlier process had."""
        body = bodies.encode(inputs={"plan": msgspec.to_builtins(plan)})
        if not message.redeliver:
            self._ledger.once.add(message.job)
        return self._open(ev.OpenJob(message, body, message.timeout_ms, resume), plan)

    def attach(self, message: c.Attach, plan: Plan, timeout_ms: int) -> Handle:
        """Join a job of anybody."""
        return self._open(ev.OpenJob(message, b"", timeout_ms), plan)

    def cancel(self, handle: Handle) -> None:
        """Stop a job."""
        if handle.job in self.handles and not self.stopped and not self.closed:
            handle.cancelled = True
            self._oracle.cancelled.add(handle.job)
            self._feed(ev.CancelJob(handle.job))

    def ask(self, method: str, **params: Any) -> None:
        """Ask the broker something; the answer does not matter here."""
        if not self.stopped and not self.closed:
            self._rids += 1
            self._feed(ev.AskBroker(f"r{self._starts}.{self._rids}", method, bodies.encode(params=params), 3_000))

    def close(self) -> None:
        """Close the client: it says bye."""
        if not self.stopped and not self.closed:
            self._oracle.left |= self.handles.keys()
            self._feed(ev.CloseClient())
            self.closed = True

    def crash(self) -> None:
        """The process is gone."""
        self.world.saw(self.name, f"client crashes with {len(self.handles)} jobs")
        if self.socket is not None:
            self.socket.close()
            self.socket = None
        self._oracle.left |= self.handles.keys()
        self.lost += self.handles.values()
        self.handles = {}
        self.stopped = False
        self._waiting.clear()
        self._timer_ms = 0
        self.core = self._new_core()
        self.closed = False

    def stop(self, ms: int) -> None:
        """SIGSTOP, and SIGCONT so much later."""
        if not self.stopped:
            self.stopped = True
            self.world.saw(self.name, f"client stops for {ms} ms")
            self.world.after(ms, self.go_on, self.core)

    def read(self, reads: bool) -> None:
        """Whether its process reads its socket at all."""
        self.reads = reads
        if self.socket is not None:
            self.socket.reads = reads
            if reads and self.socket.connection is not None:
                self.socket.connection.broker.drain_outbox(self.socket.connection)

    def look(self, in_contact: bool) -> None:
        """How long no broker could know of this client."""
        if in_contact:
            self._heard_ms = self.world.now_ms
        for handle in self.handles.values():
            handle.alone_ms = max(handle.alone_ms, self.world.now_ms - self._heard_ms)

    # -- the driver -------------------------------------------------------------------------------------------------

    def _open(self, opened: ev.OpenJob, plan: Plan) -> Handle:
        handle = Handle(opened, plan, self.world.now_ms)
        self.handles[handle.job] = handle
        self._feed(opened)
        return handle

    def _arrives(self, take: Callable[[], None]) -> None:
        if self.stopped:
            self._waiting.append(take)
        else:
            take()

    def go_on(self, core: ClientCore) -> None:
        """SIGCONT."""
        if core is not self.core or not self.stopped:
            return
        self.stopped = False
        self.went_on_ms = self.world.now_ms
        self.world.saw(self.name, "client goes on")
        waiting, self._waiting = self._waiting, []
        if self.world.chance(0.5):
            self._feed(ev.Tick())
        for take in waiting:
            take()
        self._feed(ev.Tick())

    def _feed(self, event: ev.Input) -> None:
        core = self.core
        for output in core.handle(event, self.world.now_ms):
            self._do(output)
        wake_ms = core.wake_at_ms()
        if wake_ms is not None and (self._timer_ms <= self.world.now_ms or wake_ms < self._timer_ms):
            self._timer_ms = max(wake_ms, self.world.now_ms + 1)
            self.world.at(self._timer_ms, self._tick, core, self._timer_ms)

    def _tick(self, core: ClientCore, timer_ms: int) -> None:
        if core is self.core and timer_ms == self._timer_ms and not self.stopped:
            self._timer_ms = 0
            self._feed(ev.Tick())

    def _do(self, output: ev.Output) -> None:
        match output:
            case ev.Send(message, body):
                if self.socket is not None:
                    self._oracle.sends(self, message)
                    self.socket.send(encode(message, body))
            case ev.JobEnded(job, value):
                self._ended(job, value)
            case ev.JobText(job, chunks):
                self._text(self.handles[job], chunks)
            case ev.ToolCalled():
                self._tool(output)
            case ev.Connect(address):
                self._connect(address)
            case ev.Disconnect(linger_ms):
                self._disconnect(linger=linger_ms > 0)
            case ev.SessionUp(_, welcome, _):
                self._oracle.session(self.name, welcome.epoch)
            case _:
                pass

    def _connect(self, address: str) -> None:
        self._disconnect(linger=False)
        self._oracle.connects(self.name)
        self.socket = Socket(
            self._network,
            self.island,
            "clients",
            address,
            self.name,
            lambda frames: self._arrives(lambda: self._received(socket, frames)),
            lambda reason: self._arrives(lambda: self._down(socket, reason)),
        )
        self.socket.reads = self.reads
        socket = self.socket

    def _disconnect(self, *, linger: bool) -> None:
        if self.socket is not None:
            self.socket.close(linger=linger)
            self.socket = None

    def _received(self, socket: Socket, frames: Frames) -> None:
        if socket is self.socket:
            message, body = CODEC.decode(frames)
            self._oracle.receives(self, message, body)
            self._feed(ev.Received(message, body))

    def _down(self, socket: Socket, reason: str) -> None:
        if socket is self.socket:
            self._feed(ev.LinkDown(reason))

    # -- what its user sees -----------------------------------------------------------------------------------------

    def _text(self, handle: Handle, chunks: Sequence[Any]) -> None:
        for chunk in chunks:
            if chunk.reset:
                handle.text = {}
            if chunk.field:
                handle.text[chunk.field] = handle.text.get(chunk.field, "") + chunk.text
            if handle.reads:
                self.world.after(self.world.rng.randint(0, 30), self._read, handle, chunk.attempt, chunk.seq)

    def _read(self, handle: Handle, attempt: int, seq: int) -> None:
        if self.handles.get(handle.job) is handle and not self.stopped:
            self._feed(ev.ReadChunk(handle.job, attempt, seq))

    def _ended(self, job: str, value: Prediction | DspymqError) -> None:
        handle = self.handles.pop(job, None)
        self.world.check(handle is not None, f"{job} ends once", value)
        if handle is not None:
            handle.value = value
            self.world.saw(self.name, f"{job} ends: {value if isinstance(value, DspymqError) else 'OK'}")
            self._oracle.ended(self, handle, value)

    def _tool(self, called: ev.ToolCalled) -> None:
        """Run a tool: its arguments say for which call, and each is run once."""
        args = bodies.part(called.body, "args")
        call = (self.core, called.job, args["lease"], args["left"])
        self.world.check(call not in self._tools_run, f"{self.name} runs a tool twice for one call", called)
        self._tools_run.add(call)
        if self.world.chance(0.9):
            answer = Answer(body=bodies.encode(value=tool_value(args["lease"], args["left"])))
        else:
            answer = Answer(code="UNKNOWN", message="the tool raised")
        self.world.after(self.world.some(60), self._tool_done, self.core, ev.AnswerTool(called.job, called.run, answer))

    def _tool_done(self, core: ClientCore, answer: ev.AnswerTool) -> None:
        if core is self.core:
            self._arrives(lambda: self._feed(answer))
