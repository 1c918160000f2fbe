"""A log that cannot be written costs lines, no more: a full disk, a closed stderr, a reader that is gone or asleep."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from dspymq import Client, exceptions
from tests.faults.system import PROGRAMS
from tests.lm import ScriptedLM, expected_answer
from tests.processes import (
    Process,
    RunningBroker,
    RunningPool,
    clean_environ,
    dspymq_command,
    running_command,
    wait_until,
)

ANY_PORT = "tcp://127.0.0.1:*"
RAISES = "tests.faults.log_programs:raises"
SMALL_PIPE = 4_096
DISK_BYTES = 64 * 1024


@contextlib.contextmanager
def logging_to(where: dict[str, str], lm: ScriptedLM) -> Iterator[tuple[Process, RunningPool, Client]]:
    """A broker and a pool that log everything, with the shell's redirections of their stderr."""
    broker_command = ["broker", "--clients", ANY_PORT, "--workers", ANY_PORT, "--json"]
    environ = clean_environ(lm, {"DSPYMQ_LOG_LEVEL": "debug"})
    with running_command("broker", redirected(where["broker"], *broker_command), environ) as process:
        broker = RunningBroker(process, json.loads(process.first_line()))
        command = ["worker", PROGRAMS, RAISES, "--broker", broker.workers, "--processes", "2", "--name", "pool"]
        with (
            Client(broker.clients) as client,
            running_command("pool", redirected(where["pool"], *command), environ) as pool_process,
        ):
            pool = RunningPool(pool_process, "pool", client)
            pool.wait_ready(2)
            yield process, pool, client


def redirected(where: str, *arguments: str) -> list[str]:
    return ["sh", "-c", f'exec "$@" 2{where}', "sh", *dspymq_command(*arguments)]


def work(pool: RunningPool, client: Client, label: str, calls: int = 30) -> None:
    """Jobs, a killed executor, a program that fails: each makes somebody write something."""
    for n in range(calls):
        assert client.call("qa", question=f"{label} {n}").answer == expected_answer("answer", f"{label} {n}")
    with pytest.raises(exceptions.ProgramError):
        client.call("raises", text="no matter what")
    victim = pool.executor_pids()[0]
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: victim not in pool.executor_pids(), 10.0, "the end of an executor")
    pool.wait_ready(2)
    assert client.call("qa", question=f"{label} again").answer == expected_answer("answer", f"{label} again")


def end(broker: Process, pool: RunningPool) -> None:
    """They end as they are told, and with the usual exit code."""
    assert pool.process.stop() == 0
    assert broker.stop() == 0


@pytest.fixture
def lm() -> Iterator[ScriptedLM]:
    with ScriptedLM() as lm:
        yield lm


@pytest.mark.parametrize("where", [">/dev/full", pytest.param(">&-", marks=pytest.mark.soak)])
def test_what_cannot_be_written_is_dropped(lm: ScriptedLM, where: str) -> None:
    with logging_to({"broker": where, "pool": where}, lm) as (broker, pool, client):
        assert os.readlink(f"/proc/{broker.pid}/fd/2") == ("/dev/full" if "full" in where else "/dev/null")
        work(pool, client, "nowhere")
        end(broker, pool)


