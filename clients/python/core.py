"""The client as a state machine: `handle(event, now_ms)` gives what has to be done. No socket, clock or randomness.

`Session` knows the broker, `JobBook` the open jobs, `RequestBook` the open requests; this class shares the timers
among them and hands each message to whom it concerns. Anything that drives it (asyncio here) only does as told:
every race is a list of events.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from dspymq import events as ev
from dspymq import exceptions
from dspymq.exceptions import DspymqError
from dspymq.jobs import JobBook
from dspymq.protocol import client_messages as cm
from dspymq.protocol import messages as m
from dspymq.requests import RequestBook
from dspymq.session import Session, SessionHooks
from dspymq.subscriptions import SubscriptionBook
from dspymq.timers import Timers

log = logging.getLogger("dspymq.client")

FEATURES = ["ack"]
DEFAULT_SLACK_MS = 7_000
"""How long after a job's deadline the broker's own answer, which carries the usage, is waited for while the broker is
there: its grace for workers is 5 s by default, and a second (SPEC R-7.11)."""


class CoreConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What a client is: its name (for logs and fairness), where its brokers are, how patient it is.

    `connect_timeout_ms` bounds how long a job or request that was never sent waits for a broker; None: as long as
    its own timeout.
    """

    addresses: Sequence[str]
    name: str = "python"
    auth: str | None = None
    connect_timeout_ms: int | None = None
    deadline_slack_ms: int = DEFAULT_SLACK_MS


