"""A broker or a pool as a child process of `dspymq up`."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Mapping, Sequence


class Child:
    """One `dspymq VERB ...` process, in a process group of its own so that Ctrl-C reaches `up` alone.

    It dies with this process, however that ends (`--parent`). Its stderr is ours; its stdout is read here, or goes
    where its stderr goes.
    """

    def __init__(self, name: str, process: asyncio.subprocess.Process) -> None:
        self.name = name
        self.process = process
        self.exited = asyncio.create_task(process.wait())

    @classmethod
    async def start(
        cls, name: str, arguments: Sequence[str], environ: Mapping[str, str], *, read_stdout: bool
    ) -> Child:
        """Start one with these arguments."""
        # -P: what lies in the current directory is for the executors to import, not for a broker or a supervisor.
        command = [sys.executable, "-P", "-m", "dspymq.cli", *arguments, "--parent", str(os.getpid())]
        process = await asyncio.create_subprocess_exec(
            *command,
            env=dict(environ),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE if read_stdout else sys.stderr.fileno(),
            process_group=0,
        )
        return cls(name, process)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    async def first_line(self) -> str | None:
        """The first line of its stdout; None if it ended without one."""
        if self.process.stdout is None:
            return None
        line = await self.process.stdout.readline()
        return line.decode("utf-8", "replace").strip() or None

    async def stop(self, grace_s: float) -> int:
        """SIGTERM, SIGKILL after `grace_s`; its exit code."""
        self.signal(signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            return await asyncio.wait_for(asyncio.shield(self.exited), grace_s)
        self.signal(signal.SIGKILL)
        return await self.exited

    def signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if not self.exited.done():
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(number)
