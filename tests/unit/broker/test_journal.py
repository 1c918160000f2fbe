"""What the operator reads of a job: nothing while all is well, and all of it once an attempt is lost."""

from __future__ import annotations

import logging

import pytest

from dspymq.protocol import worker_messages as w
from tests.unit.broker.harness import CoreHarness

WORKER, OTHER, CLIENT = b"w1", b"w2", b"c1"


class Journal:
    """A core with a client and a worker, and what it logs."""

    def __init__(self) -> None:
        self.lines: list[tuple[int, str]] = []
        self.harness = CoreHarness()
        self.harness.core.context.log = lambda level, text: self.lines.append((level, text))  # type: ignore[method-assign]
        self.harness.join_client(CLIENT)
        self.harness.join_worker(WORKER)
        self.lines.clear()

    def release(self, *, started: bool, cause: str, blame: str = "none") -> w.Dispatch:
        dispatch = self.harness.one(WORKER, w.Dispatch)
        released = w.Released(
            lease=dispatch.lease,
            started=started,
            cause=cause,
            blame=blame,
            details={"executor": "pool/1", "x": "secret"},
        )
        self.harness.worker(WORKER, released)
        return dispatch

    def told(self) -> list[str]:
        """The events so far."""
        return [text.split()[0] for _, text in self.lines]


@pytest.fixture
def journal() -> Journal:
    return Journal()


def test_a_job_that_takes_its_usual_way_is_not_mentioned(journal: Journal) -> None:
    journal.harness.submit(CLIENT, "j")
    journal.harness.finish(WORKER, journal.harness.one(WORKER, w.Dispatch), code="UNKNOWN", reason="program_error")
    assert journal.lines == []


def test_a_job_that_lost_an_attempt_is_followed(journal: Journal) -> None:
    journal.harness.submit(CLIENT, "j j")
    first = journal.release(started=True, cause="crash", blame="self")
    again = journal.harness.one(WORKER, w.Dispatch)
    journal.harness.finish(WORKER, again)
    assert journal.told() == ["attempt.lost", "job.requeued", "job.dispatched", "job.done"]
    assert journal.lines[0] == (
        logging.WARNING,
        f"attempt.lost job='j j' lease={first.lease} attempt=1 worker='w1' cause=crash blame=self started=True "
        "executor='pool/1'",
    )
    assert f"lease={again.lease} attempt=2 worker='w1' isolate=True" in journal.lines[2][1]
    assert journal.lines[3][1].startswith("job.done job='j j' attempt=2 code='OK'")


@pytest.mark.parametrize("cause", ["capacity", "drain"])
def test_what_is_only_moved_is_no_incident(journal: Journal, cause: str) -> None:
    journal.harness.submit(CLIENT, "j")
    journal.harness.join_worker(OTHER, "w2")
    journal.lines.clear()
    journal.release(started=False, cause=cause)
    journal.harness.finish(OTHER, journal.harness.one(OTHER, w.Dispatch))
    assert [text for level, text in journal.lines if level > logging.DEBUG] == []


def test_poison_is_a_warning(journal: Journal) -> None:
    journal.harness.submit(CLIENT, "j")
    for _ in range(2):
        journal.release(started=True, cause="crash", blame="self")
    level, text = journal.lines[-1]
    assert (level, text) == (logging.WARNING, "job.done job='j' attempt=2 code='ABORTED' reason='poison'")


def test_a_lost_worker_and_what_it_had(journal: Journal) -> None:
    journal.harness.submit(CLIENT, "j")
    journal.harness.wait(10_000, heard=(CLIENT,))
    assert journal.told()[:3] == ["worker.lost", "attempt.lost", "job.requeued"]
    assert journal.lines[0] == (logging.WARNING, "worker.lost worker='w1' leases=1")


def test_with_traces_every_job_is_followed(journal: Journal) -> None:
    journal.harness.core.context.traces = True
    journal.harness.submit(CLIENT, "j")
    journal.harness.finish(WORKER, journal.harness.one(WORKER, w.Dispatch))
    assert journal.told() == ["job.submitted", "job.dispatched", "job.done"]
    assert {level for level, _ in journal.lines} == {logging.DEBUG}
