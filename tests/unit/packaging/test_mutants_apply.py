"""Each mutant of tests/mutants still finds its guard: a mutant that does not apply proves nothing."""

from __future__ import annotations

import pytest

from tests.mutants.__main__ import MUTANTS, ROOT


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_applies(name: str) -> None:
    mutant = MUTANTS[name]
    assert (ROOT / mutant.file).read_text().count(mutant.old) == 1
