"""DSPy programs as a service: the Python client.

    from dspymq import Client

    with Client() as client:
        print(client.call("qa", question="What is ZeroMQ?").answer)

`AsyncClient` is the same for asyncio. Importing this package loads nothing yet: neither ZeroMQ nor DSPy; each name is
imported when it is first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dspymq.async_client import AsyncClient
    from dspymq.async_job import AsyncJob
    from dspymq.chunks import Chunk
    from dspymq.client import Client
    from dspymq.event_streams import AsyncEvents, Events
    from dspymq.exceptions import (
        Aborted,
        AlreadyExists,
        BrokerUnreachable,
        Cancelled,
        ClientClosed,
        DeadlineExceeded,
        DspymqError,
        FailedPrecondition,
        Internal,
        InvalidArgument,
        NotFound,
        PermissionDenied,
        ProgramError,
        ResourceExhausted,
        Unauthenticated,
        Unavailable,
        Unimplemented,
    )
    from dspymq.job import Job
    from dspymq.options import JobOptions, Options
    from dspymq.prediction import Prediction
    from dspymq.subscriptions import BrokerEvent
    from dspymq.tools import Tool

__all__ = [
    "Aborted",
    "AlreadyExists",
    "AsyncClient",
    "AsyncEvents",
    "AsyncJob",
    "BrokerEvent",
    "BrokerUnreachable",
    "Cancelled",
    "Chunk",
    "Client",
    "ClientClosed",
    "DeadlineExceeded",
    "DspymqError",
    "Events",
    "FailedPrecondition",
    "Internal",
    "InvalidArgument",
    "Job",
    "JobOptions",
    "NotFound",
    "Options",
    "PermissionDenied",
    "Prediction",
    "ProgramError",
    "ResourceExhausted",
    "Tool",
    "Unauthenticated",
    "Unavailable",
    "Unimplemented",
]

_MODULES = {
    "AsyncClient": "async_client",
    "AsyncEvents": "event_streams",
    "AsyncJob": "async_job",
    "BrokerEvent": "subscriptions",
    "Chunk": "chunks",
    "Client": "client",
    "Events": "event_streams",
    "Job": "job",
    "JobOptions": "options",
    "Options": "options",
    "Prediction": "prediction",
    "Tool": "tools",
}
"""Where a name is defined, unless it is an exception."""


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'dspymq' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"dspymq.{_MODULES.get(name, 'exceptions')}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
