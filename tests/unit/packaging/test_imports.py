"""Who may import whom: held by reading the sources, and by importing in fresh processes."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
SETUPTOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
FOLDERS = {package: ROOT / folder for package, folder in SETUPTOOLS["package-dir"].items()}

MAY_IMPORT = {
    "dspymq.protocol": set(),
    "dspymq.transport": {"dspymq.protocol"},
    "dspymq.broker": {"dspymq.protocol", "dspymq.transport"},
    "dspymq.worker": {"dspymq.protocol", "dspymq.transport"},
    "dspymq": {"dspymq.protocol", "dspymq.transport"},
    "dspymq.conformance": {"dspymq.protocol", "dspymq.transport"},
    "dspymq.cli": {
        "dspymq",
        "dspymq.protocol",
        "dspymq.broker",
        "dspymq.worker",
        "dspymq.transport",
        "dspymq.conformance",
    },
}
"""What each package may import of ours, itself aside. The package `dspymq` itself is the Python client."""


def package_of(module: str) -> str:
    """The package of ours that a module belongs to."""
    return next(package for package in sorted(FOLDERS, key=len, reverse=True) if f"{module}.".startswith(f"{package}."))


def imports_of(file: Path) -> set[str]:
    """Every module that a file imports, at whatever depth of its code."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: imports are absolute"
            found |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def sources() -> list[tuple[str, Path]]:
    files = []
    for package, folder in FOLDERS.items():
        files += [(package, file) for file in sorted(folder.rglob("*.py"))]
    return files


@pytest.mark.parametrize(("package", "file"), sources(), ids=lambda value: str(value).removeprefix(str(ROOT)))
def test_a_package_imports_only_what_it_may(package: str, file: Path) -> None:
    for module in imports_of(file):
        if module == "dspymq" or module.startswith("dspymq."):
            imported = package_of(module)
            if imported == "dspymq" and package != "dspymq" and module == "dspymq":
                continue  # `from dspymq import broker` names the package on the way
            assert imported == package or imported in MAY_IMPORT[package], f"{file} imports {module}"
        assert module.split(".")[0] not in {"protocol", "broker", "worker", "cli", "transport", "conformance"}, (
            f"{file} imports {module}: write dspymq.{module}"
        )


def test_only_the_executor_imports_dspy() -> None:
    for _, file in sources():
        if not file.is_relative_to(ROOT / "worker" / "executor"):
            assert not {m for m in imports_of(file) if m == "dspy" or m.startswith("dspy.")}, file


def test_nothing_in_a_process_that_forks_imports_zmq() -> None:
    for folder in (ROOT / "worker" / "executor", ROOT / "worker" / "local", ROOT / "protocol"):
        for file in sorted(folder.rglob("*.py")):
            assert not {m for m in imports_of(file) if m == "zmq" or m.startswith("zmq.")}, file


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("dspymq", ["dspy", "zmq"]),
        ("dspymq.protocol", ["dspy", "zmq", "asyncio"]),
        ("dspymq.broker", ["dspy"]),
        ("dspymq.cli.main", ["dspy"]),
        ("dspymq.conformance.runs", ["dspy", "dspymq.broker", "dspymq.worker"]),
        ("dspymq.worker", ["dspy"]),
        ("dspymq.worker.supervisor", ["dspy"]),
        ("dspymq.worker.executor.main", ["zmq"]),
    ],
)
def test_importing_stays_light(module: str, absent: list[str]) -> None:
    code = f"import sys, {module}; print(*[m for m in {absent!r} if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd="/")
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == ""


def test_top_level_folders_are_not_imported_under_their_own_names() -> None:
    names = ["broker", "worker", "protocol", "cli", "transport", "conformance"]
    code = f"import sys, dspymq.broker, dspymq.worker; print(*[m for m in {names} if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert run.stdout.strip() == ""


def test_every_package_is_listed() -> None:
    listed = set(SETUPTOOLS["packages"])
    there = set()
    for package, folder in FOLDERS.items():
        for init in folder.rglob("__init__.py"):
            inside = init.parent.relative_to(folder).parts
            there.add(".".join((package, *inside)))
    assert there == listed
