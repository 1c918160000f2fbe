"""The connection of the verbs that are clients."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, TypeVar

if TYPE_CHECKING:
    from dspymq.async_client import AsyncClient

T = TypeVar("T")

CONNECT_TIMEOUT_S: Final = 1.0
"""How long a broker may take to be there: the one clear line is due within two seconds, Python's start included."""

FURTHER_S: Final = 1.0
"""How much longer for each further address that is to be tried."""


@asynccontextmanager
async def connected(brokers: Sequence[str]) -> AsyncIterator[AsyncClient]:
    """A client of these brokers; none given: of DSPYMQ_BROKER, or the default address."""
    from dspymq.addresses import resolve
    from dspymq.async_client import AsyncClient

    addresses = resolve([part for text in brokers for part in text.split(",")] or None)
    timeout_s = CONNECT_TIMEOUT_S + FURTHER_S * (len(addresses) - 1)
    async with AsyncClient(addresses, connect_timeout_s=timeout_s) as client:
        yield client


def ask(brokers: Sequence[str], question: Callable[[AsyncClient], Awaitable[T]]) -> tuple[T, str]:
    """What `question(client)` gives, and the address of the broker. Raises DspymqError."""

    async def run() -> tuple[T, str]:
        async with connected(brokers) as client:
            value = await question(client)
            return value, address_of(client)

    return asyncio.run(run())


def address_of(client: AsyncClient) -> str:
    """The address in use, or tried last."""
    session: Any = client.driver.core.session
    return str(session.address)
