"""The broker as a deterministic state machine: `BrokerCore.handle(event, now_ms)` returns effects.

No socket, clock or randomness of its own: every race is a list of events in a unit test. A job's walk: a submit
enters through `client_side`, `jobs` creates and queues it, `scheduler` says who is next, `jobs` dispatches it;
`worker_side` takes what the worker says of it, `jobs` ends it, and its result leaves as an effect.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dspymq.broker.core import events as ev
from dspymq.broker.core.adoption import Adoption
from dspymq.broker.core.bounds import Bounds
from dspymq.broker.core.client_side import ClientSide
from dspymq.broker.core.context import Context
from dspymq.broker.core.define_requests import DefineRequests
from dspymq.broker.core.definitions import Definitions
from dspymq.broker.core.effects import Effect
from dspymq.broker.core.event_hub import EventHub
from dspymq.broker.core.job_requests import JobRequests
from dspymq.broker.core.jobs import JobMachine
from dspymq.broker.core.program_requests import ProgramRequests
from dspymq.broker.core.requests import Requests
from dspymq.broker.core.scheduler import Scheduler
from dspymq.broker.core.settings import CoreSettings
from dspymq.broker.core.store import JobStore
from dspymq.broker.core.worker_requests import WorkerRequests
from dspymq.broker.core.worker_side import WorkerSide
from dspymq.broker.core.workers import Fleet
from dspymq.protocol.messages import Ping


class BrokerCore:
    """All decisions of a broker. `epoch` is the UUIDv7 of its start (SPEC section 6).

    `definitions` are those that were kept of an earlier one.
    """

    def __init__(self, settings: CoreSettings, epoch: str, definitions: Definitions | None = None) -> None:
        self.settings = settings
        self.context = Context(settings, epoch)
        self.store = JobStore(retain_bytes=settings.retain_bytes, tombstones=settings.tombstones)
        self.scheduler = Scheduler()
        if definitions is None:
            definitions = Definitions(most=settings.max_definitions, most_bytes=settings.max_definition_bytes)
        self.fleet = Fleet(self.scheduler, definitions)
        self.machine = JobMachine(self.context, self.store, self.scheduler, self.fleet)
        self.hub = EventHub(self.context)
        bounds = Bounds(settings, self.store, self.scheduler)
        requests = Requests(
            ProgramRequests(self.fleet),
            DefineRequests(self.context, self.fleet, self.machine, bounds),
            WorkerRequests(self.context, self.store, self.scheduler, self.fleet, self.machine),
            JobRequests(self.context, self.store, self.machine, bounds),
            self.hub,
        )
        self.adoption = Adoption(self.context, self.store, self.scheduler, self.fleet, self.machine, bounds)
        self.clients = ClientSide(
            self.context,
            self.store,
            self.scheduler,
            self.fleet,
            self.machine,
            self.adoption,
            requests,
            self.hub,
            bounds,
        )
        self.workers = WorkerSide(self.context, self.fleet, self.machine, self.adoption, requests)
        self._handlers: dict[type[ev.Event], Callable[[Any], None]] = {
            ev.ClientMessage: self._client_message,
            ev.WorkerMessage: self._worker_message,
            ev.BadClientMessage: self._bad_client_message,
            ev.BadWorkerMessage: self._bad_worker_message,
            ev.ClientUnreachable: self._client_unreachable,
            ev.WorkerUnreachable: self._worker_unreachable,
            ev.SlowConsumer: self._slow_consumer,
            ev.SlowWorker: self._slow_worker,
            ev.RoundOver: self._round_over,
            ev.Stalled: self._stalled,
            ev.Tick: self._tick,
            ev.Shutdown: self._shutdown,
        }

    def handle(self, event: ev.Event, now_ms: int) -> list[Effect]:
        """What to do about this event. `now_ms` is monotonic and never runs backwards."""
        context = self.context
        context.now_ms = now_ms
        if context.started_ms is None:
            context.started_ms = now_ms
        effects: list[Effect] = []
        context.effects = effects
        self._handlers[type(event)](event)
        return effects

    def _client_message(self, event: ev.ClientMessage) -> None:
        self.clients.receive(event.peer, event.message, event.body)

    def _worker_message(self, event: ev.WorkerMessage) -> None:
        self.workers.receive(event.peer, event.message, event.body)

    def _round_over(self, _: ev.RoundOver) -> None:
        self.workers.flush()

    def _bad_client_message(self, event: ev.BadClientMessage) -> None:
        self.clients.refuse(event.peer, event.problem)

    def _bad_worker_message(self, event: ev.BadWorkerMessage) -> None:
        self.workers.refuse(event.peer, event.problem)

    def _client_unreachable(self, event: ev.ClientUnreachable) -> None:
        client = self.context.clients.get(event.peer)
        if client is not None:
            self.clients.lost(client)

    def _worker_unreachable(self, event: ev.WorkerUnreachable) -> None:
        worker = self.context.workers.get(event.peer)
        if worker is not None:
            self.workers.unreachable(worker)

    def _slow_consumer(self, event: ev.SlowConsumer) -> None:
        client = self.context.clients.get(event.peer)
        if client is not None:
            self.context.counts["slow_consumers"] += 1
            self.clients.say_bye(client, "slow_consumer")

    def _slow_worker(self, event: ev.SlowWorker) -> None:
        worker = self.context.workers.get(event.peer)
        if worker is not None:
            self.context.counts["slow_workers"] += 1
            self.workers.unreachable(worker)
            self.workers.say_bye(worker, "slow_consumer")

    def not_ready(self) -> str | None:
        """Why no call could be answered now, for people; None if one could, however busy the workers are."""
        if self.fleet.serves:
            return None
        return "no worker has slots and programs" if self.fleet.workers else "no worker is here"

    def _tick(self, _: ev.Tick) -> None:
        # Who is gone is known first: nothing is given to a worker that is lost in the same turn.
        self._judge_silence()
        self.workers.lose_absent()
        self.machine.tick()
        self.adoption.tick()

    def _stalled(self, event: ev.Stalled) -> None:
        # What peers said meanwhile may still be on its way through ZeroMQ, and those that missed us are reconnecting.
        now_ms = self.context.now_ms
        for client in self.context.clients.values():
            client.heard_ms = now_ms
        for session in self.context.workers.values():
            session.heard_ms = now_ms
        self.workers.forgive_absence()
        # The same for workers that may hold a job of an earlier broker, and for clients that may come back.
        self.machine.parked.shift(event.for_ms, now_ms + self.settings.adopt_ms)
        self.machine.orphans.shift(event.for_ms, now_ms + self.settings.orphan_ms)

    def _judge_silence(self) -> None:
        """Lose who was silent for dead_ms; ping whom we have told nothing for ping_ms."""
        context, settings = self.context, self.settings
        now_ms = context.now_ms
        for client in list(context.clients.values()):
            if now_ms - client.heard_ms >= settings.client_dead_ms:
                self.clients.lost(client)
            elif now_ms - client.sent_ms >= settings.client_ping_ms:
                context.to_client(client, Ping(n=now_ms))
        self.workers.lost(
            *[worker for worker in context.workers.values() if now_ms - worker.heard_ms >= settings.worker_dead_ms]
        )
        for worker in context.workers.values():
            if now_ms - worker.sent_ms >= settings.worker_ping_ms:
                context.to_worker(worker, Ping(n=now_ms))

    def _shutdown(self, _: ev.Shutdown) -> None:
        self.workers.flush()
        for client in list(self.context.clients.values()):
            self.clients.say_bye(client, "shutdown")
        for worker in list(self.context.workers.values()):
            self.workers.say_bye(worker, "shutdown")
