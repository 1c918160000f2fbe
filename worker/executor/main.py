"""The entry of an executor process. Importing this module imports no dspy, so that a supervisor may name `main`."""

import logging
import os
import socket


def main(executor_id: str, sock: socket.socket) -> None:
    """Run DSPy programs for the supervisor at the other end of this stream socket; never returns.

    The target of multiprocessing.Process, forked from the fork server or spawned. Exit codes: 0 told to leave or the
    pipe ended, 1 the parent was gone already, 3 the programs could not be loaded (the pipe said why), 4 a fault.
    """
    from dspymq.worker.executor import preload, process

    code = 4
    try:
        process.set_signals()
        state = preload.STATE
        if state is not None and state.pid != os.getpid():
            process.die_with_parent(state.pid)
        process.fresh_seeds()

        from dspymq.worker.executor.serve import serve

        code = serve(executor_id, sock, state)
    except Exception:
        logging.getLogger("dspymq.worker.executor").exception("executor.fault executor=%s", executor_id)
    finally:
        process.leave(code)
