"""The short form of `make chaos`: clients in all languages, every fault once, and the books balanced."""

import os

import pytest

from tests.chaos.__main__ import run, show
from tests.chaos.run import repeat

SEED = int(os.environ.get("CHAOS_SEED", "6"))
MINUTES = float(os.environ.get("CHAOS_MINUTES", "0.75"))
TAIL = 25


@pytest.mark.soak
@pytest.mark.timeout(60 * MINUTES + 600)
def test_every_job_has_one_right_end_whatever_happens_and_everything_is_as_before() -> None:
    report, kept = run(SEED, MINUTES, print)
    show(report.figures)
    if kept is not None:
        for path in (kept / "timeline.jsonl", *kept.glob("*.log")):
            print(f"-- the end of {path.name}", *path.read_text().splitlines()[-TAIL:], sep="\n")
        problems = "\n".join(report.problems[:TAIL])
        pytest.fail(f"again: {repeat(SEED, MINUTES)}; what happened is in {kept}\n{problems}")
    assert min(report.figures["by_client"].values()) >= 5
    assert report.figures["ends"]["OK"] > 100
