"""Whatever dies, however: three seconds later no process, socket, shared memory or temporary file of it is left.

A killed broker is the exception that cannot be helped: it leaves the socket files of `ipc://` behind, and the next one
takes them over. One that is alive keeps them.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from dspymq import Client
from tests.faults.system import PATIENCE_S, PROGRAMS
from tests.lm import ScriptedLM, expected_answer
from tests.processes import (
    ROOT,
    RunningBroker,
    RunningPool,
    clean_environ,
    dspymq_command,
    is_alive,
    running_broker,
    running_command,
    running_pool,
    wait_until,
)

GONE_S = 6.0
"""Three seconds, on a machine that has time."""
MARK = "ORPHANS_OF"

CALLER = """
import sys
from dspymq import Client
with Client(sys.argv[1]) as client:
    job = client.submit("qa", {"question": "#job=caller #hang"})
    print("open", flush=True)
    job.result()
"""


class Scene:
    """A directory for all temporary files and sockets, and a mark in the environment of all processes."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.temporary = directory / "tmp"
        self.temporary.mkdir()
        self.clients = f"ipc://{directory}/clients"
        self.workers = f"ipc://{directory}/workers"
        self.environ = {MARK: str(directory), "TMPDIR": str(self.temporary)}
        self._shared = set(os.listdir("/dev/shm"))

    def processes(self, *, zombies: bool = True) -> set[int]:
        """Those that were started for this, and by those."""
        mark = f"{MARK}={self.directory}".encode()
        found = set()
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if entry.name.isdigit() and mark in (entry / "environ").read_bytes().split(b"\0"):
                    found.add(int(entry.name))
        return found if zombies else {pid for pid in found if is_alive(pid)}

    def left(self) -> list[str]:
        """Files, sockets and shared memory."""
        files = [str(path.relative_to(self.directory)) for path in self.directory.rglob("*") if path != self.temporary]
        sockets = [line for line in Path("/proc/net/unix").read_text().splitlines() if str(self.directory) in line]
        abstract = [line.split()[-1] for line in sockets if "@" in line]
        shared = [name for name in set(os.listdir("/dev/shm")) - self._shared if "dspymq" in name or "pymp" in name]
        return sorted([*files, *abstract, *shared])


@pytest.fixture
def scene() -> Iterator[Scene]:
    # Paths of sockets are short.
    with tempfile.TemporaryDirectory(prefix="dspymq-") as directory:
        made = Scene(Path(directory))
        try:
            yield made
        finally:
            for pid in made.processes():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


@pytest.fixture
def lm() -> Iterator[ScriptedLM]:
    with ScriptedLM() as lm:
        yield lm


@contextlib.contextmanager
def broker_of(scene: Scene) -> Iterator[RunningBroker]:
    with running_broker(clients=scene.clients, workers=scene.workers, environ=scene.environ) as broker:
        yield broker


@contextlib.contextmanager
def pool_of(scene: Scene, broker: RunningBroker, lm: ScriptedLM, *arguments: str) -> Iterator[RunningPool]:
    with running_pool(
        broker, "--grace", "1", *arguments, targets=[PROGRAMS], lm=lm, processes=2, environ=scene.environ
    ) as pool:
        yield pool


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def gone(pids: set[int]) -> None:
    """Not even zombies of them are left."""
    wait_until(lambda: not [pid for pid in pids if Path(f"/proc/{pid}").exists()], GONE_S, f"the end of {pids}")


@pytest.mark.soak
@pytest.mark.timeout(150)
def test_an_executor_and_a_fork_server_killed_leave_nothing(scene: Scene, lm: ScriptedLM) -> None:
    """Of two generations: the old one ends a call while the new one serves."""
    with broker_of(scene) as broker, pool_of(scene, broker, lm) as pool, Client(broker.clients) as client:
        assert scene.left() == ["clients", "workers"], "no socket file of a fork server"
        old = client.submit("qa", {"question": "#job=old #hang"})
        lm.wait_open("old")
        first = pool.executor_pids()
        os.kill(pool.pid, signal.SIGHUP)
        wait_until(lambda: [one for one in pool.executors() if one["pid"] not in first], PATIENCE_S, "a reload")
        pool_is_whole(pool, besides=first)
        lm.script("old", hang=False)
        victim = next(one["pid"] for one in pool.executors() if one["pid"] in first)
        os.kill(victim, signal.SIGKILL)
        gone({victim})
        assert old.result(PATIENCE_S).attempt == 2
        gone(set(first))
        second = pool_is_whole(pool, besides=first)
        server = parent_of(min(second))
        os.kill(server, signal.SIGKILL)
        gone({server, *second})
        assert client.call("qa", question="again").answer == expected_answer("answer", "again")
        assert scene.left() == ["clients", "workers"]
    assert not scene.processes()
    assert scene.left() == []


