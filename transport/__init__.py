"""The ZeroMQ sockets of every role, on an asyncio loop: their options, and the way to drain their edge-triggered FD.

Knows frames, not messages. The broker's shell, the pool's link and the Python client stand on it; none of their
decisions is here.
"""

from dspymq.transport.health import HealthServer
from dspymq.transport.loop_socket import LoopSocket, Unreachable
from dspymq.transport.service_manager import ServiceManager
from dspymq.transport.sockets import dealer, router

__all__ = ["HealthServer", "LoopSocket", "ServiceManager", "Unreachable", "dealer", "router"]
