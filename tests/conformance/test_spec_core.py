"""SPEC.md's tables of states, reasons, limits, methods and the rest are the broker's (sections 3, 5, 10 to 13)."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.conformance import spec_core as k
from tests.conformance.spec_text import Spec, read

Check = Callable[[Spec], list[str]]

CHECKS: list[Check] = [
    k.check_states,
    k.check_actions,
    k.check_reasons,
    k.check_limits,
    k.check_sockets,
    k.check_features,
    k.check_methods,
    k.check_params,
    k.check_events,
    k.check_digest,
    k.check_inline,
]


@pytest.mark.parametrize("check", CHECKS)
def test_what_spec_says_is_what_the_code_has(check: Check) -> None:
    assert check(read()) == []


@pytest.mark.parametrize(
    ("old", "new", "check", "said"),
    [
        (
            "| cancel | end cancelled | stop |",
            "| cancel | end cancelled | end |",
            k.check_states,
            "'cancel' in dispatched",
        ),
        ("| grace over |", "| grace ends |", k.check_states, "'grace ends', the code does not"),
        ("| event | queued |", "| event | waiting |", k.check_states, "the columns are"),
        ("| abandon | with", "| leave | with", k.check_actions, "'abandon', SPEC.md does not"),
        ("| gone | the result", "| lost | the result", k.check_actions, "states: SPEC.md has 'lost'"),
        ("| `poison` | ABORTED | no |", "| `poison` | ABORTED | yes |", k.check_reasons, "`poison`"),
        ("| `deadline` | DEADLINE_EXCEEDED |", "| `deadline` | CANCELLED |", k.check_reasons, "`deadline`"),
        ("| `lm_timeout` |", "| `lm_time_out` |", k.check_reasons, "'lm_timeout', SPEC.md does not"),
        ("`ABORTED`, `OUT_OF_RANGE`", "`ABORT`, `OUT_OF_RANGE`", k.check_reasons, "codes: SPEC.md has 'ABORT'"),
        ("| `max_jobs` | 500000 | jobs", "| `max_jobs` | 400000 | jobs", k.check_limits, "`max_jobs`"),
        ("| `grace_ms` | 5000 |", "| `grace_ms` | 6000 |", k.check_limits, "`grace_ms`: SPEC.md says 6000"),
        ("| ids in an `ack` | 1000 |", "| ids in an `ack` | 100 |", k.check_limits, "ids in an `ack`"),
        ("tcp://127.0.0.1:5571", "tcp://127.0.0.1:5572", k.check_limits, "default address tcp://127.0.0.1:5571"),
        ("| `IMMEDIATE` | — | 1 |", "| `IMMEDIATE` | — | 0 |", k.check_sockets, "IMMEDIATE: SPEC.md says 0"),
        ("| `HEARTBEAT_IVL` | 0 |", "| `HEARTBEAT_IVL` | 5 |", k.check_sockets, "HEARTBEAT_IVL"),
        ("| `BACKLOG` |", "| `AFFINITY` |", k.check_sockets, "BACKLOG: SPEC.md says nothing"),
        ("| `held`, `isolate`, `attach` |", "| `held`, `attach` |", k.check_features, "'isolate', SPEC.md does not"),
        ("| `workers.list` | yes | no |", "| `workers.list` | yes | yes |", k.check_methods, "`workers.list`"),
        ("| `stats.get` | yes |", "| `stats.read` | yes |", k.check_methods, "methods: SPEC.md has 'stats.read'"),
        ("| `heard_ms_ago` |", "| `heard_ms` |", k.check_methods, "keys of workers.list: the code has 'heard_ms_ago'"),
        ("`live`, `queued`, `queued_bytes`", "`live`, `queued`", k.check_methods, "stats.jobs: the code has"),
        ("| `late_usage` |", "| `later_usage` |", k.check_methods, "keys of jobs.get: the code has 'late_usage'"),
        ("`worker`, `grace_ms`? |", "`worker` |", k.check_params, "params of workers.drain: the code has 'grace_ms'"),
        ("`job`, `new_job`? |", "`job`, `id`? |", k.check_params, "params of jobs.retry: SPEC.md has 'id'"),
        ("| `job.adopted` |", "| `job.taken` |", k.check_events, "kinds of events: SPEC.md has 'job.taken'"),
        ("`name`, `session`, `lang` |", "`name`, `session` |", k.check_events, "keys of client.joined"),
        ("digest 9e9b", "digest 9e9a", k.check_digest, "section 5.2 says the digest 9e9a"),
        ("00 00 00 02  71 61", "00 00 00 02  71 62", k.check_digest, "do not give the broker's digest"),
        ('/ "None" / "Any"', '/ "null" / "Any"', k.check_inline, "simple types: SPEC.md has 'null'"),
        ("at most 64 in all", "at most 65 in all", k.check_inline, "at most 64 in all"),
    ],
)
def test_what_differs_is_named(old: str, new: str, check: Check, said: str) -> None:
    text = read().text
    assert text.count(old) >= 1, f"SPEC.md has no {old!r}"
    problems = check(Spec(text.replace(old, new)))
    assert any(said in problem for problem in problems), problems
