"""The Elixir client: its own tests, with mix, against a real broker and a real pool that this file runs.

Needs Elixir 1.14 or later on OTP 25 or later (Debian: apt-get install elixir). Nothing is downloaded.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socketserver
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest
import zmq
from zmq.auth.thread import ThreadAuthenticator

from tests.clients.toolchains import NO_ELIXIR, require
from tests.integration.client_system import free_address
from tests.lm import ScriptedLM
from tests.processes import ROOT, RunningBroker, running_broker, running_pool

PROJECT = ROOT / "clients" / "elixir"
PROGRAMS = ["examples.programs", "tests.conformance.vector_programs"]
MIX_S = 150
# Times of a broker whose silence is soon noticed, and that soon stops waiting for workers after its start.
TIMES = {"DSPYMQ_BROKER_ADOPT_MS": "1500", "DSPYMQ_BROKER_CLIENT_PING_MS": "2000"}

require(shutil.which("mix") is not None, NO_ELIXIR)


@pytest.fixture(scope="session")
def build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where mix builds: not in the sources, which several test runs may share."""
    return tmp_path_factory.mktemp("elixir-build")


def mix(build: Path, *arguments: str, env: str = "test", timeout_s: float = MIX_S, **extra: str) -> str:
    """What `mix ARGUMENTS` wrote. Raises AssertionError, with that, if it failed."""
    return run(["mix", *arguments], build, env, timeout_s, extra)


def run(command: list[str], build: Path, env: str, timeout_s: float, extra: dict[str, str]) -> str:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("DSPYMQ_")}
    environ |= {"MIX_ENV": env, "MIX_BUILD_PATH": str(build / env), "LC_ALL": "C.UTF-8", **extra}
    process = subprocess.Popen(
        command,
        cwd=PROJECT,
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=timeout_s)
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        print(output)
        raise
    assert process.returncode == 0, f"{' '.join(command)} ended with {process.returncode}\n{output}"
    return output


class ElixirSystem:
    """A broker at fixed addresses, which can be killed and started again, a pool, and the scripted LM."""

    def __init__(self, lm: ScriptedLM) -> None:
        self.lm = lm
        self.clients, self.workers = free_address(), free_address()
        self._stack: contextlib.ExitStack | None = None
        self.broker: RunningBroker | None = None
        self._lock = threading.Lock()

    def start(self) -> None:
        if self.broker is None:
            self._stack = contextlib.ExitStack()
            broker = running_broker(clients=self.clients, workers=self.workers, environ=TIMES)
            self.broker = self._stack.enter_context(broker)

    def kill(self) -> None:
        if self.broker is not None and self._stack is not None:
            self.broker.process.kill(signal.SIGKILL)
            self.broker = None
            self._stack.close()

    def stop(self) -> None:
        if self._stack is not None:
            self._stack.close()

    def command(self, line: str) -> str:
        """What the tests ask for over the control port."""
        with self._lock:
            match line.split():
                case ["kill"]:
                    self.kill()
                case ["start"]:
                    self.start()
                case ["freeze"] if self.broker is not None:
                    os.kill(self.broker.pid, signal.SIGSTOP)
                case ["thaw"] if self.broker is not None:
                    os.kill(self.broker.pid, signal.SIGCONT)
                case ["thaw"]:
                    pass
                case ["count", label]:
                    return str(self.lm.job(label).requests)
                case _:
                    raise ValueError(line)
            return ""


