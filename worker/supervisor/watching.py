"""What a pool looks at now and then, beside its events: the memory of its executors, the files of its programs, and, as
process 1, who has ended."""

import asyncio
import logging
import os
from collections.abc import Callable, Collection
from typing import Final

from dspymq.worker.config import WorkerConfig
from dspymq.worker.supervisor import events as ev
from dspymq.worker.supervisor.memory import measure
from dspymq.worker.supervisor.reaper import INIT, REAP_S, Reaper
from dspymq.worker.supervisor.source_watch import SourceWatch, snapshot, target_directories

log = logging.getLogger("dspymq.worker.pool")

MEMORY_S: Final = 5.0
BOUNDED_MEMORY_S: Final = 0.5
"""How often memory is measured: to be shown, and where there is a limit."""

FILES_S: Final = 0.4
"""How often files are looked at. They must be the same twice: an edit is noticed within two of these."""


class Watching:
    """Tasks on the running loop; what takes long is done in threads. `handle` takes what they find.

    `pids` are the executors by name, `children` all processes that somebody here waits for.
    """

    def __init__(
        self,
        config: WorkerConfig,
        handle: Callable[[ev.Event], None],
        pids: Callable[[], dict[str, int]],
        source_dirs: Callable[[], frozenset[str]],
        children: Callable[[], Collection[int]],
    ) -> None:
        self._config = config
        self._handle = handle
        self._pids = pids
        self._source_dirs = source_dirs
        self._children = children
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to look."""
        self._tasks.append(asyncio.create_task(self._watch_memory()))
        if self._config.reload:
            self._tasks.append(asyncio.create_task(self._watch_files()))

        if os.getpid() == INIT:
            self._tasks.append(asyncio.create_task(self._reap()))

    def stop(self) -> None:
        """Look no more."""
        for task in self._tasks:
            task.cancel()

    async def _reap(self) -> None:
        reaper = Reaper()
        while True:
            await asyncio.sleep(REAP_S)
            reaper.look(self._children())

    async def _watch_memory(self) -> None:
        config = self._config
        has_limit = config.max_rss_bytes is not None or config.kill_rss_bytes is not None
        while True:
            await asyncio.sleep(BOUNDED_MEMORY_S if has_limit else MEMORY_S)
            pids = self._pids()
            if pids:
                self._handle(ev.Memory(await asyncio.to_thread(measure, pids)))

    async def _watch_files(self) -> None:
        config = self._config
        roots = [config.cwd or os.getcwd(), *config.paths]
        watch = SourceWatch()
        watched: frozenset[str] = frozenset()
        while True:
            # What executors told, and, until they could be imported, where the modules would be.
            directories = watched | self._source_dirs() | target_directories(config.targets, roots)
            if directories != watched:
                watch.widen(await asyncio.to_thread(snapshot, directories - watched))
                watched = directories
            changed = watch.changed(await asyncio.to_thread(snapshot, watched))
            if changed:
                log.info("pool.files_changed files=%s more=%s", ",".join(changed[:3]), max(0, len(changed) - 3))
                self._handle(ev.Reload(f"changed: {os.path.basename(changed[0])}"))
            await asyncio.sleep(FILES_S)
