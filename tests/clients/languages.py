"""How the conformance driver of each client is started here; tests that need a toolchain skip where it is missing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.clients import minimal_clients, node_tools
from tests.clients.toolchains import NO_ELIXIR, require
from tests.processes import ROOT

ELIXIR = ROOT / "clients" / "elixir"
BUILD_S = 150


def python(_: Path) -> list[str]:
    """The command line of the Python client's driver."""
    return [sys.executable, str(ROOT / "examples" / "conformance" / "python_client.py")]


def node(_: Path) -> list[str]:
    """The same for Node; compiled if need be."""
    node_tools.build()
    return ["node", str(node_tools.DIST / "conformance" / "client.js")]


def elixir(scratch: Path) -> list[str]:
    """The same for Elixir; compiled into `scratch`."""
    require(shutil.which("mix") is not None, NO_ELIXIR)
    build = scratch / "elixir"
    environ = {**os.environ, "MIX_ENV": "prod", "MIX_BUILD_PATH": str(build), "LC_ALL": "C.UTF-8"}
    subprocess.run(["mix", "compile"], cwd=ELIXIR, env=environ, check=True, capture_output=True, timeout=BUILD_S)
    return ["elixir", "-pa", str(build / "lib" / "dspymq" / "ebin"), str(ELIXIR / "conformance" / "driver.exs")]


def _minimal(client: minimal_clients.Minimal) -> Callable[[Path], list[str]]:
    return lambda scratch: [*client.command(scratch / "minimal"), "drive"]


COMMANDS: dict[str, Callable[[Path], list[str]]] = {
    "python": python,
    "node": node,
    "elixir": elixir,
    **{client.name: _minimal(client) for client in minimal_clients.ALL if client.can("resume")},
}
"""By language: its command line, given a folder for what has to be built."""
