"""A broker under test: one that runs already, or one that the kit starts and stops."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shlex
import signal
import socket as network
import subprocess
import tempfile
import time
from pathlib import Path
from typing import IO, Any, Final, Protocol

from dspymq.conformance.command import CommandFault

_START_S: Final = 20.0
_END_S: Final = 10.0
_TAIL: Final = 4000


class Control(Protocol):
    """Where a broker is, and how it is stopped; all but `clients` and `workers` may raise CommandFault."""

    clients: str
    workers: str

    def stop(self) -> None:
        """Ask it to end (SIGTERM)."""

    def restart(self) -> None:
        """Kill it, and start it again at the same addresses."""

    def check(self) -> None:
        """Raises CommandFault if it has ended without having been asked to."""

    def close(self) -> None:
        """End it, if the kit has started it."""


class Running:
    """A broker that somebody else has started."""

    def __init__(self, clients: str, workers: str) -> None:
        self.clients = clients
        self.workers = workers

    def stop(self) -> None:
        """Not possible."""
        raise CommandFault("a broker that the kit has not started is not stopped")

    def restart(self) -> None:
        """Not possible."""
        self.stop()

    def check(self) -> None:
        """Nothing is known of its process."""

    def close(self) -> None:
        """It stays as it is."""


class Started:
    """A broker that the kit starts by a template such as `my-broker {clients} {workers} --settings {settings}`.

    `settings` are those of SPEC section 13, as JSON; the environment has them too, in DSPYMQ_SETTINGS, and the
    addresses in DSPYMQ_CLIENTS and DSPYMQ_WORKERS.
    """

    def __init__(self, template: str, settings: dict[str, Any]) -> None:
        """Raises CommandFault if it does not listen after a while."""
        self.clients, self.workers = (f"tcp://127.0.0.1:{port}" for port in free_ports(2))
        self._template = template
        self._settings = json.dumps(settings)
        self._stderr: IO[str] = tempfile.NamedTemporaryFile("w", prefix="dspymq-conformance-", suffix=".err")  # noqa: SIM115
        self._is_asked_to_end = False
        self._process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        said = {"clients": self.clients, "workers": self.workers, "settings": self._settings}
        argv = [_filled(word, said) for word in shlex.split(self._template)]
        environ = {**os.environ, **{f"DSPYMQ_{name.upper()}": value for name, value in said.items()}}
        try:
            process = subprocess.Popen(
                argv,
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._stderr,
                start_new_session=True,
            )
        except (OSError, IndexError) as problem:
            self._stderr.close()
            raise CommandFault(f"--start: {self._template!r} cannot be started: {problem}") from None
        self._wait_until_it_listens(process)
        return process

    def _wait_until_it_listens(self, process: subprocess.Popen[bytes]) -> None:
        end = time.monotonic() + _START_S
        while not all(_listens(address) for address in (self.clients, self.workers)):
            code = process.poll()
            if code is not None or time.monotonic() > end:
                text = self._said()
                _kill(process)
                self._stderr.close()
                how = f"does not listen within {_START_S:g} s" if code is None else f"ended with exit code {code}"
                raise CommandFault(f"the broker of --start {how}{text}")
            time.sleep(0.01)

    def stop(self) -> None:
        """SIGTERM to its process."""
        self._is_asked_to_end = True
        self._process.terminate()

    def restart(self) -> None:
        """SIGKILL to its process group, and a new one."""
        _kill(self._process)
        self._process = self._start()

    def check(self) -> None:
        """Raises CommandFault if it has ended by itself."""
        code = self._process.poll()
        if code is not None and not self._is_asked_to_end:
            raise CommandFault(f"the broker ended by itself, with exit code {code}{self._said()}")

    def close(self) -> None:
        """SIGTERM, a while to end, SIGKILL."""
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_END_S)
        _kill(self._process)
        self._stderr.close()

    def _said(self) -> str:
        text = Path(self._stderr.name).read_text("utf-8", "replace").strip()
        return f"\nits stderr:\n{text[-_TAIL:]}" if text else "; its stderr is empty"


def _filled(word: str, said: dict[str, str]) -> str:
    for name, value in said.items():
        word = word.replace(f"{{{name}}}", value)
    return word


def _kill(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def free_ports(count: int) -> list[int]:
    """So many TCP ports of 127.0.0.1 that nobody listens at.

    They are below those that systems give out by themselves (32768 and more on Linux): no outgoing connection takes
    one while a broker is down for a moment.
    """
    found: list[int] = []
    while len(found) < count:
        port = random.randrange(20_000, 32_000)
        with network.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            found.append(port)
    return found


def _listens(address: str) -> bool:
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    try:
        network.create_connection((host, int(port)), timeout=1.0).close()
    except OSError:
        return False
    return True
