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
import tomllib
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]


class Mutant(NamedTuple):
    """One guard removed: in `file`, `old` (found once) becomes `new`; `tests` should fail."""

    file: str
    old: str
    new: str
    tests: str


MODEL = "tests/unit/broker/test_core_model.py"

MUTANTS = {
    "a fenced result ends its job": Mutant(
        "broker/core/worker_side.py",
        "elif lease.current:\n            self._machine.result(lease, message, body)",
        "elif True:\n            self._machine.result(lease, message, body)",
        MODEL,
    ),
    "slots are not counted": Mutant(
        "broker/core/workers.py", "self.used[lease.lane] = self.used.get(lease.lane, 0) + 1", "pass", MODEL
    ),
    "a worker's leases are not requeued when it is lost": Mutant(
        "broker/core/worker_side.py", "self._machine.worker_lost(lease)", "pass", MODEL
    ),
    "a lease absent from held is kept": Mutant(
        "broker/core/worker_side.py", "self._machine.never_received(lease)", "pass", MODEL
    ),
    "tombstones are not bounded": Mutant(
        "broker/core/store.py", "while len(self.tombstones) > self._max_tombstones:", "while False:", MODEL
    ),
    "retained results are not bounded": Mutant(
        "broker/core/store.py", "while self.done_bytes > self._retain_bytes and self.done:", "while False:", MODEL
    ),
    "a queued job does not expire": Mutant(
        "broker/core/jobs.py",
        "if action is Action.END_EXPIRED:\n            self.dequeue(job)",
        "if False:\n            self.dequeue(job)",
        MODEL,
    ),
    "a cancelled job stays queued": Mutant(
        "broker/core/jobs.py",
        "if action is Action.END_CANCELLED:\n            self.dequeue(job)",
        "if action is Action.END_CANCELLED:\n            pass",
        MODEL,
    ),
    "grace has no end": Mutant("broker/core/jobs.py", "self._grace_over(job)", "pass", MODEL),
    "another content under the same id attaches": Mutant(
        "broker/core/client_side.py",
        "if action is Action.CONFLICT:\n            raise self._refusal(action)",
        "if False:\n            raise self._refusal(action)",
        MODEL,
    ),
    "an ack forgets a job that is not finished": Mutant(
        "broker/core/client_side.py",
        "if self._machine.action(job, JobEvent.ACK) is Action.FORGET:",
        "if True:",
        MODEL,
    ),
    "a tombstone does not stop a second run": Mutant(
        "broker/core/client_side.py", "if tombstone is not None:", "if False:", MODEL
    ),
    "dispatch before synced": Mutant(
        "broker/core/workers.py",
        "if not self.synced or self.draining or self.unsettled_bytes > MAX_UNSETTLED_BYTES:",
        "if False:",
        "tests/unit/broker",
    ),
    "attempts are not bounded": Mutant(
        "broker/core/jobs.py",
        "elif not job.submit.redeliver or job.charged >= self._settings.max_attempts:",
        "elif not job.submit.redeliver:",
        "tests/unit/broker",
    ),
    "redeliver false is ignored": Mutant(
        "broker/core/jobs.py",
        "elif not job.submit.redeliver or job.charged >= self._settings.max_attempts:",
        "elif job.charged >= self._settings.max_attempts:",
        "tests/unit/broker",
    ),
    "anybody may cancel": Mutant(
        "broker/core/client_side.py",
        'if job.client is not session:\n            raise ProtocolError("not_attached"',
        'if False:\n            raise ProtocolError("not_attached"',
        "tests/unit/broker",
    ),
}


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


def main() -> int:
    """Run the named mutants, or all."""
    chosen = sys.argv[1:] or list(MUTANTS)
    survivors = []
    with tempfile.TemporaryDirectory() as folder:
        build_tree(Path(folder))
        for name in chosen:
            alive = survives(MUTANTS[name], Path(folder))
            print(f"{'SURVIVES' if alive else 'caught  '}  {name}", flush=True)
            if alive:
                survivors.append(name)
    print(f"{len(chosen) - len(survivors)} of {len(chosen)} mutants caught")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
