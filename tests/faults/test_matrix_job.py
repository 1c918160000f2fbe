"""The soak of matrix_table.py for a job that is cancelled, or whose deadline comes, at each point of its way."""

import pytest

from tests.faults.matrix import Cell, Victim
from tests.faults.matrix_cells import parameters, run
from tests.faults.matrix_system import Keeper
from tests.faults.test_matrix import keeper

__all__ = ["keeper"]


@pytest.mark.soak
@pytest.mark.timeout(180)
@pytest.mark.parametrize("cell", parameters(Victim.JOB))
def test_a_job_ends_as_the_table_says(keeper: Keeper, cell: Cell) -> None:
    with keeper.system() as system:
        run(system, cell)
