"""Calls of tools as the client counts them: run once, answered as often as they come."""

from dspymq import tool_calls
from dspymq.tool_calls import GIVEN_UP, Answer, Came, ToolLedger


def begin(ledger: ToolLedger, call: int, *, attempt: int = 1, name: str = "t", body: bytes = b"a") -> int:
    assert ledger.came(attempt, call, name, body) is Came.NEW
    run, _ = ledger.begin(attempt, call, name, body)
    return run


def test_a_call_is_new_once_then_running_then_answered():
    ledger = ToolLedger()
    run = begin(ledger, 0)
    assert ledger.came(1, 0, "t", b"a") is Came.RUNNING
    answer = Answer(body=b"x")
    assert ledger.answered(run, answer) == (1, 0)
    assert ledger.came(1, 0, "t", b"a") is answer
    assert ledger.answered(run, answer) is None


def test_calls_beside_each_other_keep_their_answers_apart():
    ledger = ToolLedger()
    first, second = begin(ledger, 0), begin(ledger, 1)
    assert ledger.answered(second, Answer(body=b"2")) == (1, 1)
    assert ledger.answered(first, Answer(body=b"1")) == (1, 0)
    assert [ledger.came(1, n, "t", b"a").body for n in (0, 1)] == [b"1", b"2"]


def test_another_attempt_begins_anew_and_the_one_before_is_over():
    ledger = ToolLedger()
    run = begin(ledger, 0)
    assert ledger.came(2, 0, "t", b"a") is Came.NEW
    assert ledger.begin(2, 0, "t", b"a") == (2, True)
    assert ledger.answered(run, Answer()) is None
    assert ledger.came(1, 1, "t", b"a") is Came.STALE


def test_a_broker_that_lost_everything_counts_from_the_start():
    ledger = ToolLedger()
    begin(ledger, 0, attempt=3)
    ledger.rejoin(anew=False)
    assert ledger.came(1, 0, "t", b"a") is Came.STALE
    ledger.rejoin(anew=True)
    assert ledger.came(1, 0, "t", b"a") is Came.NEW
    assert ledger.begin(1, 0, "t", b"a")[1]


def test_a_broker_that_adopted_the_job_asks_for_the_same_call():
    ledger = ToolLedger()
    run = begin(ledger, 0)
    ledger.rejoin(anew=True)
    assert ledger.came(1, 0, "t", b"a") is Came.RUNNING
    assert ledger.answered(run, Answer(body=b"x")) == (1, 0)


def test_another_call_under_the_same_number_is_another_call():
    ledger = ToolLedger()
    runs = [begin(ledger, n) for n in range(2)]
    ledger.rejoin(anew=True)
    assert ledger.came(1, 0, "t", b"other") is Came.NEW
    assert ledger.begin(1, 0, "t", b"other") == (3, True)
    assert [ledger.answered(run, Answer()) for run in runs] == [None, None]
    assert ledger.came(1, 1, "other", b"a") is Came.NEW


def test_the_answers_that_are_kept_are_bounded(monkeypatch):
    monkeypatch.setattr(tool_calls, "KEPT_BYTES", 100)
    ledger = ToolLedger()
    for n in range(4):
        ledger.answered(begin(ledger, n), Answer(body=b"x" * 40))
    assert [ledger.came(1, n, "t", b"a") for n in range(2)] == [GIVEN_UP, GIVEN_UP]
    assert [ledger.came(1, n, "t", b"a").body for n in (2, 3)] == [b"x" * 40] * 2
    ledger.answered(begin(ledger, 4), Answer(body=b"x" * 500))
    assert len(ledger.came(1, 4, "t", b"a").body) == 500
