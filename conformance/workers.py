"""A worker under test: its COMMAND, which lives through many transcripts, and the broker that it meets in each."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dspymq.conformance.command import Command, CommandFault
from dspymq.conformance.routers import Routers

BROKER = "b"
_STOP_S = 0.2


class WorkerUnderTest(Routers):
    """An engine.Driver for all transcripts; `begin` before each. Close it at the end."""

    def __init__(self, argv: Sequence[str]) -> None:
        super().__init__([BROKER], "workers")
        self._argv = argv
        self._command: Command | None = None
        self.supports: frozenset[str] = frozenset()

    def begin(self) -> None:
        """Another broker at the same address, and a COMMAND that runs. Raises CommandFault."""
        self.begin_anew(BROKER)
        if self._command is None:
            self._command = Command(self._argv, [self.addresses[BROKER]])
            self.supports = self._command.wait_ready()
            if not isinstance(self._command.said.get("pid"), int):
                raise CommandFault('COMMAND\'s first line has no "pid": the process that owns the connection')

    def restart(self) -> None:
        """Whatever it holds is of no use any more: the next transcript begins with a new one."""
        if self._command is not None:
            command, self._command = self._command, None
            with contextlib.suppress(CommandFault):
                command.signal(command.said.get("pid", 0), signal.SIGCONT)
            command.close()
            self.forget_peers()

    def close(self) -> None:
        """End COMMAND, then the broker."""
        self.restart()
        super().close()

    def receive(self, wait_ms: int) -> list[tuple[str, list[bytes]]]:
        """As Routers; also sees whether COMMAND still runs."""
        found = super().receive(wait_ms)
        if not found and self._command is not None:
            self._command.heard()
        return found

    def other(self, step: dict[str, Any]) -> bool:
        """Stop the process that owns the connection for a while, and let it go on."""
        if step.get("tell") not in ("stop", "continue") or self._command is None:
            return False
        number = signal.SIGSTOP if step["tell"] == "stop" else signal.SIGCONT
        pid = self._command.said["pid"]
        self._command.signal(pid, number)
        if number == signal.SIGSTOP:
            _wait_until_stopped(pid)
        return True


def _wait_until_stopped(pid: int) -> None:
    """A signal takes a moment; what is sent in it must not be taken in."""
    stat = Path(f"/proc/{pid}/stat")
    end = time.monotonic() + _STOP_S
    while time.monotonic() < end:
        with contextlib.suppress(OSError):
            if stat.read_text("utf-8", "replace").rpartition(")")[2].split()[0] in "Tt":
                return
        time.sleep(0.005)
