"""Shows that the tests can fail: removes one guard at a time and runs the tests that should notice.

    python -m tests.mutants [NAME ...]

The sources are copied aside first; the checkout is never changed. Exit code 1 if a mutant survives.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue

from tests.mutants.broker import BROKER
from tests.mutants.clients import CLIENTS
from tests.mutants.joint import JOINT
from tests.mutants.mutant import Mutant
from tests.mutants.pool import POOL

ROOT = Path(__file__).resolve().parents[2]

MUTANTS = {**BROKER, **POOL, **CLIENTS, **JOINT}


def build_tree(target: Path) -> None:
    """Lay the packages out as a wheel would, from pyproject's package-dir."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    for package, folder in sorted(settings["package-dir"].items()):
        destination = target.joinpath(*package.split("."))
        shutil.copytree(ROOT / folder, destination, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))


def survives(mutant: Mutant, target: Path) -> bool:
    """Apply the mutant to the copy, run its tests, undo it."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    package = next(name for name, folder in settings["package-dir"].items() if Path(mutant.file).is_relative_to(folder))
    inside = Path(mutant.file).relative_to(settings["package-dir"][package])
    file = target.joinpath(*package.split("."), inside)
    source = file.read_text()
    assert source.count(mutant.old) == 1, f"{mutant.file}: found {source.count(mutant.old)} times: {mutant.old!r}"
    file.write_text(source.replace(mutant.old, mutant.new))
    try:
        command = [sys.executable, "-m", "pytest", "-x", "-q", "--timeout", "120", mutant.tests]
        environment = {**os.environ, "PYTHONPATH": str(target), "PYTHONDONTWRITEBYTECODE": "1", "DSPYMQ_MUTANT": "1"}
        run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, check=False)
        return run.returncode == 0
    finally:
        file.write_text(source)


def trees(folder: Path, count: int) -> SimpleQueue[Path]:
    """So many copies of the sources, each for one mutant at a time."""
    made: SimpleQueue[Path] = SimpleQueue()
    for number in range(count):
        target = folder / str(number)
        build_tree(target)
        made.put(target)
    return made


def main() -> int:
    """Run the named mutants, or all, one on each CPU."""
    chosen = sys.argv[1:] or list(MUTANTS)
    workers = os.cpu_count() or 1
    survivors = []
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(workers) as pool:
        free = trees(Path(folder), workers)

        def judge(name: str) -> tuple[bool, float]:
            target, began = free.get(), time.monotonic()
            try:
                return survives(MUTANTS[name], target), time.monotonic() - began
            finally:
                free.put(target)

        for name, (alive, took_s) in zip(chosen, pool.map(judge, chosen), strict=True):
            print(f"{'SURVIVES' if alive else 'caught  '}  {took_s:5.1f} s  {name}", flush=True)
            if alive:
                survivors.append(name)
    print(f"{len(chosen) - len(survivors)} of {len(chosen)} mutants caught")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