class ClientCore(SessionHooks):
    """See the module. `random` gives numbers in [0, 1), for jitter only."""

    def __init__(self, config: CoreConfig, random: Callable[[], float]) -> None:
        self._outputs: list[ev.Output] = []
        self._timers = Timers()
        self._now_ms = 0
        self._closed = False
        hello = m.Hello(name=config.name, lang="python", features=FEATURES, auth=config.auth)
        self.session = Session(config.addresses, hello, timers=self._timers, hooks=self, emit=self._emit, random=random)
        self.jobs = JobBook(
            self.session,
            timers=self._timers,
            emit=self._emit,
            random=random,
            connect_timeout_ms=config.connect_timeout_ms,
            deadline_slack_ms=config.deadline_slack_ms,
        )
        self.requests = RequestBook(
            self.session, timers=self._timers, emit=self._emit, connect_timeout_ms=config.connect_timeout_ms
        )
        self.subscriptions = SubscriptionBook(self.session, emit=self._emit)
        self._inputs: dict[type, Callable[[Any], None]] = {
            ev.OpenJob: self._open_job,
            ev.CancelJob: lambda event: self.jobs.cancel(event.job, self._now_ms),
            ev.ReadChunk: lambda event: self.jobs.read(event.job, event.attempt, event.seq),
            ev.AnswerTool: lambda event: self.jobs.tool_answered(event.job, event.run, event.answer),
            ev.Subscribe: self._subscribe,
            ev.Unsubscribe: lambda event: self.subscriptions.close(event.key),
            ev.AskBroker: self._ask,
            ev.PingBroker: self._ask,
            ev.CloseClient: self._close,
            ev.Received: self._receive,
            ev.Garbled: self._garbled,
            ev.LinkDown: lambda event: self.session.lost(event.reason, self._now_ms),
            ev.Tick: self._tick,
        }
        self._messages: dict[type, Callable[[Any, bytes], None]] = {
            cm.Result: lambda message, body: self.jobs.result(message, body, self._now_ms),
            cm.Chunk: self.jobs.chunk,
            cm.ToolCall: self.jobs.tool_call,
            cm.Accepted: lambda message, _: self.jobs.accepted(message),
            cm.Started: lambda message, _: self.jobs.accepted(message),
            cm.Progress: lambda message, _: self.jobs.accepted(message),
            cm.Event: self.subscriptions.event,
            m.Reply: self._reply,
            m.Pong: lambda message, _: self.requests.pong(message),
            m.Ping: lambda message, _: self._emit(ev.Send(m.Pong(n=message.n))),
            m.Welcome: lambda message, _: self.session.welcomed(message, self._now_ms),
            m.Error: lambda message, _: self._error(message),
            m.Bye: lambda message, _: self.session.lost(f"bye: {message.reason}", self._now_ms),
        }

    def handle(self, event: ev.Input, now_ms: int) -> list[ev.Output]:
        """Take one event in; returns what must be done, in order. Never raises for what a broker sent."""
        self._now_ms = now_ms
        self._inputs[type(event)](event)
        outputs, self._outputs = self._outputs, []
        return outputs

    def wake_at_ms(self) -> int | None:
        """When the next Tick is due; None when nothing waits for time."""
        return self._timers.next_at()

    # What the session tells.

    def session_up(self, restarted: bool) -> None:
        """Send all that is open."""
        if restarted:
            self.jobs.forget_acks()
        self.jobs.session_up(self._now_ms)
        self.requests.session_up()
        self.subscriptions.session_up()
        self.jobs.flush_acks()

    def session_down(self) -> None:
        """All that is open will have to be sent again."""
        self.jobs.session_down()
        self.requests.session_down()
        self.subscriptions.session_down()

    def refused(self, error: m.Error) -> None:
        """No broker takes this client."""
        self.jobs.fail_all(lambda job: _for_job(exceptions.from_refusal(error), job))
        self.requests.fail_all(lambda: exceptions.from_refusal(error))
        self.subscriptions.fail_all(lambda: exceptions.from_refusal(error))

    def is_busy(self) -> bool:
        """Whether anything is open."""
        return bool(self.jobs) or bool(self.requests) or bool(self.subscriptions)

    # Inputs.

    def _open_job(self, event: ev.OpenJob) -> None:
        job_id = event.message.job
        if self._closed:
            self._emit(ev.JobEnded(job_id, _closed(job_id)))
            return
        self.jobs.open(event, self._now_ms)
        self.session.want(self._now_ms)

    def _ask(self, event: ev.AskBroker | ev.PingBroker) -> None:
        if self._closed:
            self._emit(ev.Answered(event.rid, _closed(None)))
            return
        if isinstance(event, ev.AskBroker):
            self.requests.ask(event, self._now_ms)
        else:
            self.requests.ping(event, self._now_ms)
        self.session.want(self._now_ms)

    def _subscribe(self, event: ev.Subscribe) -> None:
        if self._closed:
            self._emit(ev.SubscriptionEnded(event.key, _closed(None)))
            return
        self.subscriptions.open(event)
        self.session.want(self._now_ms)

    def _reply(self, message: m.Reply, body: bytes) -> None:
        if not self.subscriptions.reply(message, body):
            self.requests.reply(message, body)

    def _close(self, _: ev.CloseClient) -> None:
        if self._closed:
            return
        self._closed = True
        self.jobs.flush_acks()
        self.session.close("closed by its user")
        self.jobs.fail_all(_closed)
        self.requests.fail_all(lambda: _closed(None))
        self.subscriptions.fail_all(lambda: _closed(None))

    def _receive(self, event: ev.Received) -> None:
        message = event.message
        kind = type(message)
        self.session.heard(self._now_ms, fruitful=kind not in (m.Welcome, m.Error, m.Bye, m.Ping))
        handler = self._messages.get(kind)
        if handler is not None:
            handler(message, event.body)

    def _garbled(self, event: ev.Garbled) -> None:
        problem = event.problem
        self.session.heard(self._now_ms, fruitful=False)
        log.warning("garbled reason=%s message=%s", problem.reason, problem.message)
        if problem.reason == "unknown_type":
            return
        error = exceptions.Internal(f"the broker sent a message that cannot be read: {problem.message}")
        error.reason = problem.reason
        if problem.job is not None:
            self.jobs.fail(problem.job, _for_job(error, problem.job))
        elif problem.rid is not None:
            self.requests.fail(problem.rid, error)

    def _error(self, error: m.Error) -> None:
        if error.reason == "no_session":
            self.session.unknown(self._now_ms)
        elif error.job is not None:
            self.jobs.refused(error, self._now_ms)
        elif error.rid is not None:
            if not self.subscriptions.refused(error):
                self.requests.refused(error)
        elif not self.session.live:
            self.session.not_greeted(error, self._now_ms)
        else:
            log.warning("refused code=%s reason=%s message=%s", error.code, error.reason, error.message)

    def _tick(self, _: ev.Tick) -> None:
        now_ms = self._now_ms
        due_at = self._timers.next_at()
        late_ms = max(0, now_ms - due_at) if due_at is not None else 0
        while (key := self._timers.pop_due(now_ms)) is not None:
            self._due(key, late_ms)

    def _due(self, key: Any, late_ms: int) -> None:
        now_ms = self._now_ms
        if isinstance(key, tuple):
            kind, name = key
            if kind == "job":
                self.jobs.job_due(name, now_ms)
            elif kind == "retry":
                self.jobs.retry_due(name, now_ms)
            else:
                self.requests.request_due(name, now_ms)
        elif key == "acks":
            self.jobs.flush_acks()
        elif key == "life":
            self.session.life_due(now_ms, late_ms)
        elif key == "greeting":
            self.session.greeting_due(now_ms)
        else:
            self.session.reconnect_due(now_ms)

    def _emit(self, output: ev.Output) -> None:
        if type(output) is ev.Send:
            self.session.sent(self._now_ms)
        self._outputs.append(output)


def _for_job(error: DspymqError, job: str) -> DspymqError:
    error.job = job
    return error


def _closed(job: str | None) -> DspymqError:
    what = "the client was closed while this job was open" if job else "the client is closed"
    return exceptions.ClientClosed(what, job=job)
