"""A whole system for client tests: a broker and a pool as processes of their own, and the scripted LM."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from dspymq.conformance.brokers import free_ports
from tests.integration.pool_peer import session_of, wait_until_gone
from tests.lm import ScriptedLM

PROGRAMS = '''
import asyncio, os, signal
import dspy
from pathlib import Path
from dspymq.worker.executor.progress import report_progress

class Nap(dspy.Module):
    """Sleeps, and leaves a mark each time that it was started."""
    async def aforward(self, ms: int, mark: str = "") -> dict:
        if mark:
            with open(mark, "a") as file:
                file.write(f"{os.getpid()} ")
        await asyncio.sleep(ms / 1000)
        return dspy.Prediction(pid=os.getpid(), mark=mark)

class Counts(dspy.Module):
    async def aforward(self, to: int) -> dict:
        for n in range(to):
            report_progress(n + 1, to, f"at {n + 1}")
            await asyncio.sleep(0.02)
        return dspy.Prediction(to=to)

class Fails(dspy.Module):
    async def aforward(self, text: str) -> dict:
        raise ValueError(text)

qa = dspy.Predict("question -> answer")
nap, counts, fails = Nap(), Counts(), Fails()
'''

RUN_BROKER = """
import asyncio, json, logging, sys
from dspymq.broker.config import BrokerConfig
from dspymq.broker.server import serve
import msgspec
logging.basicConfig(level="INFO", stream=sys.stderr)
config = msgspec.convert(json.loads(sys.argv[1]), BrokerConfig)
asyncio.run(serve(config, on_started=lambda broker: print("started", flush=True)))
"""

RUN_POOL = """
import logging, sys
from pathlib import Path
from dspymq.worker import load_worker_config, run_pool
logging.basicConfig(level="INFO", format="%(asctime)s %(name)s %(levelname)s %(message)s", stream=sys.stderr)
sys.exit(run_pool(load_worker_config(Path(sys.argv[1]), {}, {})))
"""

CONFIG = """
[worker]
brokers = ["{workers}"]
targets = ["client_programs"]
cwd = "{directory}"
processes = 2
concurrency = 16
name = "pool"
cancel_grace_ms = 1000

[profiles.default]
model = "openai/scripted"
api_base = "{lm_url}"
api_key = "k-123456"

[profiles.limited]
model = "openai/scripted"
api_base = "{lm_url}"
api_key = "k-123456"
max_throttle_wait_s = 0
"""


def free_address() -> str:
    """An address that nobody listens at, and that no outgoing connection takes meanwhile."""
    return f"tcp://127.0.0.1:{free_ports(1)[0]}"


class BrokerProcess:
    """A broker that can be killed and started again at the same addresses."""

    def __init__(self, directory: Path, clients: str, workers: str, **settings: Any) -> None:
        import json

        self.clients, self.workers = clients, workers
        self._config = json.dumps({"clients": clients, "workers": workers, **settings})
        self._log = (directory / "broker.log").open("ab")
        self.process: subprocess.Popen[str] | None = None
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", RUN_BROKER, self._config], stdout=subprocess.PIPE, stderr=self._log, text=True
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "started\n"

    def stop(self, number: int = signal.SIGKILL) -> None:
        process, self.process = self.process, None
        if process is not None:
            process.send_signal(number)
            process.wait(10)
            assert process.stdout is not None
            process.stdout.close()

    def close(self) -> None:
        self.stop()
        self._log.close()


class PoolProcess:
    """A pool of two executors over the programs above, as a session of its own."""

    def __init__(self, directory: Path, workers: str, lm_url: str) -> None:
        config = directory / "dspymq.toml"
        config.write_text(CONFIG.format(workers=workers, directory=directory, lm_url=lm_url))
        environ = {name: value for name, value in os.environ.items() if not name.startswith("DSPYMQ_")}
        self._log = (directory / "pool.log").open("ab")
        self.process = subprocess.Popen(
            [sys.executable, "-c", RUN_POOL, str(config)],
            stdout=self._log,
            stderr=self._log,
            env={**environ, "DSPY_CACHEDIR": str(directory / "cache")},
            start_new_session=True,
        )

    def close(self) -> None:
        self.process.kill()
        self.process.wait(10)
        self._log.close()
        left = wait_until_gone(session_of(self.process.pid), 10.0)
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        assert not left, f"processes outlived the supervisor: {left}"


class System:
    """`address` is the broker's, for clients."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.lm = ScriptedLM().start()
        (directory / "client_programs.py").write_text(PROGRAMS)
        self.broker = BrokerProcess(directory, free_address(), free_address(), client_ping_ms=1_000)
        self.address = self.broker.clients
        self.pool = PoolProcess(directory, self.broker.workers, self.lm.url)

    def close(self) -> None:
        self.pool.close()
        self.broker.close()
        self.lm.close()

    def kill_an_executor_of(self, mark: Path) -> None:
        """End the process that runs the last start of the nap with this mark."""
        os.kill(int(mark.read_text().split()[-1]), signal.SIGKILL)