def pool_is_whole(pool: RunningPool, besides: list[int]) -> set[int]:
    """Both executors of the new generation, when they are ready; what is gone may be listed for a moment longer."""

    def whole() -> set[int]:
        ready = {one["pid"] for one in pool.executors() if one["state"] == "ready" and one["pid"] not in besides}
        return ready if len(ready) == 2 else set()

    return wait_until(whole, PATIENCE_S, "two new executors")


@pytest.mark.parametrize("method", ["forkserver", pytest.param("spawn", marks=pytest.mark.soak)])
def test_a_supervisor_killed_leaves_nothing(scene: Scene, lm: ScriptedLM, method: str) -> None:
    with broker_of(scene) as broker, Client(broker.clients) as client:
        before = scene.processes()
        with pool_of(scene, broker, lm, "--start-method", method) as pool:
            job = client.submit("qa", {"question": "#job=held #hang"}, redeliver=False)
            lm.wait_open("held")
            assert len(scene.processes() - before) >= 4
            pool.process.kill()
            wait_until(lambda: scene.processes() <= before, GONE_S, "the end of the pool")
            assert scene.left() == ["clients", "workers"]
            assert not job.done() or job.exception()


@pytest.mark.timeout(150)
def test_a_killed_broker_leaves_its_socket_files_to_the_next(scene: Scene, lm: ScriptedLM) -> None:
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(broker_of(scene))
        stack.enter_context(pool_of(scene, first, lm))
        with Client(first.clients) as client:
            job = client.submit("qa", {"question": "#job=over #hang"})
            lm.wait_open("over")
            first.process.kill()
            gone({first.pid})
            assert scene.left() == ["clients", "workers"]
            with broker_of(scene):
                lm.release()
                assert job.result(PATIENCE_S).answer == expected_answer("answer", "#job=over #hang")
        wait_until(lambda: scene.left() == [], GONE_S, f"the end of {scene.left()}")


@pytest.mark.soak
@pytest.mark.timeout(150)
def test_two_brokers_do_not_take_a_socket_from_each_other(scene: Scene, lm: ScriptedLM) -> None:
    with broker_of(scene) as broker:
        for taken in (["--clients", scene.clients], ["--workers", scene.workers]):
            other = {"--clients": "tcp://127.0.0.1:*", "--workers": "tcp://127.0.0.1:*"} | dict([taken])
            command = dspymq_command("broker", *[part for pair in other.items() for part in pair])
            done = subprocess.run(
                command, env=clean_environ(extra=scene.environ), capture_output=True, text=True, timeout=60, check=False
            )
            assert done.returncode == 1
            assert "cannot listen on" in done.stderr
            assert "in use" in done.stderr
        with pool_of(scene, broker, lm), Client(broker.clients) as client:
            assert client.call("qa", question="still here").answer == expected_answer("answer", "still here")


@pytest.mark.timeout(150)
def test_all_killed_at_once_leave_nothing_but_the_brokers_socket_files(scene: Scene, lm: ScriptedLM) -> None:
    """Broker, pools and a client, each in the middle of a call."""
    with contextlib.ExitStack() as stack:
        broker = stack.enter_context(broker_of(scene))
        stack.enter_context(pool_of(scene, broker, lm))
        command = [sys.executable, "-c", CALLER, broker.clients]
        caller = stack.enter_context(running_command("caller", command, clean_environ(extra=scene.environ), ROOT))
        assert caller.first_line() == "open"
        lm.wait_open("caller")
        everything = scene.processes()
        assert len(everything) >= 6
        for pid in sorted(everything):
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not scene.processes(zombies=False), GONE_S, "the end of all")
        assert scene.left() == ["clients", "workers"]
        lm.wait_disconnected("caller")
