"""The built wheel holds every module that git holds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.packaging.wheel_check import ROOT, difference


@pytest.mark.timeout(180)
def test_the_wheel_holds_what_git_holds(tmp_path: Path) -> None:
    copy = tmp_path / "source"
    files = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    for name in files:
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            (copy / name).write_bytes((ROOT / name).read_bytes())
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(copy)]
    run = subprocess.run(build, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    (wheel,) = tmp_path.glob("*.whl")
    missing, surplus = difference(wheel)
    assert not missing
    assert not surplus
