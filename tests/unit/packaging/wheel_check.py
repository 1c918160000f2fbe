"""Compares a built wheel with what git holds: every module and data file of ours, and nothing else.

python -m tests.unit.packaging.wheel_check WHEEL
"""

from __future__ import annotations

import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


def expected() -> set[str]:
    """Paths in the wheel that git's files call for."""
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    tracked = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    found = set()
    for package, folder in setuptools["package-dir"].items():
        data = setuptools["package-data"].get(package, [])
        for name in tracked:
            path = Path(name)
            if path.is_relative_to(folder) and (ROOT / path).is_file():
                inside = path.relative_to(folder)
                if path.suffix == ".py" or any(_matches(inside, pattern) for pattern in data):
                    found.add("/".join((*package.split("."), *inside.parts)))
    return found


def _matches(path: Path, pattern: str) -> bool:
    return path.match(pattern) and len(path.parts) == len(Path(pattern).parts)


def difference(wheel: Path) -> tuple[set[str], set[str]]:
    """(missing from the wheel, in the wheel but not in git)."""
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    return expected() - names, names - expected()


def main() -> int:
    """Print what differs."""
    missing, surplus = difference(Path(sys.argv[1]))
    for name in sorted(missing):
        print(f"missing from the wheel: {name}")
    for name in sorted(surplus):
        print(f"in the wheel but not in git: {name}")
    print(f"{len(expected())} files expected, {len(missing)} missing, {len(surplus)} surplus")
    return 1 if missing or surplus else 0


if __name__ == "__main__":
    sys.exit(main())
