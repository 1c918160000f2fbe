"""The pool's decisions: `PoolCore.handle(event, now_ms)` returns what to do. No socket, clock, process or thread.

So every race is a list of events in a test. The parts: `executors.Crew` (which processes there are), `work.Work` (the
leases), `link_state.LinkState` (what the broker was told); here they are joined, and here a pool ends.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from dspymq.protocol import body as bodies
from dspymq.protocol import worker_messages as w
from dspymq.protocol.errors import REASONS, Code, ProtocolError
from dspymq.protocol.messages import Bye, Error, Ping, Pong, Reply, Request
from dspymq.worker.supervisor import events as ev
from dspymq.worker.supervisor.context import Context, PoolSettings
from dspymq.worker.supervisor.definitions import METHOD as DEFINITION
from dspymq.worker.supervisor.definitions import Definitions
from dspymq.worker.supervisor.effects import AskLocalLm, Effect, Exit
from dspymq.worker.supervisor.executors import Crew, Executor
from dspymq.worker.supervisor.leases import LIVE, Lease
from dspymq.worker.supervisor.link_state import LinkState
from dspymq.worker.supervisor.lm_gates import LMGates
from dspymq.worker.supervisor.problems import START, Problems
from dspymq.worker.supervisor.recycling import Recycling
from dspymq.worker.supervisor.reload import Reload
from dspymq.worker.supervisor.work import Work

EXIT_DRAINED: Final = 0
EXIT_FORCED: Final = 1
"""Stopped at once, or with results that no broker took."""
EXIT_PROGRAMS: Final = 3
"""The programs cannot be loaded."""

KILLED_MS: Final = 2_000
"""How long the deaths of killed executors are awaited at the end of a drain."""


class PoolCore:
    """One pool. Times are milliseconds of any clock that never goes back."""

    def __init__(self, settings: PoolSettings, random: Callable[[], float]) -> None:
        self._context = Context(settings, random)
        leases: dict[str, Lease] = {}
        self._problems = Problems(self._context)
        self._crew = Crew(self._context, self._problems)
        self._gates = LMGates(self._context)
        self._link = LinkState(self._context, self._crew, self._problems, self._gates, leases)
        self._work = Work(self._context, self._crew, self._link, leases)
        self._definitions = Definitions()
        self._recycling = Recycling(self._context, self._crew)
        self._reload = Reload(self._context, self._crew, self._problems)
        self._drain_ms: int | None = None
        """When a drain's grace ends."""
        self._drain_began_ms = 0
        self._exited = False
        self._events: dict[type, Callable[[Any], None]] = {
            ev.FromExecutor: self._from_executor,
            ev.FromBroker: self._from_broker,
            ev.Tick: self._tick,
            ev.Start: self._start,
            ev.SessionUp: self._session_up,
            ev.SessionDown: self._session_down,
            ev.Congested: self._congested,
            ev.OwnStall: self._own_stall,
            ev.ExecutorStarted: self._executor_started,
            ev.ExecutorGone: self._executor_gone,
            ev.LocalLmAnswer: self._local_lm,
            ev.Memory: lambda event: self._recycling.weigh(event.sizes),
            ev.Reload: lambda event: self._reload.begin(event.why),
            ev.Shutdown: self._shutdown,
            ev.StopNow: self._stop_now,
        }
        self._broker_messages: dict[type, Callable[[Any, bytes], None]] = {
            w.Dispatch: self._dispatch,
            w.Attach: lambda message, _: self._work.attach(message),
            w.Credit: self._work.forward,
            w.ToolResult: self._work.forward,
            w.Cancel: lambda message, _: self._work.cancel(message.lease, message.cause, message.grace_ms),
            w.Ack: lambda message, _: self._work.acknowledged(message.leases),
            w.Synced: self._synced,
            w.Drain: self._drain,
            Pong: self._pong,
            Reply: lambda message, body: self._context.effects.extend(self._definitions.answered(message, body)),
            Error: self._broker_error,
        }
        self._executor_messages: dict[type, Callable[[Executor, Any, bytes], None]] = {
            w.Started: lambda executor, message, _: self._work.started(executor, message),
            w.Chunk: self._work.chunk,
            w.Progress: self._work.progress,
            w.ToolCall: self._work.tool_call,
            w.Result: self._work.result,
            w.Released: lambda executor, message, _: self._work.given_back(executor, message),
            w.Ready: self._executor_ready,
            Request: self._executor_request,
            Error: self._executor_error,
            Ping: lambda *_: None,
        }

    def handle(self, event: ev.Event, now_ms: int) -> list[Effect]:
        """What this event makes the pool do, in order."""
        context = self._context
        context.now_ms = now_ms
        effects: list[Effect] = []
        context.effects = effects
        if self._exited:
            return effects
        self._events[type(event)](event)
        if context.alarm.at_ms is not None and context.alarm.at_ms <= now_ms and type(event) is not ev.Tick:
            self._look()
        self._finish_round()
        return effects

    def next_ms(self) -> int | None:
        """When a Tick is due, if nothing else happens before."""
        return None if self._exited else self._context.alarm.at_ms

    @property
    def busy(self) -> bool:
        """Whether a broker waits for something that this pool holds."""
        return bool(self._work.leases)

    @property
    def has_started(self) -> bool:
        """Whether any executor has ever been ready."""
        return self._crew.ever_ready

    def not_ready(self) -> str | None:
        """Why no job could be taken now, for people; None if one could, however busy the executors are."""
        if not self._link.synced:
            return "no session with a broker"
        if self._context.closing:
            return "the pool drains"
        if self._gates.refuse_all():
            return "the circuit of every LM profile is open"
        return None if any(self._crew.slots().values()) else "no executor takes jobs"

    # -- time and ends ----------------------------------------------------------------------------------------------

    def _start(self, _: ev.Start) -> None:
        self._crew.ensure()

    def _tick(self, _: ev.Tick) -> None:
        self._look()

    def _look(self) -> None:
        self._context.alarm.at_ms = None
        self._crew.look()
        self._work.look()
        self._recycling.look()
        self._gates.look()
        self._look_at_drain()

    def _finish_round(self) -> None:
        if self._work.job_ended:
            self._work.job_ended = False
            self._recycling.look()
        self._recycling.relieve()
        self._crew.ensure()
        if self._crew.stalls_changed:
            self._gates.stalled(self._crew.stalled())
        self._work.want_isolated()
        self._link.report_if_due()
        self._link.tell_changes()
        self._dismiss_retired()
        self._work.finish_round()
        if self._context.closing and not self._exited:
            self._look_at_closing()

    def _dismiss_retired(self) -> None:
        """Let executors that are retiring leave, once they have no jobs and none can be on its way to them."""
        link = self._link
        unfenced = []
        for executor in self._crew.retired():
            replaced = executor.generation != self._crew.generations.serving.number
            if replaced and link.open and not link.is_confirmed(executor.fence):
                if not executor.fence:
                    unfenced.append(executor)
            elif not executor.leases:
                self._crew.leave(executor)
        if unfenced and link.told:
            for executor in unfenced:
                executor.fence = link.fence()
            link.send_fence()

    def _shutdown(self, _: ev.Shutdown) -> None:
        if self._context.closing:
            return
        self._context.closing = True
        self._crew.changed = True
        self._begin_drain(self._context.settings.grace_ms)

    def _stop_now(self, _: ev.StopNow) -> None:
        self._exit(EXIT_FORCED, "stopped at once")

    def _drain(self, message: w.Drain, _: bytes) -> None:
        self._begin_drain(message.grace_ms)

    def _begin_drain(self, grace_ms: int) -> None:
        context = self._context
        due_ms = context.now_ms + grace_ms
        self._drain_ms = due_ms if self._drain_ms is None else min(due_ms, self._drain_ms)
        self._drain_began_ms = context.now_ms
        context.alarm.set(self._drain_ms)
        context.info(f"pool.drain held={len(self._work.leases)} grace_ms={grace_ms} exits={context.closing}")
        self._work.give_back_unstarted()

    def _look_at_drain(self) -> None:
        context = self._context
        if self._drain_ms is None:
            return
        if context.now_ms < self._drain_ms:
            context.alarm.set(self._drain_ms)
            return
        for executor in self._work.busy_executors(self._drain_began_ms + 1):
            self._crew.kill(executor, "drain")
        if context.closing:
            context.alarm.set(self._drain_ms + KILLED_MS)
        else:
            self._drain_ms = None

    def _look_at_closing(self) -> None:
        leases = self._work.leases
        grace_over = self._drain_ms is not None and self._context.now_ms >= self._drain_ms
        may_leave = self._link.may_leave() or grace_over
        if not leases and may_leave:
            self._exit(EXIT_DRAINED, "drained")
        elif grace_over and not any(lease.state in LIVE for lease in leases.values()) and not self._link.open:
            self._exit(EXIT_FORCED, f"no broker took what is held: lost={len(leases)}")
        elif self._drain_ms is not None and self._context.now_ms >= self._drain_ms + KILLED_MS:
            self._exit(EXIT_FORCED, f"the grace is over: lost={len(leases)}")

    def _exit(self, code: int, why: str) -> None:
        if self._link.up:
            self._context.to_broker(Bye(reason="shutdown"))
        self._context.info(f"pool.exit code={code} reason={why}")
        self._context.effects.append(Exit(code))
        self._exited = True

    # -- the broker -------------------------------------------------------------------------------------------------

    def _session_up(self, event: ev.SessionUp) -> None:
        self._work.forget_fenced()
        self._link.session_up(event.welcome)
        self._crew.forget_fences()
        self._context.effects.extend(self._definitions.session_up())

    def _session_down(self, _: ev.SessionDown) -> None:
        self._link.session_down()
        self._crew.forget_fences()

    def _congested(self, event: ev.Congested) -> None:
        self._link.congested = event.blocked
        if not event.blocked and self._link.open:
            self._work.uncongested()

    def _own_stall(self, _: ev.OwnStall) -> None:
        self._link.session_down()
        self._crew.forget_fences()
        self._crew.forgive_silence()

    def _from_broker(self, event: ev.FromBroker) -> None:
        handler = self._broker_messages.get(type(event.message))
        if handler is not None:
            handler(event.message, event.body)

    def _dispatch(self, message: w.Dispatch, body: bytes) -> None:
        if not self._link.open:
            # From before a stall of our own, or of a session that is over: it may run elsewhere by now.
            self._context.info(f"pool.stale_dispatch lease={message.lease}")
            return
        if self._drain_ms is not None and not self._context.closing:
            # The broker sends nothing while it wants a drain: it has ended it.
            self._drain_ms = None
        self._work.dispatch(message, body)

    def _synced(self, message: w.Synced, _: bytes) -> None:
        dropped = self._link.page_synced(message.keep)
        if dropped is None:
            return
        for lease in dropped:
            self._work.drop(lease)
        if self._link.open:
            self._work.resume()

    def _pong(self, message: Pong, _: bytes) -> None:
        self._link.confirmed(message.n)
        self._work.confirmed(message.n)

    def _broker_error(self, message: Error, _: bytes) -> None:
        if message.rid is not None:
            self._context.effects.extend(self._definitions.refused(message))
            return
        self._context.warning(
            f"broker.error code={message.code} reason={message.reason} lease={message.lease} text={message.message!r}"
        )
        if message.lease is not None:
            self._work.refused(message.lease, message.reason)

    # -- executors --------------------------------------------------------------------------------------------------

    def _executor_started(self, event: ev.ExecutorStarted) -> None:
        executor = self._crew.executors.get(event.executor)
        if executor is not None:
            self._crew.process_started(executor, event.pid)

    def _executor_gone(self, event: ev.ExecutorGone) -> None:
        executor = self._crew.executors.get(event.executor)
        if executor is None:
            return
        self._crew.gone(executor, event.exit_code, event.last_words)
        self._gates.gone(executor.id)
        self._definitions.gone(executor.id)
        coming = self._crew.generations.coming
        if coming is not None and executor.generation == coming.number:
            self._reload.gone(executor, event.exit_code, event.last_words)
        self._crew.ensure()
        self._work.executor_gone(executor, event.exit_code)
        self._crew.end_generations()

    def _from_executor(self, event: ev.FromExecutor) -> None:
        executor = self._crew.executors.get(event.executor)
        if executor is None:
            return
        self._crew.heard(executor)
        handler = self._executor_messages.get(type(event.message))
        if handler is not None:
            handler(executor, event.message, event.body)

    def _executor_ready(self, executor: Executor, message: w.Ready, body: bytes) -> None:
        crew = self._crew
        generation = crew.generations[executor.generation]
        if generation.ready is not None and generation.ready.programs != message.programs:
            self._context.warning(f"pool.programs_differ executor={executor.id}")
            if generation is crew.generations.serving and crew.others_serve(executor):
                # It imported the programs by itself, after their files had changed: it belongs to another version.
                crew.discard(executor)
                if crew.generations.coming is None:
                    self._reload.begin("the programs' files have changed")
                return
            crew.generations.remember(generation)
        crew.ready(executor, message.slots)
        self._gates.joined(executor.id)
        self._context.info(
            f"executor.ready executor={executor.id} pid={executor.pid} isolated={executor.isolated} "
            f"after_ms={self._context.now_ms - executor.started_ms}"
        )
        try:
            generation.learn(message, bodies.decode(body))
        except ProtocolError as problem:
            self._context.error(f"pool.bad_descriptions executor={executor.id} problem={problem}")
        # A pool that died as a whole may have come back with another version.
        self._work.changed_over()
        self._recycling.began(executor)
        if generation is crew.generations.coming:
            if self._reload.ready(executor):
                self._link.offer(generation)
                self._work.changed_over()
            crew.end_generations()
        elif generation is crew.generations.serving:
            self._link.offer(generation)
            self._work.executor_ready(executor)
        else:
            crew.leave(executor)

    def _executor_error(self, executor: Executor, message: Error, _: bytes) -> None:
        generations = self._crew.generations
        if message.reason == "threads_started":
            self._crew.fall_back_to_spawn(executor, message.message)
        elif message.reason == "programs_failed":
            executor.failed = True
            if generations.coming is not None and executor.generation == generations.coming.number:
                self._reload.fail(message.message)
            elif executor.generation == generations.serving.number:
                self._programs_failed(message.message)
        else:
            self._context.error(
                f"executor.error executor={executor.id} reason={message.reason} text={message.message!r}"
            )

    def _programs_failed(self, problem: str) -> None:
        """Nothing can be offered at all. At its first start a pool says so and ends, unless it waits for a reload."""
        if self._crew.ever_ready or self._context.settings.patient:
            self._problems.set(START, "failing", problem)
        else:
            self._context.error(f"pool.programs_failed {problem}")
            self._exit(EXIT_PROGRAMS, "the programs cannot be loaded")

    @property
    def source_dirs(self) -> frozenset[str]:
        """The directories of the programs' own modules, as far as executors have told."""
        generations = self._crew.generations
        known = [generations.serving, *([generations.coming] if generations.coming else [])]
        return frozenset(path for generation in known for path in generation.source_dirs)

    def _executor_request(self, executor: Executor, message: Request, body: bytes) -> None:
        if message.method == "local_lm.url":
            again = bodies.part(body, "params").get("again") is True
            self._context.effects.append(AskLocalLm(executor.id, message.rid, again))
            return
        if self._gates.request(executor.id, message, body):
            return
        if message.method == DEFINITION:
            self._context.effects.extend(self._definitions.asked(executor.id, message, body))
            return
        problem = f"the supervisor has no method {message.method!r}"
        self._refuse_request(executor.id, message.rid, "unknown_method", problem)

    def _local_lm(self, event: ev.LocalLmAnswer) -> None:
        if event.url is None:
            self._refuse_request(event.executor, event.rid, "lm_unavailable", event.problem)
        else:
            body = bodies.encode(result={"url": event.url})
            self._context.to_executor(event.executor, Reply(rid=event.rid), body)

    def _refuse_request(self, executor: str, rid: str, reason: str, problem: str) -> None:
        entry = REASONS[reason]
        error = Error(code=Code(entry.code), reason=reason, message=problem[:4096], retryable=entry.retryable, rid=rid)
        self._context.to_executor(executor, error)
