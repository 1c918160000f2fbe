"""Conformance drivers of all clients, as users of a real broker: each is told what to submit, and says what came.

docs/conformance-drivers.md is their contract.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Sequence
from typing import Any

from tests.processes import ROOT, clean_environ

END_S = 10.0


class Driver:
    """One driver as a process, and a session of its own.

    Each line that it says is given to `heard`, on a thread of its own; what cannot be read, or raises there, is in
    `problems`.
    """

    def __init__(
        self, name: str, command: Sequence[str], address: str, heard: Callable[[dict[str, Any]], None]
    ) -> None:
        self.name = name
        self.problems: list[str] = []
        self._heard = heard
        self._telling = threading.Lock()
        environ = clean_environ(extra={"DSPYMQ_BROKERS": address, "LC_ALL": "C.UTF-8"})
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            command, cwd=ROOT, env=environ, stdin=pipe, stdout=pipe, text=True, start_new_session=True
        )
        self._reader = threading.Thread(target=self._read, name=f"driver-{name}")
        self._reader.start()

    @property
    def pid(self) -> int:
        """Its process id, and that of its session."""
        return self._process.pid

    def is_alive(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def tell(self, *lines: dict[str, Any]) -> None:
        """What to do, in one breath; waits while the driver does not read. Lost if it has ended."""
        assert self._process.stdin is not None
        with self._telling, contextlib.suppress(OSError, ValueError):
            self._process.stdin.write("".join(json.dumps(line) + "\n" for line in lines))
            self._process.stdin.flush()

    def signal(self, number: signal.Signals) -> None:
        """Send it, and whatever it started, a signal."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def finish(self) -> None:
        """End its stdin, which is to end it; what it says until then is heard. A problem if it lives on."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self.problems.append("it does not end when its stdin does")
        self.kill()

    def kill(self) -> None:
        """End it by force, and wait until all that it said is heard."""
        self.signal(signal.SIGKILL)
        self._process.wait(END_S)
        self._reader.join(END_S)
        assert self._process.stdout is not None
        self._process.stdout.close()
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            try:
                self._heard(json.loads(line))
            except Exception as problem:
                self.problems.append(f"{problem!r} at {line[:200]!r}")
