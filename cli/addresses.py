"""The addresses that `dspymq up` listens at, and how its own machine reaches them."""

from __future__ import annotations

import re
import socket
from typing import Final

ANY_PORT: Final = "tcp://127.0.0.1:*"
_WILDCARD: Final = re.compile(r"^tcp://(0\.0\.0\.0|\*|\[::\]):")


def free_or_any(address: str) -> str:
    """The address, or one whose port the system chooses if somebody listens there. TCP with a number only."""
    scheme, _, rest = address.partition("://")
    host, _, port = rest.rpartition(":")
    if scheme != "tcp" or not port.isdigit():
        return address
    family = socket.AF_INET6 if host.startswith("[") else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # As ZeroMQ does: a port whose last connections still linger is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host.strip("[]"), int(port)))
            probe.listen(1)
        except OSError:
            return ANY_PORT
    return address


def reachable(address: str) -> str:
    """An address that was bound, as this machine connects to it."""
    return _WILDCARD.sub("tcp://127.0.0.1:", address)
