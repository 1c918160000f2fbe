"""Real brokers and pools as processes, for tests: ports chosen by the system, readiness waited for, nothing left over.

    with running_broker() as broker, running_pool(broker, targets=["examples.programs"], lm=lm) as pool:
        with Client(broker.clients) as client:
            ...

Each process is the leader of a session of its own; when its `with` ends it gets SIGTERM, must end, and no process of
that session may be left. What it wrote on stderr is added to any failure.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, TypeVar

from dspymq import Client
from tests.lm import ScriptedLM

ROOT = Path(__file__).resolve().parent.parent
ANY_PORT = "tcp://127.0.0.1:*"
START_S = 40.0
STOP_S = 20.0
LEFT_OVER_S = 5.0
POLL_S = 0.02

T = TypeVar("T")


def wait_until(predicate: Callable[[], T], timeout_s: float = 10.0, what: str = "it") -> T:
    """The first true value of `predicate()`; raises TimeoutError that names `what`."""
    deadline = time.monotonic() + timeout_s
    while True:
        value = predicate()
        if value:
            return value
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not happen within {timeout_s} s; last seen: {value!r}")
        time.sleep(POLL_S)


def is_alive(pid: int) -> bool:
    """Whether the process runs; a zombie does not."""
    return _state(pid) not in (None, "Z", "X")


def session_members(session: int) -> dict[int, str]:
    """The living processes of a session, and their command lines."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and is_alive(int(entry.name)):
            with contextlib.suppress(OSError):
                if os.getsid(int(entry.name)) == session:
                    command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                    found[int(entry.name)] = command.strip()[:200]
    return found


def dspymq_command(*arguments: str) -> list[str]:
    """The command line of `dspymq ...` in this interpreter."""
    return [sys.executable, "-P", "-m", "dspymq.cli", *arguments]


def clean_environ(lm: ScriptedLM | None = None, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """This environment without settings of dspymq or keys of LMs; with `lm` as the default profile."""
    environ = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("DSPYMQ_") and not name.endswith(("_API_KEY", "_API_BASE"))
    }
    if lm is not None:
        environ |= {"DSPYMQ_LM_MODEL": "openai/scripted", "DSPYMQ_LM_API_BASE": lm.url, "DSPYMQ_LM_API_KEY": "test-key"}
    return environ | dict(extra or {})


class Process:
    """A started command: `process`, `pid`, what it wrote."""

    def __init__(self, name: str, process: subprocess.Popen[str], stderr: IO[str]) -> None:
        self.name = name
        self.process = process
        self._stderr = stderr

    @property
    def pid(self) -> int:
        """Its process id, and that of its session."""
        return self.process.pid

    def stderr(self) -> str:
        """What it has written on stderr so far."""
        return Path(self._stderr.name).read_text(encoding="utf-8", errors="replace")

    def first_line(self) -> str:
        """The first line of its stdout. Raises AssertionError if it ended without one."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            code = self.process.wait(STOP_S)
            raise AssertionError(f"{self.name} ended with {code} before it wrote a line\n{self.stderr()}")
        return line.strip()

    def members(self) -> dict[int, str]:
        """The living processes of its session: itself, and what it started."""
        return session_members(self.pid)

    def kill(self, number: int = signal.SIGKILL) -> int:
        """Send it alone a signal that ends it; returns its exit code once it has."""
        self.process.send_signal(number)
        return self.process.wait(STOP_S)

    def stop(self) -> int:
        """SIGTERM, and its exit code. Raises AssertionError if it does not end, after SIGKILL."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
        try:
            return self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._end_by_force()
            raise AssertionError(f"{self.name} did not stop within {STOP_S} s of SIGTERM\n{self.stderr()}") from None

    def assert_nothing_left(self) -> None:
        """No process of its session may live on. Raises AssertionError, after SIGKILL."""
        try:
            wait_until(lambda: not self.members(), LEFT_OVER_S)
        except TimeoutError:
            left = self.members()
            self._end_by_force()
            raise AssertionError(f"{self.name} left processes behind: {left}\n{self.stderr()}") from None

    def _end_by_force(self) -> None:
        for pid in self.members():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait(STOP_S)


def running(
    name: str, arguments: Sequence[str], environ: Mapping[str, str], cwd: Path = ROOT
) -> contextlib.AbstractContextManager[Process]:
    """Run `dspymq ARGUMENTS` while the block runs; then stop it and see that nothing is left."""
    return running_command(name, dspymq_command(*arguments), environ, cwd)


