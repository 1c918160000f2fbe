"""Reload: a new generation of the programs is imported, validated and started beside the old one, then takes over.

One executor comes first: it shows whether the new version can be used. When as many as the pool promises are ready,
all change over in one `ready`; the old ones end what they have, and leave. A new version that cannot be used costs
nothing but a line in the log: the old one serves on.
"""

from __future__ import annotations

from typing import Final

from dspymq.worker.supervisor.context import Context
from dspymq.worker.supervisor.executor import Executor, ExecutorState
from dspymq.worker.supervisor.executors import Crew, death
from dspymq.worker.supervisor.generations import Generation
from dspymq.worker.supervisor.problems import RELOAD, START, Problems

MAX_DEATHS: Final = 3
"""So many executors of a new version may end before it serves; then it counts as one that cannot be used."""


class Reload:
    """At most one new generation at a time; another reload begins it anew."""

    def __init__(self, context: Context, crew: Crew, problems: Problems) -> None:
        self._context = context
        self._crew = crew
        self._problems = problems
        self._deaths = 0
        self._began_ms = 0

    def begin(self, why: str) -> None:
        """Import the programs anew."""
        context = self._context
        if context.closing:
            return
        self._abandon()
        generation = self._crew.generations.begin()
        self._deaths = 0
        self._began_ms = context.now_ms
        context.info(f"pool.reload generation={generation.number} reason={why}")
        self._crew.start_coming(1)

    def ready(self, executor: Executor) -> bool:
        """An executor of the coming generation is ready; True if the generation now serves."""
        generation = self._crew.generations.coming
        assert generation is not None, "its generation is the coming one"
        executor.state = ExecutorState.STANDBY
        known = self._crew.generations.serving.problems
        for what, problem in generation.problems.items():
            # What was broken before keeps nobody else from a new version; what worked must go on to work.
            if what not in known or self._crew.generations.serving.ready is None:
                self.fail(problem)
                return False
        missing = self._context.settings.processes - len(self._of(generation))
        if missing > 0:
            self._crew.start_coming(missing)
        if any(one.state is not ExecutorState.STANDBY for one in self._of(generation)):
            return False
        self._change_over(generation)
        return True

    def fail(self, problem: str) -> None:
        """The new version cannot be used."""
        self._problems.set(RELOAD, "failed", problem)
        self._context.warning("pool.reload_failed the programs as they were before serve on")
        self._abandon()
        self._crew.changed = True

    def gone(self, executor: Executor, exit_code: int | None, last_words: str) -> None:
        """An executor of the coming generation ended without a word."""
        if not executor.excused:
            self._deaths += 1
        if self._deaths >= MAX_DEATHS:
            self.fail(death(exit_code, last_words))
        else:
            self._crew.start_coming(1)

    def _change_over(self, generation: Generation) -> None:
        crew = self._crew
        crew.generations.change_over()
        for executor in list(crew.executors.values()):
            if executor.generation == generation.number:
                executor.state = ExecutorState.READY
            elif executor.state is ExecutorState.STARTING:
                crew.kill(executor, None)
            elif executor.state is ExecutorState.READY and not executor.isolated:
                crew.retire(executor, "reload")
        self._problems.clear(RELOAD)
        self._problems.clear(START)
        crew.changed = True
        self._context.info(
            f"pool.reloaded generation={generation.number} after_ms={self._context.now_ms - self._began_ms}"
        )

    def _abandon(self) -> None:
        generation = self._crew.generations.coming
        if generation is not None:
            self._crew.generations.abandon()
            for executor in self._of(generation):
                self._crew.kill(executor, None)

    def _of(self, generation: Generation) -> list[Executor]:
        return [
            executor
            for executor in self._crew.executors.values()
            if executor.generation == generation.number and not executor.killed
        ]
