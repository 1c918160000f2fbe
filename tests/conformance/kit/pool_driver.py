"""The driver of the pool: `dspymq conformance worker -- python -m tests.conformance.kit.pool_driver`.

docs/conformance-drivers.md is the contract. A pool needs nothing but its broker. Its only model calls (of `story`) go
to the scripted LM in this process. Arguments are a module that is run instead of `dspymq.cli`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading

from tests.lm import ScriptedLM
from tests.processes import ROOT, clean_environ

SUPPORTS = ["chunks", "tools", "progress", "die", "isolate", "inline", "resume", "stop"]
TARGET = "tests.conformance.vector_programs"


def main() -> None:
    """Run a pool of one process with two slots until the end of stdin."""
    module = sys.argv[1:] or ["dspymq.cli"]
    broker = os.environ["DSPYMQ_BROKERS"]
    with ScriptedLM() as lm:
        pool = subprocess.Popen(
            [
                *(sys.executable, "-m", *module, "worker", TARGET, "--broker", broker, "--name", "under-test"),
                *("--processes", "1", "--concurrency", "2"),
            ],
            cwd=ROOT,
            env=clean_environ(lm, {"DSPYMQ_WORKER_GRACE_MS": "500"}),
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr,
        )
        # The supervisor has the connection.
        print(json.dumps({"ready": True, "pid": pool.pid, "supports": SUPPORTS}), flush=True)
        threading.Thread(target=_follow, args=(pool,), daemon=True).start()
        sys.stdin.read()
        pool.terminate()
        pool.wait()


def _follow(pool: subprocess.Popen[bytes]) -> None:
    """The driver ends with its pool, whose exit is no fault of its own."""
    code = pool.wait()
    os._exit(code)


if __name__ == "__main__":
    main()
