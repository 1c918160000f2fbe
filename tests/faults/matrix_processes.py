"""The processes of the matrix of faults: each can be killed, stopped and started again."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from tests.faults.matrix import GATE_VARIABLE
from tests.faults.system import PATIENCE_S
from tests.integration.test_done_restarts import Restartable
from tests.lm import ScriptedLM
from tests.processes import ROOT, RunningPool, clean_environ, running_pool, wait_until

PING_MS = 300
DEAD_MS = 3 * PING_MS
ADOPT_MS = 3_000
ORPHAN_MS = 2_000
EXECUTORS = 2
START_S = 60.0
"""Two executors that each import by themselves take long beside others."""

BROKER = {
    "DSPYMQ_BROKER_WORKER_PING_MS": str(PING_MS),
    "DSPYMQ_BROKER_CLIENT_PING_MS": str(PING_MS),
    "DSPYMQ_BROKER_ORPHAN_MS": str(ORPHAN_MS),
}
POOL = {"DSPYMQ_WORKER_STALL_MS": "1200", "DSPYMQ_WORKER_BEAT_MS": "100"}


class Brokers(Restartable):
    """One broker after the other, which soon miss whom they do not hear."""

    def __init__(self) -> None:
        super().__init__(adopt_ms=ADOPT_MS)
        self._environ |= BROKER

    @property
    def pid(self) -> int:
        """The process of the present one."""
        assert self.broker is not None
        return self.broker.pid


class Gate:
    """The file at which programs wait while they are imported."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._there = Path(f"{path}.there")
        self._file = path.open("w")

    def shut(self) -> None:
        """Whoever comes from now on waits."""
        self._there.unlink(missing_ok=True)
        fcntl.flock(self._file, fcntl.LOCK_EX)

    def open(self) -> None:
        """Let all pass."""
        fcntl.flock(self._file, fcntl.LOCK_UN)

    def close(self) -> None:
        """Open it for good."""
        self._file.close()

    def wait_there(self) -> int:
        """The process that waits at the gate, once there is one."""
        return wait_until(lambda: pids_in(self._there), START_S, "an import")[0]


class Pools:
    """One pool after the other."""

    def __init__(self, brokers: Brokers, lm: ScriptedLM, gate: Gate) -> None:
        self._brokers = brokers
        self._lm = lm
        self._gate = gate
        self._stack = contextlib.ExitStack()
        self._pool: RunningPool | None = None
        self.spawns = False

    @property
    def pool(self) -> RunningPool:
        """The present one."""
        assert self._pool is not None
        return self._pool

    def start(self, *, spawn: bool = False) -> None:
        """Start one; it is not waited for."""
        assert self._brokers.broker is not None
        environ = {**POOL, GATE_VARIABLE: str(self._gate.path)}
        if spawn:
            environ["DSPYMQ_WORKER_START_METHOD"] = "spawn"
        self.spawns = spawn
        self._pool = self._stack.enter_context(
            running_pool(
                self._brokers.broker,
                targets=["tests.faults.matrix_programs"],
                lm=self._lm,
                processes=EXECUTORS,
                environ=environ,
                wait=False,
            )
        )

    def end(self, number: signal.Signals = signal.SIGTERM) -> None:
        """End it; nothing that it started may be left."""
        self.pool.process.kill(number)
        self._stack.close()

    def close(self) -> None:
        """Whatever state it is in."""
        self._stack.close()


class Caller:
    """A client process: see matrix_caller.py."""

    def __init__(self, address: str) -> None:
        command = [sys.executable, "-m", "tests.faults.matrix_caller", address]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            command, env=clean_environ(), cwd=ROOT, stdin=pipe, stdout=pipe, text=True, start_new_session=True
        )
        self._said: dict[tuple[str, str], dict[str, Any]] = {}
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        try:
            self.wait_for("", "here")
        except BaseException:
            self.end()
            raise

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    def submit(self, **asked: Any) -> None:
        """Have it submit a job: `job` (its id), `program`, `inputs`, `options`."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()

    def wait_for(self, job: str, said: str) -> dict[str, Any]:
        """What it said of this job: `text`, or its `end`."""
        return wait_until(lambda: self._said.get((job, said), {}), PATIENCE_S, f"{said} of job {job}")

    def has_ended(self, job: str) -> bool:
        """Whether it told the job's end."""
        return (job, "end") in self._said

    def end(self) -> None:
        """SIGKILL."""
        self._process.kill()
        self._process.wait()
        self._reader.join(PATIENCE_S)
        for file in (self._process.stdin, self._process.stdout):
            if file is not None:
                with contextlib.suppress(OSError):
                    file.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with contextlib.suppress(ValueError):
                said = json.loads(line)
                self._said[(said.get("job", ""), said["said"])] = said


def pids_in(mark: Path) -> list[int]:
    """The processes that a mark names."""
    return [int(line) for line in mark.read_text().split()] if mark.exists() else []


def unread_bytes(*, local: str = "", remote: str = "") -> int:
    """The most that waits unread in a TCP socket of this address, or connected to it (ADDRESS: tcp://HOST:PORT)."""
    most = 0
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        ours = not local or _port(fields[1]) == int(local.rpartition(":")[2])
        theirs = not remote or _port(fields[2]) == int(remote.rpartition(":")[2])
        if ours and theirs and fields[3] == "01":
            most = max(most, int(fields[4].partition(":")[2], 16))
    return most


def _port(hexadecimal: str) -> int:
    return int(hexadecimal.rpartition(":")[2], 16)


def stop(pid: int) -> None:
    """SIGSTOP."""
    os.kill(pid, signal.SIGSTOP)


def kill_executor(pid: int) -> None:
    """SIGKILL; it is gone when this returns, and whoever started it was told."""
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), PATIENCE_S, "its end")


def go_on(pid: int) -> None:
    """SIGCONT."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)
