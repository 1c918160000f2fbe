"""Tells a service manager (systemd, `Type=notify`) how a process is: sd_notify(3)'s protocol, without a library."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Mapping


class ServiceManager:
    """Sends datagrams to `NOTIFY_SOCKET`; does nothing where there is none."""

    def __init__(self, environ: Mapping[str, str], pid: int) -> None:
        """`pid` is this process: a watchdog that is meant for another one (`WATCHDOG_PID`) is not fed."""
        self._address = environ.get("NOTIFY_SOCKET", "")
        mine = environ.get("WATCHDOG_PID", str(pid)) == str(pid)
        usec = environ.get("WATCHDOG_USEC", "")
        self.watchdog_s = int(usec) / 2_000_000 if mine and self._address and usec.isdecimal() else None
        """How often `alive` is to be called: twice in the time that the manager waits; None: never."""

    @classmethod
    def of_this_process(cls) -> ServiceManager:
        """The one that started this process, if any."""
        return cls(os.environ, os.getpid())

    def ready(self, status: str) -> None:
        """The service is up; `status` is one line for people."""
        self._send(f"READY=1\nSTATUS={status}")

    def alive(self) -> None:
        """Feed the watchdog."""
        self._send("WATCHDOG=1")

    async def keep_alive(self) -> None:
        """Feed the watchdog, if there is one, from the loop that serves: when that stands still, so does this."""
        while self.watchdog_s is not None:
            self.alive()
            await asyncio.sleep(self.watchdog_s)

    def status(self, status: str) -> None:
        """Say in one line how things are."""
        self._send(f"STATUS={status}")

    def stopping(self) -> None:
        """The service has begun to end."""
        self._send("STOPPING=1")

    def _send(self, text: str) -> None:
        if not self._address:
            return
        # A manager that does not listen any more is no reason to fail.
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as to:
            to.setblocking(False)
            to.sendto(text.encode(), "\0" + self._address[1:] if self._address.startswith("@") else self._address)
