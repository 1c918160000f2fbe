"""What every role's process has to do with the world: ZeroMQ sockets on an asyncio loop, health, logs.

Knows frames, not messages. The broker's shell, the pool's link and the Python client stand on it; none of their
decisions is here. Executors import its log lines and must not get zmq with them, so each name is imported when it is
first used.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dspymq.transport.health import HealthServer
    from dspymq.transport.loop_socket import LoopSocket, Unreachable
    from dspymq.transport.service_manager import ServiceManager
    from dspymq.transport.sockets import bind, dealer, router

__all__ = ["HealthServer", "LoopSocket", "ServiceManager", "Unreachable", "bind", "dealer", "router"]

_HOMES = {
    "HealthServer": "health",
    "LoopSocket": "loop_socket",
    "ServiceManager": "service_manager",
    "Unreachable": "loop_socket",
    "bind": "sockets",
    "dealer": "sockets",
    "router": "sockets",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
