"""As in a container: process 1 of its own PID namespace, not root, on a root file system that is read-only."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dspymq import Client
from tests.integration.test_health import get
from tests.lm import ScriptedLM, expected_answer
from tests.processes import ROOT, Process, clean_environ, dspymq_command, is_alive, running_command, wait_until

NOBODY = "65534"
ANY_PORT = "tcp://127.0.0.1:*"

DROP = f"exec setpriv --reuid {NOBODY} --regid {NOBODY} --clear-groups --inh-caps=-all --no-new-privs"

NAMESPACES = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]

CHECK = """
import os, subprocess, sys, dspymq
subprocess.run([sys.executable, "-c", ""], check=True)
print(os.getpid(), os.getuid())
"""


def contained(directory: Path, *command: str) -> list[str]:
    """This command in a container, in which only `directory` can be written to."""
    lines = ["set -e", "mount --make-rprivate /", 'mount -t tmpfs -o mode=1777 tmpfs "$TMPDIR"']
    # Python, or the checkout, may be in somebody's home.
    needed = {path: closed for path in (sys.base_prefix, sys.prefix, str(ROOT)) if (closed := closed_above(path))}
    for number, path in enumerate(needed):
        lines += [f'mkdir "$TMPDIR/{number}"', f'mount --rbind {path} "$TMPDIR/{number}"']
    lines += [f"mount -t tmpfs -o mode=755 tmpfs {closed}" for closed in set(needed.values())]
    for number, path in enumerate(needed):
        lines += [f"mkdir -p {path}", f'mount --rbind "$TMPDIR/{number}" {path}']
    lines += ["mount -o remount,bind,ro /", f'{DROP} "$@"']
    return [*NAMESPACES, "env", f"TMPDIR={directory}", "HOME=/nowhere", "sh", "-c", "\n".join(lines), "sh", *command]


def closed_above(path: str) -> str | None:
    """The first directory on the way there that others may not enter."""
    ways = [directory for directory in reversed(Path(path).parents) if not directory.stat().st_mode & stat.S_IXOTH]
    return str(ways[0]) if ways else None


@pytest.fixture
def scratch() -> Iterator[Path]:
    """The one directory that can be written to. Skips where there can be no such container."""
    if shutil.which("unshare") is None or shutil.which("setpriv") is None:
        pytest.skip("there is no `unshare` or no `setpriv`: install util-linux")
    # Not below pytest's own, which others may not enter.
    with tempfile.TemporaryDirectory(prefix="dspymq-") as name:
        os.chmod(name, 0o755)
        check = contained(Path(name), sys.executable, "-c", CHECK)
        done = subprocess.run(check, env=clean_environ(), capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"no container can be made here (needs root, and Python for everybody): {done.stderr.strip()}")
        assert done.stdout.split() == ["1", NOBODY]
        yield Path(name)


def first_process(outside: Process) -> int:
    """The pid, as it is seen here, of process 1 in there."""

    def find() -> int:
        path = Path(f"/proc/{outside.pid}/task/{outside.pid}/children")
        children = path.read_text().split()
        return int(children[0]) if children else 0

    return wait_until(find, 10.0, "process 1")


def zombies(parent: int) -> list[int]:
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return [int(pid) for pid in children if not is_alive(int(pid))]


class Container:
    """`pid` is its process 1; `address` and `health` are where it answers."""

    def __init__(self, process: Process, told: dict[str, str]) -> None:
        self.process = process
        self.pid = first_process(process)
        self.told = told

    def end(self, number: int) -> int:
        """Signal process 1, as a container engine does; its exit code."""
        os.kill(self.pid, number)
        return self.process.process.wait(20)


@contextlib.contextmanager
def broker_in(scratch: Path) -> Iterator[Container]:
    arguments = ["--clients", ANY_PORT, "--workers", ANY_PORT, "--health", "127.0.0.1:0", "--json"]
    command = contained(scratch, *dspymq_command("broker", *arguments))
    with running_command("broker", command, clean_environ()) as process:
        try:
            yield Container(process, json.loads(process.first_line()))
        finally:
            end_by_force(process)


@contextlib.contextmanager
def pool_in(scratch: Path, broker: Container, lm: ScriptedLM) -> Iterator[Container]:
    arguments = ["tests.faults.container_programs", "--broker", broker.told["workers"], "--processes", "2"]
    command = contained(scratch, *dspymq_command("worker", *arguments, "--name", "pool", "--grace", "5"))
    with running_command("pool", command, clean_environ(lm), ROOT) as process:
        try:
            yield Container(process, {})
        finally:
            end_by_force(process)


def end_by_force(process: Process) -> None:
    # `unshare` itself does not pass signals on; whoever is killed takes its namespace along.
    if process.process.poll() is None:
        process.process.kill()


@pytest.fixture
def lm() -> Iterator[ScriptedLM]:
    with ScriptedLM() as lm:
        yield lm


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.soak)])
@pytest.mark.timeout(150)
def test_a_broker_and_a_pool_serve_and_end_as_they_are_told(
    scratch: Path, lm: ScriptedLM, number: signal.Signals
) -> None:
    with broker_in(scratch) as broker, pool_in(scratch, broker, lm) as pool:
        with Client(broker.told["clients"], timeout_s=100) as client:
            assert client.call("qa", question="inside?").answer == expected_answer("answer", "inside?")
            status = Path(f"/proc/{pool.pid}/status").read_text()
            assert "NSpid:" in status
            assert "CapEff:\t0000000000000000" in status
            assert client.call("leaves", count=0).uid == int(NOBODY)
            assert get(broker.told["health"], "/livez")[0] == 200
            assert get(broker.told["health"], "/readyz")[0] == 200
            open_call = client.submit("qa", {"question": "#job=last #hang"})
            lm.wait_open("last")
            os.kill(pool.pid, number)
            wait_until(lambda: get(broker.told["health"], "/readyz")[0] == 503, 10.0, "a drain")
            lm.release()
            assert open_call.result(20).attempt == 1
            assert pool.process.process.wait(20) == 0
        assert broker.end(number) == 0


@pytest.mark.soak
@pytest.mark.timeout(150)
def test_what_programs_leave_behind_does_not_stay_as_zombies(scratch: Path, lm: ScriptedLM) -> None:
    """Nor do executors whose fork server has ended: process 1 inherits them all, and there is no other init."""
    with broker_in(scratch) as broker, pool_in(scratch, broker, lm) as pool:
        with Client(broker.told["clients"], timeout_s=100) as client:
            for _ in range(3):
                client.call("leaves", count=3)
            wait_until(lambda: len(zombies(pool.pid)) >= 1, 5.0, "orphans")
            executors = [one["pid"] for one in client.workers()[0]["executors"]]
            os.kill(pool.pid, signal.SIGHUP)
            wait_until(
                lambda: not set(executors) & {one["pid"] for one in client.workers()[0]["executors"]}, 40.0, "a reload"
            )
            wait_until(lambda: not zombies(pool.pid), 10.0, f"the end of {zombies(pool.pid)}")
            # Nobody was reaped who is waited for.
            time.sleep(1.5)
            for n in range(4):
                assert client.call("qa", question=f"still {n}").answer == expected_answer("answer", f"still {n}")
        assert pool.end(signal.SIGTERM) == 0
        assert broker.end(signal.SIGTERM) == 0
