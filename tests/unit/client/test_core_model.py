"""The core against a small model of a broker on a network that loses everything now and then.

Whatever the order of events: each job ends exactly once, with its result if there was one in time; nothing is sent
without a session but hello; what has ended is never sent again; every result that comes is acknowledged, unless another
broker has followed; nothing is left over.
"""

from collections import deque
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from dspymq import events as ev
from dspymq import exceptions
from dspymq.prediction import Prediction
from dspymq.protocol import body as bodies
from dspymq.protocol import client_messages as cm
from dspymq.protocol import messages as m
from dspymq.session import BACKOFF_MAX_MS, State
from tests.unit.client.core_bench import Bench, welcome

OUTPUTS = bodies.encode(outputs={"answer": "x"})


class World(RuleBasedStateMachine):
    """A client core, two queues of messages under way, and a broker that may know its session and jobs."""

    @initialize(random=st.floats(0, 1, exclude_max=True), addresses=st.integers(1, 3))
    def begin(self, random: float, addresses: int) -> None:
        self.bench = Bench(random=random, addresses=[f"tcp://a:{n}" for n in range(addresses)])
        self.opened: dict[str, str] = {}
        self.ended: dict[str, Any] = {}
        self.cancelled: set[str] = set()
        self.finished: set[str] = set()
        self.to_broker: deque[cm.Message] = deque()
        self.to_client: deque[tuple[cm.Message, bytes]] = deque()
        self.linked = False
        self.reachable = True
        self.greeted = False
        self.epoch = 1
        self.sessions = 0
        self.known: dict[str, str] = {}
        self.created: dict[tuple[int, str], int] = {}
        self.unacked: set[str] = set()
        self.refuse_next = ""
        self.closed = False

    def feed(self, event: ev.Input) -> None:
        live_before = self.bench.core.session.live
        outputs = self.bench.feed(event)
        live = live_before
        for output in outputs:
            if isinstance(output, ev.Connect):
                self.cut_quietly()
                self.linked = self.reachable
                if not self.reachable:
                    self.to_client.clear()
            elif isinstance(output, ev.Disconnect):
                if not output.linger_ms:
                    self.cut_quietly()
            elif isinstance(output, ev.SessionUp):
                live = True
            elif isinstance(output, ev.SessionDown):
                live = False
            elif isinstance(output, ev.Send):
                message = output.message
                assert live or isinstance(message, m.Hello | m.Pong), f"{message} without a session"
                if isinstance(message, cm.Submit):
                    assert message.job not in self.ended, "sent again after its end"
                    assert message.timeout_ms >= 1
                elif isinstance(message, cm.Ack):
                    self.unacked -= set(message.jobs)
                if self.linked:
                    self.to_broker.append(message)
            elif isinstance(output, ev.JobEnded):
                assert output.job not in self.ended, "ended twice"
                self.ended[output.job] = output.value

    def cut_quietly(self) -> None:
        self.to_broker.clear()
        self.to_client.clear()
        self.linked = self.greeted = False

    # What the user does.

    @rule(timeout_ms=st.sampled_from([50, 5_000, 60_000]))
    def submit(self, timeout_ms: int) -> None:
        job = f"j{len(self.opened)}"
        self.opened[job] = "open"
        self.feed(ev.OpenJob(cm.Submit(job=job, program="p", timeout_ms=timeout_ms), b"b", timeout_ms))

    @precondition(lambda self: self.opened)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        job = data.draw(st.sampled_from(sorted(self.opened)))
        if job not in self.ended:
            self.cancelled.add(job)
        self.feed(ev.CancelJob(job))

    # What the network does.

    @precondition(lambda self: self.to_broker)
    @rule(count=st.integers(1, 5))
    def carry_to_broker(self, count: int) -> None:
        for _ in range(min(count, len(self.to_broker))):
            self.broker_takes(self.to_broker.popleft())

    @precondition(lambda self: self.to_client)
    @rule(count=st.integers(1, 5))
    def carry_to_client(self, count: int) -> None:
        for _ in range(count):
            if self.to_client:
                message, body = self.to_client.popleft()
                if isinstance(message, cm.Result):
                    self.unacked.add(message.job)
                self.feed(ev.Received(message, body))

    @rule()
    def cut(self) -> None:
        self.cut_quietly()
        self.feed(ev.LinkDown())

    @rule()
    def cut_without_a_word(self) -> None:
        self.cut_quietly()

    @rule(reachable=st.booleans())
    def reach(self, reachable: bool) -> None:
        self.reachable = reachable

    @rule(ms=st.sampled_from([1, 30, 1_000, 12_000, 31_000]))
    def time_passes(self, ms: int) -> None:
        end_ms = self.bench.now_ms + ms
        while (wake := self.bench.core.wake_at_ms()) is not None and wake <= end_ms:
            self.bench.now_ms = max(self.bench.now_ms, wake)
            self.feed(ev.Tick())
        self.bench.now_ms = end_ms

    # What the broker does.

    @rule(forget_connection=st.booleans())
    def restart(self, forget_connection: bool) -> None:
        self.epoch += 1
        self.known.clear()
        self.unacked.clear()
        self.greeted = False
        if forget_connection:
            self.cut()

    @rule(reason=st.sampled_from(["queue_full", "shutdown"]))
    def refuse(self, reason: str) -> None:
        self.refuse_next = reason

    @precondition(lambda self: "running" in self.known.values())
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        job = data.draw(st.sampled_from(sorted(job for job, state in self.known.items() if state == "running")))
        self.known[job] = "done"
        self.send_result(job, "OK")

    def send_result(self, job: str, code: str) -> None:
        if self.linked and self.greeted:
            body = OUTPUTS if code == "OK" else b""
            self.to_client.append((cm.Result(job=job, attempt=1, code=code), body))

    def broker_takes(self, message: cm.Message) -> None:
        if isinstance(message, m.Hello):
            self.greeted = True
            self.sessions += 1
            self.to_client.append((welcome(f"e{self.epoch}", f"s{self.sessions}"), b""))
            return
        if not self.greeted:
            if not isinstance(message, m.Bye | m.Pong):
                job = getattr(message, "job", None)
                error = m.Error(code="FAILED_PRECONDITION", reason="no_session", retryable=True, job=job)
                self.to_client.append((error, b""))
            return
        if isinstance(message, m.Ping):
            self.to_client.append((m.Pong(n=message.n), b""))
        elif isinstance(message, cm.Submit):
            self.broker_submits(message)
        elif isinstance(message, cm.Cancel):
            if self.known.get(message.job) == "running":
                self.known[message.job] = "cancelled"
                self.send_result(message.job, "CANCELLED")
        elif isinstance(message, cm.Ack):
            for job in message.jobs:
                if job in self.known:
                    self.known[job] = "gone"

    def broker_submits(self, message: cm.Submit) -> None:
        job = message.job
        state = self.known.get(job)
        if state is None and self.refuse_next:
            reason, self.refuse_next = self.refuse_next, ""
            code = "RESOURCE_EXHAUSTED" if reason == "queue_full" else "UNAVAILABLE"
            after_ms = 200 if reason == "queue_full" else None
            error = m.Error(code=code, reason=reason, retryable=True, job=job, retry_after_ms=after_ms)
            self.to_client.append((error, b""))
        elif state is None:
            self.known[job] = "running"
            times = self.created[self.epoch, job] = self.created.get((self.epoch, job), 0) + 1
            assert times == 1
        elif state == "gone":
            raise AssertionError("sent again although its result was acknowledged")
        elif state in ("done", "cancelled"):
            self.send_result(job, "OK" if state == "done" else "CANCELLED")

    # What always holds.

    @invariant()
    def open_is_open(self) -> None:
        if not hasattr(self, "bench"):
            return
        core = self.bench.core
        assert len(core.jobs) == len(self.opened) - len(self.ended)
        if core.session.state in (State.WAITING, State.GREETING):
            wake = core.wake_at_ms()
            assert wake is not None
            if core.session.state is State.WAITING:
                assert core._timers.at("reconnect") - self.bench.now_ms <= BACKOFF_MAX_MS  # type: ignore[operator]
        for job, value in self.ended.items():
            if isinstance(value, exceptions.Cancelled):
                assert job in self.cancelled

    def teardown(self) -> None:
        """Peace at last: all that can end ends well."""
        if not hasattr(self, "bench"):
            return
        self.reachable = True
        self.refuse_next = ""
        left = [job for job in self.opened if job not in self.ended]
        for _ in range(400):
            while self.to_broker or self.to_client:
                self.carry_to_broker(1) if self.to_broker else None
                self.carry_to_client(1) if self.to_client else None
            for job, state in list(self.known.items()):
                if state == "running":
                    self.known[job] = "done"
                    self.send_result(job, "OK")
            self.time_passes(500)
        assert len(self.ended) == len(self.opened)
        for job in left:
            value = self.ended[job]
            expected = (Prediction, exceptions.DeadlineExceeded, exceptions.Cancelled, exceptions.Unavailable)
            assert isinstance(value, (*expected, exceptions.ResourceExhausted)), value
        assert not self.unacked, "a result was never acknowledged"
        self.time_passes(60_000)
        leftover = set(self.bench.core._timers._at)
        assert leftover <= {"life"}


World.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestWorld = World.TestCase
