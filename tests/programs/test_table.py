"""docs/programs.md cannot lie: every name of DSPy has its row, every row its test or its reason."""

from __future__ import annotations

import ast
import json
from functools import cache
from pathlib import Path

import pytest

from dspymq.worker.executor.spec_nodes import ADAPTERS, KINDS, REFUSED_KINDS
from dspymq.worker.executor.spec_types import DSPY_TYPES
from tests.programs.inventory import SECTIONS, inventory
from tests.programs.make_table import PAGE, page
from tests.programs.rig import Pool, outputs
from tests.programs.rows import ROWS, Row

TESTS = Path(__file__).parents[1]
NAMES = inventory()
ALL = [(section, name) for section in SECTIONS for name in ROWS[section]]


@pytest.mark.parametrize("section", SECTIONS)
def test_every_name_of_dspy_has_a_row(section: str) -> None:
    missing = set(NAMES[section]) - ROWS[section].keys()
    assert not missing, f"DSPy has new names: give them rows in tests/programs/rows.py, {section}"
    gone = ROWS[section].keys() - set(NAMES[section])
    assert not gone, "DSPy has these names no more"


def test_a_new_name_would_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    import dspy

    class BrandNew(dspy.Module):  # type: ignore[misc]
        pass

    BrandNew.__module__ = "dspy.predict.brand_new"
    monkeypatch.setattr(dspy, "BrandNew", BrandNew, raising=False)
    monkeypatch.setattr(dspy.Tool, "brand_new", lambda self: None, raising=False)
    assert "BrandNew" in inventory()["Modules"]
    assert "Tool.brand_new" in inventory()["Tools"]


@cache
def functions_of(file: Path) -> frozenset[str]:
    """The tests of a file: functions that pytest would run."""
    body = ast.parse(file.read_text(encoding="utf-8")).body
    return frozenset(
        one.name
        for one in body
        if isinstance(one, ast.FunctionDef)
        and one.name.startswith("test_")
        and not any("skip" in ast.unparse(mark) or "soak" in ast.unparse(mark) for mark in one.decorator_list)
    )


@pytest.mark.parametrize(("section", "name"), ALL, ids=[name for _, name in ALL])
def test_every_row_has_its_test_or_its_reason(section: str, name: str) -> None:
    row: Row = ROWS[section][name]
    if not row.test:
        assert row.how.startswith("no: ")
        assert len(row.how) > len("no: because")
        return
    assert not row.how.startswith("no: ")
    file, found, function = row.test.partition("::")
    assert found
    assert function in functions_of(TESTS / file)


def test_every_part_of_the_grammar_stands_in_a_row() -> None:
    said = " ".join(row.how for rows in ROWS.values() for row in rows.values())
    for kind in KINDS.keys() - {"pipeline"}:
        assert f"kind `{kind}`" in said
    for adapter in ADAPTERS:
        assert f"adapter `{adapter}`" in said
    for name in DSPY_TYPES:
        assert f"`{name}`" in said
    for kind in REFUSED_KINDS:
        assert kind not in KINDS


def test_the_page_is_what_the_script_writes() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "python -m tests.programs.make_table"


def test_the_example_of_the_page_runs(pool: Pool) -> None:
    example = page().partition("```text\n")[2].partition("```")[0]
    found = outputs(pool.spec(json.loads(example), {"topic": "tea"}))
    assert found["essay"].startswith("essay: tea | ")
