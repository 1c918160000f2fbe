"""How the tests of the kit start what is tested: our own, and what is wrong on purpose."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from dspymq.conformance.vectors import transcripts
from dspymq.conformance.verdicts import Outcome, Verdict

PYTHON: Final = sys.executable
OUR_CLIENT: Final = [PYTHON, "-m", "examples.conformance.python_client"]
ONE_SHOT_CLIENT: Final = [PYTHON, "-m", "examples.conformance.one_shot_client"]
OUR_POOL: Final = [PYTHON, "-m", "tests.conformance.kit.pool_driver"]
BARE_WORKER: Final = [PYTHON, "-m", "tests.conformance.kit.bare_worker"]
BROKER_ARGUMENTS: Final = "examples.conformance.python_broker {clients} {workers} {settings}"
OUR_BROKER: Final = f"{PYTHON} -m {BROKER_ARGUMENTS}"

AT_ONCE: Final = 6
"""Runs of wrong ones: most of their time they wait for what does not come."""


def wrong_client(fault: str) -> list[str]:
    """The COMMAND of a client with this fault of wrong_clients.py."""
    return [PYTHON, "-m", "tests.conformance.kit.wire", f"wrong_clients:{fault}", "examples.conformance.python_client"]


def wrong_broker(fault: str) -> str:
    """The template of a broker with this fault of wrong_brokers.py."""
    return f"{PYTHON} -m tests.conformance.kit.wire 'wrong_brokers:{fault}' {BROKER_ARGUMENTS}"


def wrong_worker(fault: str) -> list[str]:
    """The COMMAND of a worker with this fault of wrong_workers.py."""
    return [*BARE_WORKER, fault]


def showing(role: str, rule: str, sample: Sequence[str]) -> tuple[str, ...]:
    """The names of the transcripts that name this rule, and of a few others."""
    named = [each["name"] for each in transcripts(role) if rule in each["rules"]]
    return (*named, *(name for name in sample if name not in named))


def all_at_once(names: Iterable[str], run: Callable[[str], list[Outcome]]) -> dict[str, list[Outcome]]:
    """The outcomes of each run."""
    ordered = list(names)
    with ThreadPoolExecutor(max_workers=AT_ONCE) as threads:
        return dict(zip(ordered, threads.map(run, ordered), strict=True))


def told(outcomes: Iterable[Outcome]) -> str:
    """What failed, for a failing test."""
    return "\n".join(
        f"{each.name}: {each.blamed} at step {each.step}: {each.text}"
        for each in outcomes
        if each.verdict in (Verdict.FAIL, Verdict.INFORMATIONAL)
    )