class Fifo:
    """A named pipe that somebody reads, or not."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self.redirection = f">{path}"
        self.fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        fcntl.fcntl(self.fd, fcntl.F_SETPIPE_SZ, SMALL_PIPE)
        self._read = b""

    def is_full(self) -> bool:
        """Whether it takes no line more."""
        waiting = fcntl.ioctl(self.fd, 0x541B, b"\0" * 4)
        return int.from_bytes(waiting, "little") > SMALL_PIPE - 1_024

    def lines(self) -> list[str]:
        """Read what is there; all whole lines so far."""
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self.fd, 65_536):
                self._read += data
        return self._read.decode().splitlines()[: self._read.count(b"\n")]

    def close(self) -> None:
        """The reader is gone."""
        with contextlib.suppress(OSError):
            os.close(self.fd)


@pytest.fixture
def fifos(tmp_path: Path) -> Iterator[dict[str, Fifo]]:
    made = {name: Fifo(tmp_path / name) for name in ("broker", "pool")}
    yield made
    for fifo in made.values():
        fifo.close()


@pytest.mark.timeout(150)
def test_a_reader_that_does_not_read_keeps_nobody_waiting(lm: ScriptedLM, fifos: dict[str, Fifo]) -> None:
    """And gets all lines in the end, since they were not too many."""
    with logging_to({name: fifo.redirection for name, fifo in fifos.items()}, lm) as (broker, pool, client):
        work(pool, client, "unread")
        for round_number in range(6):
            work(pool, client, f"round {round_number}", calls=2)
            if all(fifo.is_full() for fifo in fifos.values()):
                break
        assert all(fifo.is_full() for fifo in fifos.values()), "the pipes are full, and everybody works"
        for name, event in (("broker", "job.done"), ("pool", "executor.died")):
            lines = wait_for_line(fifos[name], event)
            assert not [line for line in lines if line.get("event") == "log_lines_dropped"]
        end(broker, pool)


def wait_for_line(fifo: Fifo, event: str) -> list[dict[str, object]]:
    """Read until there is one of this event."""

    def read() -> list[dict[str, object]]:
        lines = [json.loads(line) for line in fifo.lines()]
        return lines if any(line.get("event") == event for line in lines) else []

    return wait_until(read, 10.0, event)


@pytest.mark.soak
def test_full_pipes_keep_nobody_from_ending(lm: ScriptedLM, fifos: dict[str, Fifo]) -> None:
    with logging_to({name: fifo.redirection for name, fifo in fifos.items()}, lm) as (broker, pool, client):
        work(pool, client, "unread")
        end(broker, pool)


@pytest.mark.soak
def test_a_reader_that_is_gone_is_not_missed(lm: ScriptedLM, fifos: dict[str, Fifo]) -> None:
    with logging_to({name: fifo.redirection for name, fifo in fifos.items()}, lm) as (broker, pool, client):
        for fifo in fifos.values():
            fifo.close()
        work(pool, client, "alone")
        end(broker, pool)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(tmp_path)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"a small file system cannot be mounted here (needs root): {done.stderr.strip()}")
    try:
        yield tmp_path
    finally:
        subprocess.run(["umount", "--lazy", str(tmp_path)], check=True)


@pytest.mark.timeout(150)
def test_a_disk_that_is_full_and_has_room_again(lm: ScriptedLM, disk: Path) -> None:
    """Logging goes on with a line that says how much is missing; what is there is whole but for the lines it hit."""
    ballast = disk / "ballast"
    ballast.write_bytes(b"x" * (DISK_BYTES - 4 * os.sysconf("SC_PAGE_SIZE")))
    where = {name: f">>{disk / name}" for name in ("broker", "pool")}
    with logging_to(where, lm) as (broker, pool, client):
        sizes: list[int] = []
        for n in range(20):
            before, sizes = sizes, [(disk / name).stat().st_size for name in where]
            if before == sizes:
                break
            work(pool, client, f"filling {n}", calls=2)
        assert before == sizes, "both are at their end"
        ballast.unlink()
        work(pool, client, "room again", calls=3)
        end(broker, pool)
    for name in where:
        lines = (disk / name).read_text().splitlines()
        lines = [line for line in lines if line]
        found = [json.loads(line) for line in lines if is_json(line)]
        # One for each process: a supervisor and its executors write to the same file.
        assert len(lines) - len(found) <= (1 if name == "broker" else 3)
        lost = [line for line in found if line.get("event") == "log_lines_dropped"]
        assert lost, f"the {name} says what is missing"
        assert int(lost[0]["fields"]["n"]) >= 1


def is_json(line: str) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True
