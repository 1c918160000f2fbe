"""How the conformance driver of each client is started here; those without a toolchain are left out."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.clients import node_tools
from tests.processes import ROOT

Commands = dict[str, tuple[list[str], Path]]


def commands(scratch: Path) -> Commands:
    """Name, command line and working directory; `scratch` is a folder for what has to be built."""
    found: Commands = {"python": ([sys.executable, "examples/conformance/python_client.py"], ROOT)}
    node_tools.build()
    found["node"] = (["node", str(node_tools.DIST / "conformance" / "client.js")], node_tools.NODE)
    return found
