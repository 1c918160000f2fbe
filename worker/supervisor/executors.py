"""The executors of a pool: which there are, which take jobs, and when another is started or one is killed."""

from __future__ import annotations

import contextlib
import signal
from typing import TYPE_CHECKING, Final

from dspymq.protocol.messages import Bye, ReleaseCause
from dspymq.worker.supervisor.context import Context
from dspymq.worker.supervisor.effects import EndGeneration, KillExecutor, StartExecutor
from dspymq.worker.supervisor.executor import Executor, ExecutorState, Memory
from dspymq.worker.supervisor.generations import Generations
from dspymq.worker.supervisor.problems import START, Problems

if TYPE_CHECKING:
    from dspymq.worker.supervisor.leases import Lease

__all__ = ["Crew", "Executor", "ExecutorState", "Memory"]

BYE_MS: Final = 2_000
"""How long an executor that was told to exit may take."""

YOUNG_MS: Final = 250
"""An executor that ends within this time, and never had a job, counts as one that could not start."""

BACKOFF_MS: Final = 200
MAX_BACKOFF_MS: Final = 5_000
FORGIVEN_MS: Final = 30_000
"""So long after the last failed start the pauses begin small again."""


def death(exit_code: int | None, last_words: str) -> str:
    """What can be said of a process that ended before it was ready."""
    code = "" if exit_code is None else f" with exit code {exit_code}"
    said = f"; its last words: {last_words}" if last_words else ""
    return f"the process ended{code} before it was ready{said}"


def how(exit_code: int | None) -> str:
    """How a process ended, for the log."""
    if exit_code is None or exit_code >= 0:
        return f"exit={exit_code}"
    with contextlib.suppress(ValueError):
        return f"exit={exit_code} signal={signal.Signals(-exit_code).name}"
    return f"exit={exit_code} signal={-exit_code}"


