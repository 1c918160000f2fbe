"""COMMAND, the driver of what is tested: a process that is told what to do, one JSON object a line.

docs/conformance-drivers.md is the contract.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, Final

READY_S: Final = 30.0
END_S: Final = 2.0
_TAIL: Final = 4000
_LONGEST_LINE: Final = 64 << 20


class CommandFault(Exception):
    """COMMAND does not keep the contract of a driver; says nothing about any rule."""


class CommandEnded(AssertionError):
    """COMMAND ended in the middle of a transcript."""


class Command:
    """One started COMMAND. Close it at the end: then its process group is gone."""

    def __init__(self, argv: Sequence[str], brokers: Sequence[str]) -> None:
        """Raises CommandFault if it cannot be started."""
        self._argv = list(argv)
        self._stderr: IO[str] = tempfile.NamedTemporaryFile("w", prefix="dspymq-conformance-", suffix=".err")  # noqa: SIM115
        environ = {**os.environ, "DSPYMQ_BROKERS": ",".join(brokers)}
        try:
            self._process = subprocess.Popen(
                self._argv,
                env=environ,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._stderr,
                start_new_session=True,
            )
        except OSError as problem:
            self._stderr.close()
            found = "" if shutil.which(self._argv[0]) else " (is it on the PATH? is it executable?)"
            raise CommandFault(f"COMMAND cannot be started: {problem}{found}") from None
        self._lines: queue.Queue[bytes | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.said: dict[str, Any] = {}

    def _read(self) -> None:
        assert self._process.stdout is not None
        while line := self._process.stdout.readline(_LONGEST_LINE):
            self._lines.put(line)
        self._lines.put(None)

    def wait_ready(self, timeout_s: float = READY_S) -> frozenset[str]:
        """What it supports, from its first line. Raises CommandFault."""
        try:
            first = self._lines.get(timeout=timeout_s)
        except queue.Empty:
            raise CommandFault(
                f"COMMAND has not written its first line within {timeout_s:g} s{self.stderr()}"
            ) from None
        if first is None:
            raise CommandFault(f"COMMAND {self._how_it_ended()} before it wrote its first line{self.stderr()}")
        said = self._parsed(first)
        words = said.get("supports")
        if said.get("ready") is not True or not isinstance(words, list) or not all(isinstance(w, str) for w in words):
            wanted = '{"ready": true, "supports": [...]}'
            raise CommandFault(f"COMMAND's first line is {_shown(first)}, not {wanted}{self.stderr()}")
        self.said = said
        return frozenset(words)

    def tell(self, told: dict[str, Any]) -> None:
        """Raises CommandEnded if it does not listen any more."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(told, ensure_ascii=False).encode() + b"\n")
            self._process.stdin.flush()
        except OSError:
            raise CommandEnded(f"COMMAND {self._how_it_ended()}{self.stderr()}") from None

    def heard(self) -> list[dict[str, Any]]:
        """What it has written since. Raises CommandFault for what is no JSON object, CommandEnded at its end."""
        found: list[dict[str, Any]] = []
        while True:
            try:
                line = self._lines.get_nowait()
            except queue.Empty:
                return found
            if line is None:
                if found:
                    self._lines.put(None)
                    return found
                raise CommandEnded(f"COMMAND {self._how_it_ended()}{self.stderr()}")
            said = self._parsed(line)
            if "problem" in said:
                raise CommandFault(f"COMMAND says: {said['problem']}{self.stderr()}")
            found.append(said)

    def signal(self, pid: int, number: int) -> None:
        """Send a signal to a process that it named. Raises CommandFault if there is none."""
        if pid <= 1:
            raise CommandFault(f"COMMAND named no process: pid {pid}")
        try:
            os.kill(pid, number)
        except OSError as problem:
            raise CommandFault(f"no signal can be sent to the pid {pid} that COMMAND named: {problem}") from None

    def close(self) -> None:
        """The end of its stdin, a short time to end, then SIGKILL to its process group."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(END_S)
        # The group may outlive its leader.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._reader.join(END_S)
        self._process.stdout.close()
        self._stderr.close()

    def stderr(self) -> str:
        """The last of what it wrote on stderr, as a paragraph; empty if there is nothing."""
        try:
            text = Path(self._stderr.name).read_text("utf-8", "replace").strip()
        except OSError:
            return ""
        return f"\nits stderr:\n{text[-_TAIL:]}" if text else "; its stderr is empty"

    def _parsed(self, line: bytes) -> dict[str, Any]:
        try:
            said = json.loads(line)
        except ValueError:
            said = None
        if not isinstance(said, dict):
            raise CommandFault(f"COMMAND wrote {_shown(line)} to stdout, which is no JSON object{self.stderr()}")
        return said

    def _how_it_ended(self) -> str:
        end = time.monotonic() + 1.0
        while (code := self._process.poll()) is None and time.monotonic() < end:
            time.sleep(0.01)
        if code is None:
            return "has closed its stdout"
        return f"ended with exit code {code}" if code >= 0 else f"was killed by signal {-code}"


def _shown(line: bytes) -> str:
    text = line.decode("utf-8", "replace").rstrip("\n")
    return repr(text if len(text) <= 200 else f"{text[:200]}...")
