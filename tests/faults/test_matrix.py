"""One cell of each kind of the matrix of faults; test_matrix_{executor,supervisor,broker,client}.py have the others."""

from collections.abc import Iterator

import pytest

from tests.faults.matrix import Cell
from tests.faults.matrix_cells import parameters, run
from tests.faults.matrix_system import Keeper


@pytest.fixture(scope="module")
def keeper(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keeper]:
    """One system for all cells of a file, as long as nothing goes wrong."""
    with Keeper(tmp_path_factory.mktemp("matrix")) as keeper:
        yield keeper


@pytest.mark.timeout(180)
@pytest.mark.parametrize("cell", parameters())
def test_a_job_ends_as_the_table_says(keeper: Keeper, cell: Cell) -> None:
    with keeper.system() as system:
        run(system, cell)
