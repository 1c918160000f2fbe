"""Where the brokers are."""

import os
from collections.abc import Mapping, Sequence
from typing import Final

from dspymq import exceptions

DEFAULT_ADDRESS: Final = "tcp://127.0.0.1:5570"
ENVIRONMENT: Final = "DSPYMQ_BROKER"


def resolve(broker: str | Sequence[str] | None, environ: Mapping[str, str] | None = None) -> tuple[str, ...]:
    """The addresses to try, in order: those given, else those of DSPYMQ_BROKER, else DEFAULT_ADDRESS.

    A text may name several, separated by commas; one without a scheme is TCP. Raises InvalidArgument.
    """
    if broker is None:
        broker = (os.environ if environ is None else environ).get(ENVIRONMENT) or DEFAULT_ADDRESS
    parts = broker.split(",") if isinstance(broker, str) else list(broker)
    found = [_address(part.strip()) for part in parts if part.strip()]
    if not found:
        raise exceptions.InvalidArgument("no broker address given", reason="invalid_address")
    return tuple(dict.fromkeys(found))


def _address(text: str) -> str:
    address = text if "://" in text else f"tcp://{text}"
    scheme, _, rest = address.partition("://")
    if not rest:
        raise _bad(text)
    if scheme == "tcp":
        host, _, port = rest.rpartition(":")
        if not host or not port.isdigit() or not 0 < int(port) < 65_536:
            raise _bad(text)
    return address


def _bad(text: str) -> exceptions.InvalidArgument:
    message = f"{text!r} is no broker address; it looks like {DEFAULT_ADDRESS}"
    return exceptions.InvalidArgument(message, reason="invalid_address")
