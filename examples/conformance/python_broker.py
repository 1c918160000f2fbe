"""This repository's broker for `dspymq conformance broker`, with the settings that a transcript asks for.

dspymq conformance broker --start "python -m examples.conformance.python_broker {clients} {workers} {settings}"
"""

from __future__ import annotations

import asyncio
import json
import sys

import msgspec

from dspymq.broker import BrokerConfig, serve


def main() -> None:
    """Run a broker until SIGTERM."""
    clients, workers, settings = sys.argv[1:]
    given = {**json.loads(settings), "clients": clients, "workers": workers}
    asyncio.run(serve(msgspec.convert(given, BrokerConfig)))


if __name__ == "__main__":
    main()