@contextlib.contextmanager
def running_command(
    name: str, command: Sequence[str], environ: Mapping[str, str], cwd: Path = ROOT
) -> Iterator[Process]:
    """The same for any command."""
    with tempfile.NamedTemporaryFile("w", prefix="dspymq-test-", suffix=".err") as stderr:
        process = subprocess.Popen(
            command,
            env=dict(environ),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            start_new_session=True,
        )
        started = Process(name, process, stderr)
        try:
            yield started
        except BaseException as error:
            error.add_note(f"-- stderr of the {name} (pid {started.pid}):\n{started.stderr()[-4_000:]}")
            with contextlib.suppress(AssertionError):
                started.stop()
                started.assert_nothing_left()
            raise
        else:
            started.stop()
            started.assert_nothing_left()
        finally:
            if process.stdout is not None:
                process.stdout.close()


class RunningBroker:
    """`clients` and `workers` are its addresses."""

    def __init__(self, process: Process, addresses: Mapping[str, Any]) -> None:
        self.process = process
        self.pid = process.pid
        self.clients: str = addresses["clients"]
        self.workers: str = addresses["workers"]


class RunningPool:
    """A pool, as its process and as its broker sees it."""

    def __init__(self, process: Process, name: str, client: Client) -> None:
        self.process = process
        self.pid = process.pid
        self.name = name
        self._client = client

    def row(self) -> dict[str, Any]:
        """Its entry in workers.list; {} if the broker does not know it (any more)."""
        rows = [row for row in self._client.workers() if row["name"] == self.name]
        return rows[-1] if rows else {}

    def executors(self) -> list[dict[str, Any]]:
        """Its executors: id, pid, state, slots, in_flight, started_at_ms."""
        found: list[dict[str, Any]] = self.row().get("executors", [])
        return found

    def executor_pids(self) -> list[int]:
        """The processes that run programs."""
        return [one["pid"] for one in self.executors() if one["pid"]]

    def pid_of(self, executor: str) -> int:
        """The process of an executor, named as `started` messages name it (`AsyncJob.worker`)."""
        return next(int(one["pid"]) for one in self.executors() if one["id"] == executor)

    def wait_ready(self, executors: int, timeout_s: float = START_S) -> None:
        """Wait until so many executors take jobs."""

        def are_ready() -> bool:
            if self.process.process.poll() is not None:
                raise AssertionError(f"the pool ended with {self.process.process.returncode}")
            row = self.row()
            ready = [one for one in row.get("executors", []) if one["state"] == "ready"]
            return row.get("state") == "ready" and len(ready) == executors

        wait_until(are_ready, timeout_s, f"{executors} ready executors")


@contextlib.contextmanager
def running_broker(
    *arguments: str,
    clients: str = ANY_PORT,
    workers: str = ANY_PORT,
    environ: Mapping[str, str] | None = None,
) -> Iterator[RunningBroker]:
    """A broker; `arguments` go to `dspymq broker`, `environ` over a clean environment."""
    command = ["broker", "--clients", clients, "--workers", workers, "--json", *arguments]
    with running("broker", command, clean_environ(extra=environ)) as process:
        yield RunningBroker(process, json.loads(process.first_line()))


@contextlib.contextmanager
def running_pool(
    broker: RunningBroker | Sequence[RunningBroker],
    *arguments: str,
    targets: Sequence[str] = (),
    lm: ScriptedLM | None = None,
    processes: int = 1,
    concurrency: int = 4,
    name: str = "pool",
    cwd: Path = ROOT,
    environ: Mapping[str, str] | None = None,
    wait: bool = True,
) -> Iterator[RunningPool]:
    """A pool of `dspymq worker TARGETS`, run in `cwd`; of several brokers it takes the first that it can reach.

    `arguments` go to `dspymq worker`, `environ` over a clean environment in which `lm` is the default profile.
    Unless `wait` is False, it is waited for until all executors are ready at the (first) broker.
    """
    brokers = [broker] if isinstance(broker, RunningBroker) else list(broker)
    numbers = ["--processes", str(processes), "--concurrency", str(concurrency)]
    addresses = [part for one in brokers for part in ("--broker", one.workers)]
    command = ["worker", *targets, *addresses, *numbers, "--name", name, *arguments]
    with (
        Client(brokers[0].clients) as client,
        running(name, command, clean_environ(lm, environ), cwd) as process,
    ):
        pool = RunningPool(process, name, client)
        if wait:
            pool.wait_ready(processes)
        yield pool


def _state(pid: int) -> str | None:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return None
