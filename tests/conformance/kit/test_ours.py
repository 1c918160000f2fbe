"""The kit against this repository's broker, client and pool: everything passes, transcript by transcript."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Final

import pytest

from dspymq.conformance.broker_runs import NEEDS_START, Broker, cases, run_broker
from dspymq.conformance.features import needed
from dspymq.conformance.runs import Choice, run_client, run_worker
from dspymq.conformance.vectors import transcripts
from dspymq.conformance.verdicts import Outcome, Verdict
from tests.conformance.kit.running import BARE_WORKER, ONE_SHOT_CLIENT, OUR_BROKER, OUR_CLIENT, OUR_POOL, told
from tests.processes import running_broker

pytestmark = pytest.mark.timeout(240)

PATIENT: Final = Choice(scale=2.0, jobs=2)
"""Other tests may run beside."""
RUNS: Final[dict[str, Callable[[], list[Outcome]]]] = {
    "broker": lambda: run_broker(Broker(template=OUR_BROKER), PATIENT),
    "pool": lambda: run_worker(OUR_POOL, PATIENT),
    "bare worker": lambda: run_worker(BARE_WORKER, PATIENT),
    "client": lambda: run_client(OUR_CLIENT, PATIENT),
    "one-shot client": lambda: run_client(ONE_SHOT_CLIENT, PATIENT),
}
ONE_SHOT: Final = {each["name"] for each in transcripts("client") if needed("client", each) == {"one-shot"}}
CLIENT: Final = [each["name"] for each in transcripts("client") if each["name"] not in ONE_SHOT]
WORKER: Final = [each["name"] for each in transcripts("worker")]
BROKER: Final = [each["name"] for each in (*transcripts("broker"), *cases())]

Runs = dict[str, Future[list[Outcome]]]


@pytest.fixture(scope="module")
def runs() -> Iterator[Runs]:
    """All at once: they mostly wait."""
    with ThreadPoolExecutor(max_workers=len(RUNS)) as threads:
        yield {name: threads.submit(run) for name, run in RUNS.items()}


def _passes(runs: Runs, tested: str, name: str) -> None:
    outcome = next(each for each in runs[tested].result() if each.name == name)
    assert outcome.verdict is Verdict.PASS, "\n".join([told([outcome]), *map(str, outcome.exchange)])


def _left_out(outcomes: Sequence[Outcome]) -> dict[str, str]:
    failed = [each for each in outcomes if each.verdict in (Verdict.FAIL, Verdict.INFORMATIONAL)]
    assert failed == [], told(failed)
    return {each.name: each.text for each in outcomes if each.verdict is Verdict.NOT_SUPPORTED}


@pytest.mark.parametrize("name", CLIENT)
def test_our_client_passes(runs: Runs, name: str) -> None:
    _passes(runs, "client", name)


@pytest.mark.parametrize("name", WORKER)
def test_our_pool_passes(runs: Runs, name: str) -> None:
    _passes(runs, "pool", name)


@pytest.mark.parametrize("name", BROKER)
def test_our_broker_passes(runs: Runs, name: str) -> None:
    _passes(runs, "broker", name)


def test_a_one_shot_client_passes_what_it_supports(runs: Runs) -> None:
    left_out = _left_out(runs["one-shot client"].result())
    assert left_out.keys() == set(CLIENT)
    assert left_out["call"] == "the driver does not support call"


def test_a_worker_that_supports_less_passes_what_it_supports(runs: Runs) -> None:
    left_out = _left_out(runs["bare worker"].result())
    assert left_out["tools"] == "the driver does not support tools"
    assert left_out["crash"] == "the driver does not support die, isolate"
    assert left_out["define"] == "the driver does not support inline"
    assert len(left_out) == 10


def test_a_broker_that_runs_already_is_shared_by_all_transcripts_that_can() -> None:
    with running_broker() as broker:
        tested = Broker(addresses=(broker.clients, broker.workers))
        left_out = _left_out(run_broker(tested, replace(PATIENT, sections=(5, 9, 10), jobs=4)))
    assert left_out["kept-for-retain-ms"] == NEEDS_START
    assert "submit-again" not in left_out
    assert set(left_out.values()) == {NEEDS_START}
