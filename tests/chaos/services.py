"""What chaos is done to: a broker and two pools that are started again when they end, and lines that can be broken."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, Generic, TypeVar

from dspymq import Client
from tests.chaos.plan import POOLS
from tests.faults.network import Proxy
from tests.integration.client_system import free_address
from tests.lm import ScriptedLM
from tests.processes import (
    ROOT,
    Process,
    RunningBroker,
    RunningPool,
    running_broker,
    running_pool,
    session_members,
)

PROCESSES: Final = 2
CONCURRENCY: Final = 4
TARGETS: Final = ("tests.chaos.programs", "versions")
BROKER_SETTINGS: Final = {
    "DSPYMQ_BROKER_WORKER_PING_MS": "700",
    "DSPYMQ_BROKER_CLIENT_PING_MS": "1500",
    "DSPYMQ_BROKER_ADOPT_MS": "5000",
    "DSPYMQ_BROKER_ORPHAN_MS": "20000",
    "DSPYMQ_BROKER_RETAIN_MS": "15000",
    "DSPYMQ_BROKER_GRACE_MS": "3000",
}
POOL_SETTINGS: Final = {"DSPYMQ_WORKER_STALL_MS": "1500", "DSPYMQ_WORKER_CANCEL_GRACE_MS": "2000"}

VERSIONS: Final = '''
import asyncio
import dspy

VERSION = {version}


class Say(dspy.Module):
    """Says which version it is, after a while."""

    async def aforward(self, ms: int) -> dspy.Prediction:
        await asyncio.sleep(ms / 1000)
        return dspy.Prediction(version=VERSION)


say = Say()
'''

S = TypeVar("S", RunningBroker, RunningPool)


class Service(Generic[S]):
    """One that can be ended and started again at the same addresses; nothing that it started may outlive it.

    `log` is what its earlier lives wrote, `starts_s` when each was started (Unix time).
    """

    def __init__(self, name: str, run: Callable[[], contextlib.AbstractContextManager[S]]) -> None:
        self.name = name
        self.starts_s: list[float] = []
        self.log = ""
        self.running: S
        self._run = run
        self._stack = contextlib.ExitStack()

    @property
    def lives(self) -> int:
        """How often it was started."""
        return len(self.starts_s)

    @property
    def process(self) -> Process:
        """The process of this life."""
        return self.running.process

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    def start(self) -> None:
        """A new life."""
        began_s = time.time()
        self.running = self._stack.enter_context(self._run())
        self.starts_s.append(began_s)

    def end(self, number: signal.Signals) -> None:
        """A signal that ends it. Raises AssertionError if it does not end, or something of it lives on."""
        try:
            self.process.kill(number)
        finally:
            self.log += self.process.stderr()
            self._stack.close()

    def all_log(self) -> str:
        """What it wrote, in all lives."""
        return self.log + self.process.stderr()

    def is_alive(self) -> bool:
        """Whether it has not ended by itself."""
        return self.process.process.poll() is None


class System:
    """A broker, the pools `one` and `two`, an LM for each, the line between `two` and the broker, and one for clients.

    `effects` is the file of side effects, `temporary` the folder for temporary files of broker and pools.
    """

    def __init__(self, scratch: Path) -> None:
        self.effects = scratch / "effects.jsonl"
        self.temporary = scratch / "tmp"
        self.lms = {name: ScriptedLM() for name in POOLS}
        self.version = 0
        self._apps = scratch / "apps"
        self.temporary.mkdir(parents=True)
        for name in POOLS:
            (self._apps / name).mkdir(parents=True)
            self._write_version(name)
        self._clients, self._workers = free_address(), free_address()
        self.client_line, self.pool_line = Proxy(self._clients), Proxy(self._workers)
        self.broker: Service[RunningBroker] = Service("broker", self._run_broker)
        self.pools = {name: Service(name, lambda name=name: self._run_pool(name)) for name in POOLS}
        self.watcher = Client(self._clients, name="watcher")

    @property
    def services(self) -> list[Service[RunningBroker] | Service[RunningPool]]:
        """Broker and pools."""
        return [self.broker, *self.pools.values()]

    def addresses(self, number: int) -> str:
        """Where client `number` connects: every second one through the line."""
        return self.client_line.address if number % 2 else self._clients

    def write_version(self, pool: str) -> int:
        """Change the file of a pool's program `say`, at once; the new version."""
        self.version += 1
        self._write_version(pool)
        return self.version

    def _write_version(self, pool: str) -> None:
        new = self._apps / pool / "versions.py.new"
        new.write_text(VERSIONS.format(version=self.version))
        new.replace(new.with_suffix(""))

    @contextlib.contextmanager
    def run(self) -> Iterator[None]:
        """All of it, ready, while the block runs."""
        with contextlib.ExitStack() as stack:
            for part in (*self.lms.values(), self.client_line, self.pool_line, self.watcher):
                stack.enter_context(part)
            self.broker.start()
            for pool in self.pools.values():
                pool.start()
            try:
                self.wait_ready()
                yield
            finally:
                for pool in self.pools.values():
                    pool._stack.close()
                self.broker._stack.close()

    def wait_ready(self) -> None:
        """Wait until both pools have all their executors."""
        for pool in self.pools.values():
            pool.running.wait_ready(PROCESSES, 60.0)

    def _environ(self) -> dict[str, str]:
        return {"TMPDIR": str(self.temporary), "CHAOS_EFFECTS": str(self.effects), "DSPYMQ_WORKER_PATHS": str(ROOT)}

    def _run_broker(self) -> contextlib.AbstractContextManager[RunningBroker]:
        environ = {**BROKER_SETTINGS, "TMPDIR": str(self.temporary)}
        return running_broker(clients=self._clients, workers=self._workers, environ=environ)

    def _run_pool(self, name: str) -> contextlib.AbstractContextManager[RunningPool]:
        workers = self.pool_line.address if name == "two" else self._workers
        return running_pool(
            RunningBroker(self.broker.process, {"clients": self._clients, "workers": workers}),
            "--lane",
            "batch=1",
            "--grace",
            "3",
            targets=TARGETS,
            lm=self.lms[name],
            processes=PROCESSES,
            concurrency=CONCURRENCY,
            name=name,
            cwd=self._apps / name,
            environ={**POOL_SETTINGS, **self._environ()},
            wait=False,
        )


def fork_servers(pool: int) -> list[int]:
    """The fork servers of a supervisor, as the kernel sees them."""
    members = session_members(pool)
    parents = {pid: parent_of(pid) for pid in members}
    return sorted(pid for pid, command in members.items() if parents[pid] == pool and "forkserver" in command)


def executors(pool: int) -> list[int]:
    """The executors of a supervisor: what its fork servers started."""
    servers = set(fork_servers(pool))
    return sorted(pid for pid in session_members(pool) if parent_of(pid) in servers)


def parent_of(pid: int) -> int | None:
    """The parent of a process, if that still lives."""
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return None


def send(pid: int, number: signal.Signals) -> None:
    """A signal to a process that may be gone."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
