"""The tables of the matrix of faults are whole, and docs/reliability.md says what they say."""

import itertools

import pytest

from tests.faults.matrix import FAULTS, Cell, Nothing, Outcome, Point, Same, Victim, once
from tests.faults.matrix_table import CELLS, NOT_TWICE, QUICK, TABLE, is_quick, markdown, original
from tests.processes import ROOT

BEGIN, END = "<!-- matrix of faults: begin -->\n", "<!-- matrix of faults: end -->"


def test_every_combination_is_in_the_table() -> None:
    there = [(cell.victim, cell.fault, cell.point) for cell in CELLS if cell.redeliver]
    assert sorted(there) == sorted(
        (v, f, p) for v, faults in FAULTS.items() for f, p in itertools.product(faults, Point)
    )


def test_a_row_of_the_second_table_is_whole_and_the_others_run_once_in_the_first() -> None:
    for victim, fault in ((victim, fault) for victim, faults in FAULTS.items() for fault in faults):
        row = NOT_TWICE.get(victim, {}).get(fault)
        if row is not None:
            assert list(row) == list(Point)
            continue
        for outcome in TABLE[victim][fault].values():
            assert not isinstance(outcome, Outcome) or (outcome.requests <= 1 and outcome.attempt <= 1)


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.name)
def test_a_cell_has_a_reason_and_what_is_the_same_as_another_refers_to_one_that_is_tried(cell: Cell) -> None:
    assert cell.outcome.why
    if isinstance(cell.outcome, Same):
        assert original(cell) is not cell
        assert isinstance(original(cell).outcome, Outcome)
    elif isinstance(cell.outcome, Outcome) and not cell.redeliver:
        # That is what it promises.
        assert cell.outcome.requests <= 1


def test_at_most_one_attempt_is_lost_and_once_is_the_rule() -> None:
    outcomes = [cell.outcome for cell in CELLS if isinstance(cell.outcome, Outcome)]
    assert all(outcome.requests <= outcome.attempt <= 2 for outcome in outcomes)
    assert sum(outcome == once(outcome.why) for outcome in outcomes) > len(outcomes) / 2


def test_every_process_is_in_the_quick_ones() -> None:
    assert {victim for victim, _, _ in QUICK} == set(Victim) - {Victim.JOB}
    assert sum(is_quick(cell) for cell in CELLS) == len(QUICK)


def test_what_makes_no_sense_is_about_a_job_that_is_not_there() -> None:
    assert {cell.point for cell in CELLS if isinstance(cell.outcome, Nothing)} == {Point.IDLE}


def test_the_documentation_has_the_tables() -> None:
    """`python -m tests.faults.matrix_table` writes them."""
    text = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    _, found, rest = text.partition(BEGIN)
    assert found, f"docs/reliability.md has no line {BEGIN!r}"
    assert rest.partition(END)[0] == markdown(), "put the output of `python -m tests.faults.matrix_table` there"
