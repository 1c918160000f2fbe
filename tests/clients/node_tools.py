"""Builds clients/node once, and runs its programs as processes."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.clients.toolchains import require
from tests.processes import ROOT, Process, RunningBroker, clean_environ, running_command

NODE = ROOT / "clients" / "node"
DIST = NODE / "dist"
OLDEST = (20, 9)
BUILD_S = 180


def build() -> None:
    """Install and compile, unless that was done for these very files."""
    node, npm = shutil.which("node"), shutil.which("npm")
    require(bool(node and npm), "Node 20.9 or newer, with npm, is not installed (nodejs.org)")
    version = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout
    found = tuple(map(int, re.findall(r"\d+", version)[:2]))
    require(found >= OLDEST, f"Node {version.strip()} is too old: 20.9 or newer is needed")
    lock_name = f"dspymq-node-{hashlib.sha256(str(NODE).encode()).hexdigest()[:16]}.lock"
    with (Path(tempfile.gettempdir()) / lock_name).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _install()
        _compile()


def _install() -> None:
    stamp = NODE / "node_modules" / ".dspymq-installed"
    wanted = _digest([NODE / "package.json", NODE / "package-lock.json"])
    if stamp.exists() and stamp.read_text() == wanted:
        return
    done = _npm("ci", "--ignore-scripts", "--no-audit", "--no-fund")
    require(done.returncode == 0, f"`npm ci` failed in clients/node (is the npm registry reachable?)\n{done.stderr}")
    stamp.write_text(wanted)


def _compile() -> None:
    stamp = DIST / ".built"
    folders = ("src", "tests", "conformance", "examples")
    sources = sorted(path for folder in folders for path in (NODE / folder).rglob("*.ts"))
    wanted = _digest([NODE / "tsconfig.json", NODE / "package-lock.json", *sources])
    if stamp.exists() and stamp.read_text() == wanted:
        return
    shutil.rmtree(DIST, ignore_errors=True)
    done = _npm("run", "--silent", "build")
    assert done.returncode == 0, f"tsc:\n{done.stdout}\n{done.stderr}"
    stamp.write_text(wanted)


def _npm(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["npm", *arguments], cwd=NODE, capture_output=True, text=True, timeout=BUILD_S)


def _digest(paths: Sequence[Path]) -> str:
    found = hashlib.sha256()
    for path in paths:
        found.update(f"{path}\0".encode() + path.read_bytes())
    return found.hexdigest()


def run_tests(folder: str, environ: dict[str, str] | None = None, timeout_s: float = 150) -> str:
    """`node --test` of a folder of dist; what it wrote. Raises AssertionError if a test failed, or none was found."""
    command = ["node", "--test", "--test-reporter=spec", str(DIST / folder)]
    done = subprocess.run(
        command, env=clean_environ(extra=environ), capture_output=True, text=True, timeout=timeout_s, cwd=NODE
    )
    counts = {name: int(count) for name, count in re.findall(r"^ℹ (\w+) (\d+)$", done.stdout, re.MULTILINE)}
    assert done.returncode == 0, done.stdout[-8_000:] + done.stderr[-4_000:]
    assert counts["tests"] > 0
    assert counts["skipped"] == 0, done.stdout[-8_000:]
    return done.stdout


@contextlib.contextmanager
def running_node(script: str, *arguments: str) -> Iterator[Process]:
    """A compiled script as a process; at the end it gets SIGTERM, and nothing of it may be left."""
    with running_command(script, ["node", str(DIST / script), *arguments], clean_environ()) as process:
        yield process


def node_worker(brokers: Sequence[RunningBroker], **options: Any) -> contextlib.AbstractContextManager[Process]:
    """The worker of clients/node/tests/serve.ts, with these options of `Worker`."""
    addresses = [broker.workers for broker in brokers]
    return running_node("tests/serve.js", json.dumps({"addresses": addresses, "name": "node", **options}))
