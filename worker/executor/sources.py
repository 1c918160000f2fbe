"""The sources of programs: what their revisions are made of, and where a change of them would show."""

import hashlib
import os
import sys
from collections.abc import Collection, Iterator


def digest(module_name: str, own_paths: Collection[str]) -> bytes:
    """The sources of the target's package and of every loaded module under `own_paths`, names included."""
    total = hashlib.sha256()
    for name, path in _own_modules([module_name], own_paths):
        try:
            with open(path, "rb") as file:
                total.update(f"{name}\0".encode() + hashlib.sha256(file.read()).digest())
        except OSError:
            continue
    return total.digest()


def directories(module_names: Collection[str], own_paths: Collection[str]) -> list[str]:
    """Where the loaded modules of these targets, and those under `own_paths`, have their files."""
    return sorted({os.path.dirname(os.path.abspath(path)) for _, path in _own_modules(module_names, own_paths)})


def _own_modules(module_names: Collection[str], own_paths: Collection[str]) -> Iterator[tuple[str, str]]:
    """Names and files, sorted by name."""
    tops = {name.partition(".")[0] for name in module_names}
    folders = tuple(f"{path.rstrip('/')}/" for path in own_paths)
    for name, module in sorted(sys.modules.items()):
        path = getattr(module, "__file__", None)
        if not path or name == "__main__" or "site-packages" in path:
            continue
        if name.partition(".")[0] in tops or path.startswith(folders):
            yield name, path
