"""How the conformance driver of each client is started here; tests that need a toolchain skip where it is missing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.clients import minimal_clients, node_tools
from tests.clients.toolchains import NO_ELIXIR, require
from tests.processes import ROOT

ELIXIR = ROOT / "clients" / "elixir"
BUILD_S = 150

Commands = dict[str, list[str]]


def commands(scratch: Path) -> Commands:
    """Command lines by name; `scratch` is a folder for what has to be built."""
    found: Commands = {"python": [sys.executable, str(ROOT / "examples" / "conformance" / "python_client.py")]}
    node_tools.build()
    found["node"] = ["node", str(node_tools.DIST / "conformance" / "client.js")]
    found["elixir"] = _elixir(scratch / "elixir")
    for client in minimal_clients.ALL:
        if client.can("resume"):
            found[client.name] = [*client.command(scratch / "minimal"), "drive"]
    return found


def _elixir(build: Path) -> list[str]:
    require(shutil.which("mix") is not None, NO_ELIXIR)
    environ = {**os.environ, "MIX_ENV": "prod", "MIX_BUILD_PATH": str(build), "LC_ALL": "C.UTF-8"}
    subprocess.run(["mix", "compile"], cwd=ELIXIR, env=environ, check=True, capture_output=True, timeout=BUILD_S)
    return ["elixir", "-pa", str(build / "lib" / "dspymq" / "ebin"), str(ELIXIR / "conformance" / "driver.exs")]
