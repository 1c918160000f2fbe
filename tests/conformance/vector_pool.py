"""Drives the real pool: the transcript is its broker, behind a real ROUTER, and the LM is scripted."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from typing import Any

from dspymq.protocol import worker_codec
from tests.conformance.vector_client import Routers
from tests.lm import ScriptedLM
from tests.processes import Process, clean_environ, running

TARGET = "tests.conformance.vector_programs"


class PythonPool(Routers):
    """The pool under test and its broker; each transcript begins with another broker at the same address."""

    def __init__(self) -> None:
        super().__init__(["b"], worker_codec())
        self.process: Process | None = None

    def begin(self) -> None:
        """The broker of the next transcript."""
        self._routes.clear()
        self.lose("b")

    def other(self, step: dict[str, Any]) -> bool:
        """Stop the worker's own process for a while, and let it go on."""
        assert self.process is not None
        if step.get("tell") not in ("stop", "continue"):
            return False
        self.process.process.send_signal(signal.SIGSTOP if step["tell"] == "stop" else signal.SIGCONT)
        return True


@contextlib.contextmanager
def running_worker() -> Iterator[PythonPool]:
    """One process with two slots, for all transcripts."""
    pool = PythonPool()
    with ScriptedLM() as lm:
        numbers = ["--processes", "1", "--concurrency", "2", "--name", "under-test"]
        command = ["worker", TARGET, "--broker", pool.addresses["b"], *numbers]
        try:
            with running("worker", command, clean_environ(lm, {"DSPYMQ_WORKER_GRACE_MS": "500"})) as process:
                pool.process = process
                yield pool
        finally:
            pool.close()