@contextlib.contextmanager
def control(system: ElixirSystem) -> Iterator[str]:
    """The control port: one command a line, answered by a line that begins with ok."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            for line in self.rfile:
                answer = system.command(line.decode().strip())
                self.wfile.write(f"ok {answer}\n".encode())

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield "{}:{}".format(*server.server_address)
        server.shutdown()


@pytest.fixture(scope="module")
def system() -> Iterator[ElixirSystem]:
    with ScriptedLM() as lm:
        system = ElixirSystem(lm)
        system.start()
        try:
            assert system.broker is not None
            with running_pool(system.broker, targets=PROGRAMS, lm=lm, processes=2, concurrency=16):
                yield system
        finally:
            system.stop()


def test_it_is_formatted_and_compiles_without_a_warning(build: Path) -> None:
    mix(build, "format", "--check-formatted")
    for env in ("dev", "test"):
        mix(build, "compile", "--warnings-as-errors", "--force", env=env)


@pytest.mark.timeout(MIX_S + 30)
def test_without_a_broker_what_needs_one_is_left_out_and_the_rest_passes(build: Path) -> None:
    output = mix(build, "test", "--exclude", "slow")
    assert "Without DSPYMQ_TEST_BROKER" in output
    assert "0 failures" in output


@pytest.mark.timeout(2 * MIX_S)
def test_with_a_broker_and_a_pool(build: Path, system: ElixirSystem) -> None:
    with control(system) as port:
        where = {"DSPYMQ_TEST_BROKER": system.clients, "DSPYMQ_TEST_CONTROL": port}
        files = ["test/broker_test.exs", "test/readme_test.exs", "test/restart_test.exs"]
        output = mix(build, "test", *files, timeout_s=2 * MIX_S - 20, **where)
    print(output)
    assert "0 failures" in output
    assert "excluded" not in output


@pytest.mark.timeout(MIX_S + 30)
def test_it_conforms_to_the_protocol(build: Path) -> None:
    mix(build, "compile")
    driver = ["elixir", "-pa", str(build / "test/lib/dspymq/ebin"), str(PROJECT / "conformance/driver.exs")]
    kit = [sys.executable, "-P", "-m", "dspymq.cli", "conformance", "client", "--", *driver]
    output = run(kit, build, "test", MIX_S, {})
    assert " 0 fail" in output, output
    # A client with sessions has no use for REQ sockets.
    left_out = re.findall(r"^  not supported +([a-z]\S*)", output, re.MULTILINE)
    assert all(name.startswith("one-shot") for name in left_out), output


@pytest.mark.timeout(MIX_S + 30)
def test_the_examples_run(build: Path, system: ElixirSystem) -> None:
    output = mix(build, "run", "examples/six_things.exs", system.clients, env="dev")
    print(output)
    for name in ("call", "extraction", "stream", "cancel", "tool", "errors"):
        assert f"{name}: " in output


ASK = """
[address, password] = System.argv()
{:ok, client} = Dspymq.start_link(brokers: address, username: "ada", password: password)
for _ <- 1..20, do: Process.sleep(100) && IO.puts(inspect(Dspymq.ping(client, 1_000)))
"""


@pytest.mark.timeout(MIX_S + 30)
def test_a_broker_of_libzmq_with_passwords_and_heartbeats(build: Path) -> None:
    """PLAIN, and ZMTP's PING every 200 ms: whoever does not answer it loses the connection after 600 ms."""
    with secret_broker() as broker:
        output = mix(build, "run", "-e", ASK, "--", broker.address, "secret")
        assert output.count(":ok") == 20, output
        assert broker.hellos == 1
        output = mix(build, "run", "-e", ASK.replace("20", "2"), "--", broker.address, "wrong")
        assert output.count(":unreachable") == 2, output
        assert broker.hellos == 1


class SecretBroker(threading.Thread):
    """Says welcome and pong, to whoever knows the password."""

    def __init__(self, context: zmq.Context[Any]) -> None:
        super().__init__(daemon=True)
        self._socket = context.socket(zmq.ROUTER)
        self._socket.linger = 0
        self._socket.plain_server = True
        self._socket.heartbeat_ivl, self._socket.heartbeat_timeout = 200, 600
        self._socket.bind("tcp://127.0.0.1:*")
        self.address = self._socket.getsockopt_string(zmq.LAST_ENDPOINT)
        self.hellos = 0
        self.ends = threading.Event()

    def run(self) -> None:
        welcome = {"t": "welcome", "epoch": "e", "session": "s", "ping_ms": 10_000, "dead_ms": 30_000}
        welcome |= {"adopt_ms": 0, "orphan_ms": 0, "retain_ms": 0, "limits": {}}
        while not self.ends.is_set():
            if self._socket.poll(50):
                route, tag, header = self._socket.recv_multipart()
                message = msgpack.unpackb(header)
                self.hellos += message["t"] == "hello"
                answer = welcome if message["t"] == "hello" else {"t": "pong", "n": message.get("n", 0)}
                if message["t"] in ("hello", "ping"):
                    self._socket.send_multipart([route, tag, msgpack.packb(answer)])
        self._socket.close()


@contextlib.contextmanager
def secret_broker() -> Iterator[SecretBroker]:
    with zmq.Context() as context:
        authenticator = ThreadAuthenticator(context)
        authenticator.start()
        authenticator.configure_plain(domain="*", passwords={"ada": "secret"})
        broker = SecretBroker(context)
        broker.start()
        try:
            yield broker
        finally:
            broker.ends.set()
            broker.join(5)
            authenticator.stop()


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_dialyzer_finds_nothing(build: Path, tmp_path: Path) -> None:
    """Its knowledge of OTP and Elixir takes half a minute to build on a machine with nothing else to do."""
    require(shutil.which("dialyzer") is not None, "dialyzer is not installed: `apt-get install erlang-dialyzer`")
    mix(build, "compile", env="dev")
    where = ["elixir", "-e", "IO.write(Path.expand('..', :code.lib_dir(:elixir)))"]
    libs = {"ERL_LIBS": subprocess.run(where, capture_output=True, text=True, check=True).stdout}
    plt = str(tmp_path / "otp.plt")
    apps = ["erts", "kernel", "stdlib", "crypto", "elixir", "logger"]
    run(["dialyzer", "--build_plt", "--output_plt", plt, "--apps", *apps], build, "dev", 400, libs)
    run(["dialyzer", "--plt", plt, str(build / "dev/lib/dspymq/ebin")], build, "dev", MIX_S, libs)
