"""How the clients of clients/minimal are built and run, and what they need."""

from __future__ import annotations

import functools
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.clients.toolchains import require
from tests.processes import ROOT

FOLDER = ROOT / "clients" / "minimal"
JARS = "/usr/share/java/jeromq.jar:/usr/share/java/msgpack-core.jar"
BUILD_S = 120
# What a transcript of the kit may need of a driver (docs/conformance-drivers.md).
USUAL = frozenset(("call", "options", "stream", "cancel", "failover", "resume", "close"))

Command = Callable[[Path], list[str]]


@dataclass(frozen=True)
class Minimal:
    """One client: `probe` ends well where its packages are there; `run` is its command, with what `make` has built."""

    name: str
    sources: tuple[str, ...]
    probe: tuple[str, ...]
    run: Command
    make: str | None = None
    drives: frozenset[str] = USUAL

    def can(self, word: str) -> bool:
        """Whether its driver says that it supports this."""
        return word in self.drives

    def command(self, build: Path) -> list[str]:
        """Its command line, built if need be. Skips, or fails, if the toolchain is not there."""
        needed = f"the {self.name} client needs Debian packages of clients/minimal/packages.txt: .ci/toolchains"
        require(_has_toolchain(self.probe), needed)
        if self.make:
            _make(self.make, build)
        return self.run(build)


@functools.cache
def _has_toolchain(probe: tuple[str, ...]) -> bool:
    if shutil.which(probe[0]) is None:
        return False
    return subprocess.run(probe, capture_output=True, stdin=subprocess.DEVNULL, timeout=60).returncode == 0


@functools.cache
def _make(target: str, build: Path) -> None:
    done = subprocess.run(
        ["make", "-C", FOLDER, f"BUILD={build}", target], capture_output=True, text=True, timeout=BUILD_S
    )
    assert done.returncode == 0, done.stdout + done.stderr


_C_PROBE = "echo '#include <zmq.h>\n#include <msgpack.h>' | cc -fsyntax-only -x c - && make --version"
_JAVA_PROBE = f"javac -version && make --version && test -e {JARS.replace(':', ' -a -e ')}"

ALL = [
    Minimal(
        "c",
        ("c/dspymq.c", "c/dspymq.h", "c/values.h"),
        ("sh", "-c", _C_PROBE),
        lambda build: [str(build / "dspymq")],
        make="c",
    ),
    Minimal(
        "ruby",
        ("ruby/dspymq.rb",),
        ("ruby", "-e", "require 'ffi-rzmq'; require 'msgpack'"),
        lambda _: ["ruby", str(FOLDER / "ruby" / "dspymq.rb")],
    ),
    Minimal(
        "perl",
        ("perl/dspymq.pl",),
        ("perl", "-MZMQ::FFI", "-MData::MessagePack", "-e", "1"),
        lambda _: ["perl", str(FOLDER / "perl" / "dspymq.pl")],
    ),
    Minimal(
        "php",
        ("php/dspymq.php",),
        ("php", "-r", "exit(extension_loaded('zmq') && extension_loaded('msgpack') ? 0 : 1);"),
        lambda _: ["php", str(FOLDER / "php" / "dspymq.php")],
    ),
    Minimal(
        "java",
        tuple(f"java/{name}.java" for name in ("Dspymq", "Main", "Values")),
        ("sh", "-c", _JAVA_PROBE),
        lambda build: ["java", "-cp", f"{build / 'java'}:{JARS}", "dspymq.Main"],
        make="java",
    ),
    Minimal(
        "oneshot",
        ("oneshot.py",),
        (sys.executable, "-c", "import zmq, msgpack"),
        lambda _: [sys.executable, str(FOLDER / "oneshot.py")],
        drives=frozenset(("one-shot",)),
    ),
]
