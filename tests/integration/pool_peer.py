"""A ROUTER that speaks the broker's side of DJP with one pool, as a test says; and a pool as a process of its own."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import zmq

from dspymq.protocol import Limits, body, encode, worker_codec
from dspymq.protocol import worker_messages as w
from dspymq.protocol.messages import Bye, Error, Header, Hello, Ping, Pong, Welcome

PROGRAMS = '''
import asyncio, os, signal, threading, time
import dspy

class Echo(dspy.Module):
    """Gives back its text, and who ran it."""
    async def aforward(self, text: str) -> dict:
        return dspy.Prediction(text=text, pid=os.getpid())

class Nap(dspy.Module):
    async def aforward(self, ms: int) -> dict:
        await asyncio.sleep(ms / 1000)
        return dspy.Prediction(pid=os.getpid())

class Deaf(dspy.Module):
    """Cannot be stopped: a thread in a loop."""
    def forward(self, ms: int) -> dict:
        end = time.monotonic() + ms / 1000
        while time.monotonic() < end:
            time.sleep(0.01)
        return dspy.Prediction(pid=os.getpid())

class Hog(dspy.Module):
    """Holds the loop."""
    async def aforward(self, ms: int) -> dict:
        time.sleep(ms / 1000)
        return dspy.Prediction(pid=os.getpid())

class Die(dspy.Module):
    async def aforward(self, ms: int) -> dict:
        await asyncio.sleep(ms / 1000)
        os.kill(os.getpid(), signal.SIGKILL)

class Large(dspy.Module):
    async def aforward(self, size: int) -> dict:
        return dspy.Prediction(text="x" * size)

echo, nap, deaf, hog, die, large = Echo(), Nap(), Deaf(), Hog(), Die(), Large()
'''

RUNNER = """
import json, logging, sys
from dspymq.worker import load_worker_config, run_pool
logging.basicConfig(level="INFO", format="%(asctime)s %(name)s %(levelname)s %(message)s", stream=sys.stderr)
code = run_pool(load_worker_config(None, {}, json.loads(sys.argv[1])))
bad = [name for name in sys.modules if name == "dspy" or name.startswith("dspy.") or name == "pool_programs"]
print(json.dumps({"dspy": bad}), flush=True)
sys.exit(code)
"""

M = TypeVar("M", bound=Header)


class Peer:
    """The broker's side. Everything happens in the caller's thread: pings are answered while it waits."""

    def __init__(self, address: str = "tcp://127.0.0.1:*", *, max_body_bytes: int = 16 * 1024 * 1024) -> None:
        self._context: zmq.Context[Any] = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.bind(address)
        self.address = self._socket.getsockopt_string(zmq.LAST_ENDPOINT)
        self._codec = worker_codec()
        self._limits = Limits(max_body_bytes=max_body_bytes)
        self._leases = 0
        self.epoch = f"epoch-{time.time_ns()}"
        self.route = b""
        self.seen: list[tuple[Any, bytes]] = []
        self.ready: w.Ready | None = None
        self.ready_body: dict[str, Any] = {}
        self.slots: list[int] = []

    def close(self) -> None:
        self._socket.close()
        self._context.term()

    def send(self, message: Header, payload: bytes = b"") -> None:
        self._socket.send_multipart([self.route, *encode(message, payload)])

    def pump(self, timeout_s: float) -> tuple[Any, bytes] | None:
        """The next message that is not about the life of the session, or None."""
        end = time.monotonic() + timeout_s
        while (left := end - time.monotonic()) > 0 or timeout_s == 0:
            if not self._socket.poll(max(0, left) * 1000):
                return None
            route, *frames = self._socket.recv_multipart()
            message, payload = self._codec.decode(frames)
            if isinstance(message, Hello):
                self.route = route
                self.send(
                    Welcome(
                        epoch=self.epoch,
                        session="s",
                        ping_ms=1_000,
                        dead_ms=3_000,
                        adopt_ms=5_000,
                        orphan_ms=60_000,
                        retain_ms=60_000,
                        limits=self._limits,
                    )
                )
            elif route != self.route:
                if not isinstance(message, Bye):
                    refusal = Error(code="FAILED_PRECONDITION", reason="no_session")
                    self._socket.send_multipart([route, *encode(refusal)])
                continue
            elif isinstance(message, Ping):
                self.send(Pong(n=message.n))
                continue
            elif isinstance(message, Pong):
                continue
            elif isinstance(message, w.Ready):
                self.ready = message
                self.slots.append(message.slots.get("default", 0))
                if payload:
                    self.ready_body = body.decode(payload)
            self.seen.append((message, payload))
            return message, payload
        return None

    def expect(self, kind: type[M], timeout_s: float = 20.0, where: Callable[[M], bool] = lambda _: True) -> M:
        """The next message of this kind; others are passed over (and stay in `seen`)."""
        return self.expect_with_body(kind, timeout_s, where)[0]

    def expect_with_body(
        self, kind: type[M], timeout_s: float = 20.0, where: Callable[[M], bool] = lambda _: True
    ) -> tuple[M, bytes]:
        end = time.monotonic() + timeout_s
        while (left := end - time.monotonic()) > 0:
            got = self.pump(left)
            if got is not None and isinstance(got[0], kind) and where(got[0]):
                return got[0], got[1]
        shown = [type(message).__name__ for message, _ in self.seen[-20:]]
        raise AssertionError(f"no {kind.__name__} within {timeout_s} s; last seen: {shown}")

    def welcome_pool(self, slots: int, timeout_s: float = 30.0) -> None:
        """Hello, the pages of held (none kept here), and slots."""
        self.expect(Hello, timeout_s)
        self.expect(w.Ready, timeout_s, lambda ready: ready.held is not None)
        self.send(w.Synced())
        self.until_slots(slots, timeout_s)

    def until_slots(self, slots: int, timeout_s: float = 20.0) -> None:
        end = time.monotonic() + timeout_s
        while self.ready is None or self.ready.slots.get("default") != slots:
            left = end - time.monotonic()
            if left <= 0:
                raise AssertionError(f"slots {slots} did not come: {self.slots}")
            self.pump(left)

    def dispatch(self, program: str, timeout_ms: int = 30_000, lease: str = "", **inputs: Any) -> str:
        """Dispatch a job; `isolate` and `want` come in through `options`."""
        return self.dispatch_with({}, program, timeout_ms, lease, **inputs)

    def dispatch_with(
        self, options: dict[str, Any], program: str, timeout_ms: int = 30_000, lease: str = "", **inputs: Any
    ) -> str:
        assert self.ready is not None
        self._leases += 1
        lease = lease or f"{self.epoch}-{self._leases:012d}"
        revision = next(offer.revision for offer in self.ready.programs if offer.name == program)
        message = w.Dispatch(
            lease=lease,
            ns="anonymous",
            job=f"job-{self._leases}",
            attempt=1,
            digest="d" * 32,
            program=program,
            revision=revision,
            timeout_ms=timeout_ms,
            **options,
        )
        self.send(message, body.encode(inputs=inputs))
        return lease

    def result(self, lease: str, timeout_s: float = 20.0) -> tuple[w.Result, dict[str, Any]]:
        """The result of a lease, acknowledged."""
        came = [seen for seen in self.seen if isinstance(seen[0], w.Result) and seen[0].lease == lease]
        if not came:
            came.append(self.expect_with_body(w.Result, timeout_s, lambda result: result.lease == lease))
        message, payload = came[0]
        self.send(w.Ack(leases=[lease]))
        return message, body.decode(payload).get("outputs") or {}

    def released(self, lease: str, timeout_s: float = 20.0) -> w.Released:
        for message, _ in self.seen:
            if isinstance(message, w.Released) and message.lease == lease:
                return message
        return self.expect(w.Released, timeout_s, lambda released: released.lease == lease)

    def executors(self) -> list[dict[str, Any]]:
        """What the last `ready` told of the processes."""
        found: list[dict[str, Any]] = self.ready_body["executors"]
        return found


class PoolProcess:
    """`run_pool` in a process of its own, with all its output in files."""

    def __init__(self, directory: Path, peer_address: str | list[str], **settings: Any) -> None:
        import json

        (directory / "pool_programs.py").write_text(PROGRAMS)
        self.log_path = directory / f"pool-{time.monotonic_ns()}.log"
        self._log = self.log_path.open("wb")
        config = {
            "brokers": [peer_address] if isinstance(peer_address, str) else peer_address,
            "targets": ["pool_programs"],
            "cwd": str(directory),
            "processes": 1,
            "concurrency": 4,
            "name": "pool",
            **settings,
        }
        environ = {k: v for k, v in os.environ.items() if not k.startswith("DSPYMQ_")}
        self.process = subprocess.Popen(
            [sys.executable, "-c", RUNNER, json.dumps(config)],
            stdout=subprocess.PIPE,
            stderr=self._log,
            cwd=directory,
            env={**environ, "DSPY_CACHEDIR": str(directory / "cache")},
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        return self.process.pid

    def log(self) -> str:
        return self.log_path.read_text()

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def wait(self, timeout_s: float = 20.0) -> int:
        return self.process.wait(timeout_s)

    def output(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.read().decode()

    def close(self) -> None:
        """Whatever is left of it ends."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)
        if self.process.stdout is not None:
            self.process.stdout.close()
        self._log.close()
        left = wait_until_gone(session_of(self.pid), 10.0)
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        assert not left, f"processes outlived the supervisor: {left}"


def session_of(session: int) -> list[int]:
    """The live processes of a session (the pool was started as the leader of its own)."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            fields = _stat(int(entry.name))
            if fields and int(fields[3]) == session and fields[0] != "Z":
                found.append(int(entry.name))
    return found


def _stat(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def is_alive(pid: int) -> bool:
    """Whether the process runs (a zombie does not)."""
    fields = _stat(pid)
    return bool(fields) and fields[0] not in "ZX"


def wait_until_gone(pids: list[int], timeout_s: float) -> list[int]:
    """Those of the processes that are still there at the end."""
    end = time.monotonic() + timeout_s
    while (left := [pid for pid in pids if is_alive(pid)]) and time.monotonic() < end:
        time.sleep(0.01)
    return left
