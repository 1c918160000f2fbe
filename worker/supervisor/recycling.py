"""Recycling: executors that have done, lived or taken enough are replaced, before anybody misses them.

The replacement is started first. Only when it is ready does the old one get no more jobs; then it ends those that it
has, and leaves. So the pool never has fewer slots than it promised.
"""

from __future__ import annotations

from typing import Final

from dspymq.worker.supervisor.context import Context
from dspymq.worker.supervisor.executor import Executor, ExecutorState, Memory
from dspymq.worker.supervisor.executors import Crew

JITTER: Final = 0.2
"""Limits of jobs and age are drawn for each executor, from this much less up to the whole."""

SHARE: Final = 4
"""At most one executor in so many is replaced at a time (one at least)."""

KILL_FACTOR: Final = 2
"""`kill_rss_bytes` is so many times `max_rss_bytes`, unless it is given."""

FEW_FILES: Final = 16
"""An executor that can open fewer is replaced: without them none of its jobs can reach its LM."""

REFRESH_MS: Final = 10_000
"""Jobs and memory of executors that changed are told to the broker so often, if nothing else is told."""
NOTICEABLE: Final = 4 * 1024 * 1024


class Recycling:
    """Decides which executors are worn, and retires them when they are replaced."""

    def __init__(self, context: Context, crew: Crew) -> None:
        self._context = context
        self._crew = crew
        settings = context.settings
        self._max_rss = settings.max_rss_bytes
        self._kill_rss = settings.kill_rss_bytes
        if self._kill_rss is None and self._max_rss is not None:
            self._kill_rss = KILL_FACTOR * self._max_rss
        limits = (settings.max_jobs_per_executor, settings.max_age_ms, settings.max_rss_bytes)
        self._has_limits = any(limit is not None for limit in limits)
        self._relieving = False
        """An executor may wait for its replacement."""
        self._refreshed_ms = 0
        self._told_too_low = False

    def began(self, executor: Executor) -> None:
        """It is ready: draw its limits."""
        settings = self._context.settings
        if executor.isolated:
            return
        if settings.max_jobs_per_executor is not None:
            executor.max_jobs = max(1, round(settings.max_jobs_per_executor * self._jitter()))
        if settings.max_age_ms is not None:
            executor.max_age_ms = round(settings.max_age_ms * self._jitter())
        self.look()

    def look(self) -> None:
        """Time passed, or a job ended: who is worn?"""
        context = self._context
        if context.closing or not self._has_limits:
            return
        for executor in self._crew.executors.values():
            if executor.state is not ExecutorState.READY or executor.worn or executor.isolated or executor.killed:
                continue
            why = self._why(executor)
            if why and self._may_wear():
                executor.worn = why
                self._relieving = True
                self._crew.wear(executor)

    def weigh(self, sizes: dict[str, Memory]) -> None:
        """The memory of executors was measured."""
        for name, memory in sizes.items():
            executor = self._crew.executors.get(name)
            if executor is None or executor.killed:
                continue
            executor.memory = memory
            self._has_limits |= _is_short_of_files(memory)
            if self._kill_rss is not None and memory.rss >= self._kill_rss and self._had_chance(executor):
                self._context.error(
                    f"executor.over_kill_rss executor={name} pid={executor.pid} rss_bytes={memory.rss} "
                    f"kill_rss_bytes={self._kill_rss} in_flight={len(executor.leases)}"
                )
                executor.worn = f"kill_rss: {memory.rss} bytes"
                self._crew.kill(executor, None)
        self.look()
        self._refresh()

    def relieve(self) -> None:
        """Retire worn executors for which there is a replacement."""
        if not self._relieving:
            return
        crew = self._crew
        serving = [executor for executor in crew.executors.values() if executor.takes_jobs]
        surplus = len(serving) - self._context.settings.processes
        self._relieving = any(one.worn and one.state is ExecutorState.READY for one in crew.executors.values())
        for executor in serving:
            if surplus <= 0:
                break
            if executor.worn:
                surplus -= 1
                crew.retire(executor, executor.worn)

    def _why(self, executor: Executor) -> str:
        if executor.max_jobs is not None and executor.jobs >= executor.max_jobs:
            return f"jobs: {executor.jobs}"
        if executor.max_age_ms is not None and executor.ready_ms is not None:
            due_ms = executor.ready_ms + executor.max_age_ms
            if due_ms <= self._context.now_ms:
                return f"age: {self._context.now_ms - executor.ready_ms} ms"
            self._context.alarm.set(due_ms)
        memory = executor.memory
        if memory is not None and _is_short_of_files(memory) and executor.had_jobs:
            return f"files: {memory.files_left} left"
        if self._max_rss is None or memory is None or memory.rss < self._max_rss or not self._had_chance(executor):
            return ""
        return f"rss: {memory.rss} bytes"

    def _had_chance(self, executor: Executor) -> bool:
        """Whether jobs made it large: one that never had any would only be followed by one as large."""
        if executor.had_jobs:
            return True
        if not self._told_too_low:
            self._told_too_low = True
            self._context.warning(
                f"pool.max_rss_too_low executor={executor.id} rss_bytes={executor.memory and executor.memory.rss} "
                "reason=as_large_before_its_first_job"
            )
        return False

    def _may_wear(self) -> bool:
        """Not too many at a time, nor more that drain than there are to serve: each takes memory."""
        executors = self._crew.executors.values()
        processes = self._context.settings.processes
        worn = sum(bool(executor.worn) and executor.state is ExecutorState.READY for executor in executors)
        retiring = sum(executor.state is ExecutorState.RETIRING for executor in executors)
        return worn < max(1, processes // SHARE) and retiring < processes

    def _jitter(self) -> float:
        return 1 - JITTER * self._context.random()

    def _refresh(self) -> None:
        """Tell the broker how executors fare, now and then, if that changed noticeably."""
        now_ms = self._context.now_ms
        if now_ms - self._refreshed_ms < REFRESH_MS:
            return
        if any(_has_changed(executor) for executor in self._crew.executors.values()):
            self._refreshed_ms = now_ms
            self._crew.changed = True


def _is_short_of_files(memory: Memory) -> bool:
    return memory.files_left is not None and memory.files_left < FEW_FILES


def _has_changed(executor: Executor) -> bool:
    jobs, told = executor.told
    if executor.jobs != jobs:
        return True
    memory = executor.memory
    if memory is None or told is None:
        return memory is not told
    return max(abs(memory.private - told.private), abs(memory.shared - told.shared)) > NOTICEABLE
