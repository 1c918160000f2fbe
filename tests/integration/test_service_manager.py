"""What a broker tells systemd, over a real socket."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path

import pytest

from dspymq.conformance.brokers import free_ports
from dspymq.transport import ServiceManager
from tests.processes import clean_environ, running, running_broker


@pytest.fixture
def listener(tmp_path: Path) -> socket.socket:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    made.bind(str(tmp_path / "notify"))
    made.settimeout(10)
    return made


def test_a_broker_says_ready_feeds_the_watchdog_and_says_that_it_stops(listener: socket.socket, tmp_path: Path) -> None:
    # The process that is watched is not known before it is started; without WATCHDOG_PID it is whoever reads this.
    environ = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "200000"}
    with listener, running_broker(environ=environ) as broker:
        first = listener.recv(4_096).decode()
        said = {first, listener.recv(4_096).decode()}
        assert any(text.startswith("READY=1\nSTATUS=clients at tcp://127.0.0.1:") for text in said)
        assert "WATCHDOG=1" in said
        os.kill(broker.pid, signal.SIGSTOP)
        listener.setblocking(False)
        try:
            while listener.recv(4_096):
                pass
        except BlockingIOError:
            pass
        listener.settimeout(1)
        with pytest.raises(TimeoutError):
            listener.recv(4_096)
        os.kill(broker.pid, signal.SIGCONT)
        listener.settimeout(10)
        assert listener.recv(4_096) == b"WATCHDOG=1"
        broker.process.process.terminate()
        while listener.recv(4_096) != b"STOPPING=1":
            pass


def test_a_pool_is_ready_when_its_executors_are_with_a_broker_or_without(
    listener: socket.socket, tmp_path: Path
) -> None:
    environ = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "400000"}
    command = ["worker", "--processes", "1", "--broker", f"tcp://127.0.0.1:{free_ports(1)[0]}"]
    listener.settimeout(40)
    with listener, running("pool", command, clean_environ(extra=environ)) as pool:
        said = [listener.recv(4_096)]
        while not said[-1].startswith(b"READY=1\n"):
            said.append(listener.recv(4_096))
        assert said[0] == b"WATCHDOG=1", "fed while the programs are imported, too"
        assert listener.recv(4_096) == b"WATCHDOG=1"
        pool.process.terminate()
        while listener.recv(4_096) != b"STOPPING=1":
            pass


def test_without_a_manager_or_for_another_process_nothing_is_said(listener: socket.socket, tmp_path: Path) -> None:
    with listener:
        ServiceManager({}, 1).ready("x")
        address = str(tmp_path / "notify")
        assert (
            ServiceManager({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "8", "WATCHDOG_PID": "2"}, 1).watchdog_s is None
        )
        assert ServiceManager({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "2000000"}, 1).watchdog_s == 1
        ServiceManager({"NOTIFY_SOCKET": "/nowhere/at/all"}, 1).alive()
        ServiceManager({"NOTIFY_SOCKET": address}, 1).status("fine")
        assert listener.recv(99) == b"STATUS=fine"
