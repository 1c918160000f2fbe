"""The broker as a deterministic state machine: `BrokerCore.handle(event, now_ms)` returns effects.

No socket, clock or randomness of its own: every race is a list of events in a unit test. A job's walk: a submit
enters through `client_side`, `jobs` creates and queues it, `scheduler` says who is next, `jobs` dispatches it;
`worker_side` takes what the worker says of it, `jobs` ends it, and its result leaves as an effect.
"""

from __future__ import annotations

from dspymq.broker.core import events as ev
from dspymq.broker.core.client_side import ClientSide
from dspymq.broker.core.context import Context
from dspymq.broker.core.effects import Effect
from dspymq.broker.core.jobs import JobMachine
from dspymq.broker.core.requests import Requests
from dspymq.broker.core.scheduler import Scheduler
from dspymq.broker.core.settings import CoreSettings
from dspymq.broker.core.store import JobStore
from dspymq.broker.core.worker_side import WorkerSide
from dspymq.broker.core.workers import Fleet
from dspymq.protocol.messages import Ping


class BrokerCore:
    """All decisions of a broker. `epoch` is the UUIDv7 of its start (SPEC section 6)."""

    def __init__(self, settings: CoreSettings, epoch: str) -> None:
        self.settings = settings
        self.context = Context(settings, epoch)
        self.store = JobStore(retain_bytes=settings.retain_bytes, tombstones=settings.tombstones)
        self.scheduler = Scheduler()
        self.fleet = Fleet(self.scheduler)
        self.machine = JobMachine(self.context, self.store, self.scheduler, self.fleet)
        requests = Requests(self.context, self.store, self.scheduler, self.fleet)
        self.clients = ClientSide(self.context, self.store, self.scheduler, self.fleet, self.machine, requests)
        self.workers = WorkerSide(self.context, self.fleet, self.machine, requests)

    def handle(self, event: ev.Event, now_ms: int) -> list[Effect]:
        """What to do about this event. `now_ms` is monotonic and never runs backwards."""
        context = self.context
        context.now_ms = now_ms
        if context.started_ms is None:
            context.started_ms = now_ms
        effects: list[Effect] = []
        context.effects = effects
        match event:
            case ev.ClientMessage(peer, message, body):
                self.clients.receive(peer, message, body)
            case ev.WorkerMessage(peer, message, body):
                self.workers.receive(peer, message, body)
            case ev.RoundOver():
                self.workers.flush()
            case ev.Tick():
                self._tick()
            case ev.BadClientMessage(peer, problem):
                self.clients.refuse(peer, problem)
            case ev.BadWorkerMessage(peer, problem):
                self.workers.refuse(peer, problem)
            case ev.ClientUnreachable(peer):
                client = context.clients.get(peer)
                if client is not None:
                    self.clients.lost(client)
            case ev.WorkerUnreachable(peer):
                worker = context.workers.get(peer)
                if worker is not None:
                    self.workers.unreachable(worker)
            case ev.SlowConsumer(peer):
                client = context.clients.get(peer)
                if client is not None:
                    context.counts["slow_consumers"] += 1
                    self.clients.say_bye(client, "slow_consumer")
            case ev.Shutdown():
                self._shutdown()
        return effects

    def _tick(self) -> None:
        for key in self.machine.timers.due(self.context.now_ms):
            self.machine.timer(key)
        self._judge_silence()
        self.workers.lose_absent()

    def _judge_silence(self) -> None:
        """Lose who was silent for dead_ms; ping whom we have told nothing for ping_ms."""
        context, settings = self.context, self.settings
        now_ms = context.now_ms
        for client in list(context.clients.values()):
            if now_ms - client.heard_ms >= settings.client_dead_ms:
                self.clients.lost(client)
            elif now_ms - client.sent_ms >= settings.client_ping_ms:
                context.to_client(client, Ping(n=now_ms))
        for worker in list(context.workers.values()):
            if now_ms - worker.heard_ms >= settings.worker_dead_ms:
                self.workers.lost(worker)
            elif now_ms - worker.sent_ms >= settings.worker_ping_ms:
                context.to_worker(worker, Ping(n=now_ms))

    def _shutdown(self) -> None:
        self.workers.flush()
        for client in list(self.context.clients.values()):
            self.clients.say_bye(client, "shutdown")
        for worker in list(self.context.workers.values()):
            self.workers.say_bye(worker, "shutdown")
