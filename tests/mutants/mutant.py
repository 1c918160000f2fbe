"""What a mutant is."""

from __future__ import annotations

from typing import NamedTuple


class Mutant(NamedTuple):
    """One guard removed: in `file`, `old` (found once) becomes `new`; `tests` should fail."""

    file: str
    old: str
    new: str
    tests: str
