"""Workers: pools of executor processes that run DSPy programs for a broker.

`run_pool(config)` is a pool as a process; `Pool` is one on a running asyncio loop. Neither imports dspy: that happens
in the executors. Executors import this package too and must not get zmq with it, so each name is imported when it is
first used.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dspymq.worker.config import ConfigError, WorkerConfig, load_worker_config
    from dspymq.worker.supervisor.pool import Pool, run_pool

__all__ = ["ConfigError", "Pool", "WorkerConfig", "load_worker_config", "run_pool"]

_HOMES = {
    "ConfigError": "dspymq.worker.config",
    "Pool": "dspymq.worker.supervisor.pool",
    "WorkerConfig": "dspymq.worker.config",
    "load_worker_config": "dspymq.worker.config",
    "run_pool": "dspymq.worker.supervisor.pool",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
