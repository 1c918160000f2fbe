"""The embedded language model as a process: `python -m dspymq.worker.local.server`.

Loads the model, serves OpenAI-compatible HTTP on a loopback port that the OS chooses, and prints one JSON line,
`{"url": "http://127.0.0.1:PORT/v1", "pid": PID}`, on standard output. It ends with its parent, at the end of its
standard input and on SIGTERM; SIGINT is ignored, since it goes to the whole terminal group and is not ours to judge.
Exit codes: 4 if packages are missing, 1 if the model cannot be loaded; both with one line on standard error.
"""

import argparse
import ctypes
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any, Final

from dspymq.worker.local.install import MODEL_NAME, status

EXIT_FAILED: Final = 1
EXIT_MISSING: Final = 4
N_PARALLEL: Final = 2
CONTEXT_TOKENS: Final = 4096
"""Of each request: its prompt and its answer. Memory for it is taken at the start, 23 KB a token and slot."""

_MAX_ANSWER_TOKENS: Final = 1024
_HTTP_THREADS: Final = 128
"""Each open connection holds one, idle ones too, and every executor keeps a pool of connections."""

_PR_SET_PDEATHSIG: Final = 1


def default_threads(cpus: int) -> int:
    """How many threads compute: half the CPUs, 1 to 4.

    llama.cpp's threads spin while they wait for each other. With as many of them as CPUs, one other busy process
    makes each wait last a scheduler's time slice: 1 token/s was seen where a single thread made 75.
    """
    return max(1, min(4, cpus // 2))


def serve(model: Path, *, threads: int, parallel: int, context_tokens: int) -> Any:
    """Load the model and listen. The server runs in threads of its own for as long as the returned object lives."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(model)
    params.model_alias = {"local"}
    params.port = 0
    params.n_threads_http = _HTTP_THREADS
    params.n_parallel = parallel
    params.n_ctx = parallel * context_tokens
    params.n_predict = _MAX_ANSWER_TOKENS
    for cpu in (params.cpuparams, params.cpuparams_batch):
        cpu.n_threads = threads
    params.warmup = False
    params.verbosity = -1
    params.ui = False
    params.endpoint_slots = False
    params.cors_origins = "null"
    # The defaults would keep up to 8 GiB of old prompts.
    params.cache_ram_mib = 0
    params.cache_idle_slots = False
    params.sampling.temp = 0.0
    return xllamacpp.Server(params)


def main() -> None:
    """Run the server until its parent, its standard input or SIGTERM ends it."""
    parser = argparse.ArgumentParser(prog="python -m dspymq.worker.local.server", description=f"Serves {MODEL_NAME}.")
    parser.add_argument("--threads", type=int, default=default_threads(len(os.sched_getaffinity(0))))
    parser.add_argument("--parallel", type=int, default=N_PARALLEL, help="requests at once; the rest wait")
    parser.add_argument("--context-tokens", type=int, default=CONTEXT_TOKENS, help="of each request")
    parser.add_argument("--parent", type=int, default=0, help="pid to end with; 0: whoever the parent is")
    arguments = parser.parse_args()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _end_with_parent(arguments.parent)
    found = status()
    if not found.usable or found.weights_path is None:
        _fail(EXIT_MISSING, f"the embedded model is {found.fix}")
        return
    # Only the JSON line may stand on standard output, whatever the libraries print.
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    try:
        server = serve(
            found.weights_path,
            threads=arguments.threads,
            parallel=arguments.parallel,
            context_tokens=arguments.context_tokens,
        )
    except Exception as error:
        _fail(EXIT_FAILED, f"the embedded model cannot be loaded: {error}")
        return
    answer.write(json.dumps({"url": f"{server.listening_address}/v1", "pid": os.getpid()}) + "\n")
    answer.close()
    while os.read(0, 4096):
        pass
    os._exit(0)


def _end_with_parent(pid: int) -> None:
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if pid and os.getppid() != pid:
        os._exit(0)


def _fail(code: int, message: str) -> None:
    sys.stderr.write(f"dspymq: {message}\n")
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