class Crew:
    """All executors of the pool. `changed` is set when what the pool offers, or shows, has changed."""

    def __init__(self, context: Context, problems: Problems) -> None:
        self._context = context
        self._problems = problems
        self.generations = Generations(spawn=context.settings.spawn)
        self._numbers = 0
        self._failures = 0
        self._failed_ms = 0
        self._not_before_ms = 0
        self.executors: dict[str, Executor] = {}
        self._lanes: dict[str, None] = {}
        """Every lane that was ever offered: one without executors has 0 slots, it does not vanish."""
        self.ever_ready = False
        self.changed = False
        self.stalls_changed = False
        self._short = True
        """An executor may be missing."""
        self.retiring = False
        """An executor may be retiring."""

    def choose(self, lane: str) -> Executor | None:
        """The executor with the most free slots in the lane, or None when all are taken."""
        best = None
        most = 0
        for executor in self.executors.values():
            free = executor.free(lane)
            if free > most and executor.takes_jobs:
                best = executor
                most = free
        return best

    def choose_retiring(self, lease: Lease) -> Executor | None:
        """One that still has an earlier revision: for a job that was on its way when that was replaced."""
        lane, dispatch = lease.lane, lease.dispatch
        able = [
            executor
            for executor in self.executors.values()
            if executor.state is ExecutorState.RETIRING
            and not (executor.killed or executor.stalled)
            and executor.free(lane) > 0
            and self.generations[executor.generation].has(dispatch.program, dispatch.revision)
        ]
        return max(able, key=lambda executor: executor.free(lane), default=None)

    def slots(self) -> dict[str, int]:
        """The slots of the pool as the broker must count them; a lane whose executors are all away stands with 0.

        The broker counts every lease that it knows against them. So a lease on an executor that takes no more jobs
        keeps its slot until it ends, and one that the broker has dropped takes its slot away until it is stopped.
        """
        total = dict.fromkeys(self._lanes, 0)
        for executor in self.executors.values():
            takes_jobs = executor.takes_jobs
            if takes_jobs:
                for lane, count in executor.slots.items():
                    total[lane] += count
            elif executor.isolated:
                continue
            for lease in executor.leases.values():
                if lease.dropped is takes_jobs:
                    total[lease.lane] += -1 if takes_jobs else 1
        return total

    def ensure(self) -> None:
        """Start all executors that are missing, at once."""
        context = self._context
        if not self._short or context.closing:
            return
        number = self.generations.serving.number
        serving = sum(
            executor.state in (ExecutorState.STARTING, ExecutorState.READY) and not (executor.killed or executor.worn)
            for executor in self.executors.values()
            if executor.generation == number and not executor.isolated
        )
        missing = context.settings.processes - serving
        if missing > 0 and context.now_ms < self._not_before_ms:
            context.alarm.set(self._not_before_ms)
            return
        self._short = False
        for _ in range(missing):
            self._start(isolated=False)

    def start_coming(self, count: int) -> None:
        """Start so many executors of the generation that is to follow."""
        coming = self.generations.coming
        if coming is not None and not self._context.closing:
            for _ in range(count):
                self._start(isolated=False, generation=coming.number)

    def start_isolated(self, waiting: int) -> None:
        """Start what the waiting leases need, up to `processes` isolated executors in all."""
        context = self._context
        if context.closing:
            return
        there = [executor for executor in self.executors.values() if executor.isolated]
        coming = sum(executor.state is ExecutorState.STARTING and not executor.killed for executor in there)
        room = context.settings.processes - len(there)
        wanted = waiting - coming
        if min(room, wanted) <= 0:
            return
        if context.now_ms < self._not_before_ms:
            context.alarm.set(self._not_before_ms)
            return
        for _ in range(min(room, wanted)):
            self._start(isolated=True)

    def process_started(self, executor: Executor, pid: int) -> None:
        """Its process exists."""
        executor.pid = pid
        executor.started_ms = executor.beat_ms = self._context.now_ms

    def ready(self, executor: Executor, slots: dict[str, int]) -> None:
        """The executor can take jobs."""
        executor.state = ExecutorState.READY
        executor.ready_ms = self._context.now_ms
        executor.slots = dict(slots)
        self._lanes.update(dict.fromkeys(slots))
        self.changed = True
        if self.generations.serving.number == executor.generation:
            self.ever_ready = True
            self._problems.clear(START)

    def heard(self, executor: Executor) -> None:
        """Any message of an executor is a beat."""
        executor.beat_ms = self._context.now_ms
        if executor.stalled:
            executor.stalled = False
            self.changed = self.stalls_changed = True
            self._context.info(f"executor.recovered executor={executor.id} pid={executor.pid}")

    def fall_back_to_spawn(self, executor: Executor, why: str) -> None:
        """The programs started a thread while they were imported: forking that process is not safe."""
        executor.excused = True
        generation = self.generations[executor.generation]
        if not generation.spawn:
            generation.spawn = True
            self._context.warning(f"pool.spawn {why}; executors are spawned, each imports the programs by itself")

    def condemn(self, executor: Executor, lease: Lease) -> None:
        """A job of it ignored its cancel: replace it now, kill it when its other jobs are over or had their time."""
        if executor.state is ExecutorState.CONDEMNED:
            return
        context = self._context
        context.warning(
            f"executor.condemned executor={executor.id} pid={executor.pid} lease={lease.id} in_flight="
            f"{len(executor.leases)} reason=ignored_{lease.cancel_cause}"
        )
        executor.state = ExecutorState.CONDEMNED
        self._short = True
        executor.kill_ms = context.now_ms + context.settings.grace_ms
        context.alarm.set(executor.kill_ms)
        self.changed = True

    def wear(self, executor: Executor) -> None:
        """It is to be replaced, and serves until then."""
        self._short = True
        self.changed = True
        self._context.info(f"executor.worn executor={executor.id} pid={executor.pid} why={executor.worn!r}")

    def retire(self, executor: Executor, why: str) -> None:
        """It is replaced: it gets no more jobs, and leaves when those that it has are over."""
        executor.state = ExecutorState.RETIRING
        executor.fence = 0
        self.retiring = True
        self._short = True
        self.changed = True
        self._context.info(
            f"executor.retiring executor={executor.id} pid={executor.pid} in_flight={len(executor.leases)} why={why!r}"
        )

    def others_serve(self, executor: Executor) -> bool:
        """Whether others of its generation take jobs."""
        return any(
            one.generation == executor.generation and one.state is ExecutorState.READY and not one.killed
            for one in self.executors.values()
            if one is not executor
        )

    def discard(self, executor: Executor) -> None:
        """It is of no use; the next one is not started at once, since it may be of none, too."""
        self.kill(executor, None)
        self._back_off()

    def retired(self) -> list[Executor]:
        """Those that are retiring."""
        if not self.retiring:
            return []
        found = [executor for executor in self.executors.values() if executor.state is ExecutorState.RETIRING]
        self.retiring = bool(found)
        return found

    def forget_fences(self) -> None:
        """The session is over, and with it what was asked in it."""
        for executor in self.retired():
            executor.fence = 0

    def end_generations(self) -> None:
        """End the fork servers of those that nobody needs any more."""
        # One that was never forked waits for a fork server that is still busy: it ends with it.
        alive = (one for one in self.executors.values() if not (one.killed and one.pid is None))
        for number in self.generations.unused({executor.generation for executor in alive}):
            self._context.effects.append(EndGeneration(number))

    def leave(self, executor: Executor) -> None:
        """Tell an executor that has no jobs to exit."""
        if executor.state is ExecutorState.LEAVING:
            return
        executor.state = ExecutorState.LEAVING
        self._short = True
        executor.kill_ms = self._context.now_ms + BYE_MS
        self._context.alarm.set(executor.kill_ms)
        self._context.to_executor(executor.id, Bye(reason="done"))
        self.changed = True

    def kill(self, executor: Executor, cause: ReleaseCause | None) -> None:
        """SIGKILL; its jobs are settled when it is gone."""
        if not executor.killed:
            executor.killed = True
            self._short = True
            executor.killed_for = cause
            executor.kill_ms = None
            self._context.effects.append(KillExecutor(executor.id))
            self.changed = True

    def gone(self, executor: Executor, exit_code: int | None, last_words: str = "") -> None:
        """Its process has ended; its leases were settled before."""
        context = self._context
        del self.executors[executor.id]
        self._short = True
        self.changed = True
        expected = executor.killed or executor.state is ExecutorState.LEAVING or context.closing
        ended = f"executor={executor.id} pid={executor.pid} {how(exit_code)} in_flight={len(executor.leases)}"
        if executor.pid is None:
            pass  # It never was: why not was said.
        elif not expected and not executor.excused:
            context.warning(f"executor.died {ended}")
        elif executor.killed:
            context.info(f"executor.killed {ended} cause={executor.killed_for} why={executor.worn!r}")
        lived_ms = 0 if executor.ready_ms is None else context.now_ms - executor.ready_ms
        failed = not expected or executor.ready_ms is None
        if executor.generation != self.generations.serving.number:
            return
        if failed and not executor.excused and not executor.had_jobs and lived_ms < YOUNG_MS:
            if executor.ready_ms is None and not executor.failed:
                self._problems.set(START, "failing", death(exit_code, last_words))
            self._back_off()

    def look(self) -> None:
        """Time passed: who is silent, who is to be killed."""
        for executor in self.executors.values():
            if executor.killed:
                continue
            if executor.kill_ms is not None:
                self._look_at_leaving(executor, executor.kill_ms)
            elif executor.state is ExecutorState.STARTING:
                self._look_at_starting(executor)
            else:
                self._look_at_beats(executor)

    def stalled(self) -> frozenset[str]:
        """Those that stand still; asking settles `stalls_changed`."""
        self.stalls_changed = False
        return frozenset(executor.id for executor in self.executors.values() if executor.stalled)

    def forgive_silence(self) -> None:
        """The supervisor itself did not listen: nobody's silence counts."""
        for executor in self.executors.values():
            executor.beat_ms = self._context.now_ms

    # -- inside -----------------------------------------------------------------------------------------------------

    def _start(self, *, isolated: bool, generation: int | None = None) -> None:
        context = self._context
        self._numbers += 1
        programs = self.generations.serving if generation is None else self.generations[generation]
        name = f"{context.settings.name}/{self._numbers}"
        executor = Executor(name, context.now_ms, isolated=isolated, generation=programs.number)
        self.executors[executor.id] = executor
        context.effects.append(StartExecutor(executor.id, programs.spawn, programs.number))
        context.alarm.set(context.now_ms + context.settings.start_timeout_ms)
        self.changed = True

    def _back_off(self) -> None:
        context = self._context
        if context.now_ms < self._not_before_ms:
            return
        if context.now_ms - self._failed_ms > FORGIVEN_MS:
            self._failures = 0
        self._failed_ms = context.now_ms
        pause = min(MAX_BACKOFF_MS, BACKOFF_MS << min(self._failures, 10))
        pause = int(pause * (0.5 + 0.5 * context.random()))
        self._failures += 1
        self._not_before_ms = context.now_ms + pause
        context.alarm.set(self._not_before_ms)
        if BACKOFF_MS << self._failures <= 2 * MAX_BACKOFF_MS:
            # Not once every few seconds for as long as it lasts.
            context.warning(
                f"pool.backoff reason=executors_end_before_ready failures={self._failures} pause_ms={pause}"
            )

    def _look_at_leaving(self, executor: Executor, kill_ms: int) -> None:
        context = self._context
        condemned = executor.state is ExecutorState.CONDEMNED
        if condemned:
            # Its other jobs are given time to end; in one that is silent none of them runs (its GIL is held, say).
            kill_ms = min(kill_ms, executor.beat_ms + context.settings.stall_ms)
        if context.now_ms >= kill_ms:
            self.kill(executor, "stall" if condemned else executor.killed_for)
        else:
            context.alarm.set(kill_ms)

    def _look_at_starting(self, executor: Executor) -> None:
        context = self._context
        due_ms = executor.started_ms + context.settings.start_timeout_ms
        if context.now_ms < due_ms:
            context.alarm.set(due_ms)
        elif executor.pid is not None:
            context.error(f"executor.start_timeout executor={executor.id} pid={executor.pid}")
            self.kill(executor, None)
        else:
            # Nothing to kill yet: the fork server still imports the programs.
            context.warning(f"pool.start_slow executor={executor.id} reason=still_importing_the_programs")
            executor.started_ms = context.now_ms
            context.alarm.set(context.now_ms + context.settings.start_timeout_ms)

    def _look_at_beats(self, executor: Executor) -> None:
        context = self._context
        silent_ms = context.now_ms - executor.beat_ms
        stall_ms = context.settings.stall_ms
        if silent_ms < stall_ms:
            context.alarm.set(executor.beat_ms + stall_ms)
            return
        if not executor.stalled:
            executor.stalled = True
            self.changed = self.stalls_changed = True
            context.warning(
                f"executor.stalled executor={executor.id} pid={executor.pid} silent_ms={silent_ms} "
                f"in_flight={len(executor.leases)}"
            )
        if executor.leases:
            return
        # Nothing is lost with one that has no jobs, and no deadline would ever end it.
        if silent_ms >= 2 * stall_ms:
            self.kill(executor, "stall")
        else:
            context.alarm.set(executor.beat_ms + 2 * stall_ms)
