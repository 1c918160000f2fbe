"""A whole system for fault tests, and bystanders: callers who must not notice what is done to others."""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from dspymq import Client
from dspymq.exceptions import DspymqError
from tests.lm import ScriptedLM, expected_answer
from tests.processes import RunningBroker, RunningPool, running_broker, running_pool

PROGRAMS = "tests.faults.programs"
PATIENCE_S = 30.0
_NUMBERS = itertools.count(1)


class System:
    """A broker, a pool, the LM behind it, and a client."""

    def __init__(self, broker: RunningBroker, pool: RunningPool, lm: ScriptedLM, client: Client) -> None:
        self.broker = broker
        self.pool = pool
        self.lm = lm
        self.client = client

    def ask(self, question: str, program: str = "qa", timeout_s: float = PATIENCE_S) -> str:
        """One call, and its answer."""
        answer: str = self.client.with_options(timeout_s=timeout_s).call(program, question=question).answer
        return answer

    def still_serves(self) -> None:
        """The same broker process answers another call."""
        assert self.broker.process.process.poll() is None, "the broker ended"
        assert self.ask("and now?") == expected_answer("answer", "and now?")


@contextlib.contextmanager
def running_system(
    *,
    processes: int = 2,
    concurrency: int = 4,
    targets: Sequence[str] = (PROGRAMS,),
    broker_environ: Mapping[str, str] | None = None,
    pool_environ: Mapping[str, str] | None = None,
    pool_arguments: Sequence[str] = (),
) -> Iterator[System]:
    """Run one while the block runs; `*_environ` are DSPYMQ_* settings."""
    with (
        ScriptedLM() as lm,
        running_broker(environ=broker_environ) as broker,
        running_pool(
            broker,
            *pool_arguments,
            targets=targets,
            lm=lm,
            processes=processes,
            concurrency=concurrency,
            environ=pool_environ,
        ) as pool,
        Client(broker.clients, name="caller") as client,
    ):
        yield System(broker, pool, lm, client)


class Bystander:
    """Calls one after the other from its own client, and one call that is open all the while.

    At the end of the block every call must have been answered, and rightly. `attempts` is how many a call may have
    taken: 1 unless it can share a process with those that end theirs.
    """

    def __init__(self, system: System, name: str = "bystander", at_least: int = 3, attempts: int = 1) -> None:
        self._system = system
        self._lm = system.lm
        self._client = Client(system.broker.clients, name=name)
        self._stop = threading.Event()
        self._calls = threading.Semaphore(0)
        self._at_least = at_least
        self._attempts = attempts
        self._thread = threading.Thread(target=self._call, name=name)
        self._job = f"open-{name}-{next(_NUMBERS)}"
        self.problems: list[str] = []
        self.count = 0

    def __enter__(self) -> Self:
        self._open = self._client.submit("qa", {"question": f"#job={self._job} #hang"}, timeout_s=2 * PATIENCE_S)
        self._lm.wait_open(self._job)
        # A second request, after a death that it shared, is answered at once.
        self._lm.script(self._job, hang=False)
        self._thread.start()
        self.wait_for_calls(1)
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        try:
            if kind is None:
                self.wait_for_calls(self._at_least)
        finally:
            self._stop.set()
            self._thread.join(PATIENCE_S)
            self._lm.release(self._job)
        try:
            if kind is None:
                assert self._open.result(PATIENCE_S).attempt <= self._attempts
                assert self._lm.job(self._job).requests <= self._attempts
                assert not self.problems, f"{self.problems[:5]}\n{self._system.pool.process.stderr()[-4_000:]}"
        finally:
            self._client.close()

    def wait_for_calls(self, count: int) -> None:
        """Wait until so many more calls were made."""
        for _ in range(count):
            assert self._calls.acquire(timeout=PATIENCE_S), f"{self._thread.name} got no answer; {self.problems[:5]}"

    def _call(self) -> None:
        client = self._client.with_options(timeout_s=PATIENCE_S)
        while not self._stop.is_set():
            question = f"call {self.count}"
            try:
                prediction = client.call("qa", question=question)
            except DspymqError as error:
                self.problems.append(str(error))
            else:
                if prediction.answer != expected_answer("answer", question) or prediction.attempt > self._attempts:
                    self.problems.append(f"{question}: {prediction!r} attempt {prediction.attempt}")
            self.count += 1
            self._calls.release()


def resident_mib(pid: int) -> float:
    """The memory that a process has in RAM, in MiB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1024 / 1024


def open_files(pid: int) -> int:
    """The file descriptors of a process."""
    return len(os.listdir(f"/proc/{pid}/fd"))
