"""The plan of a run comes from its seed, and from nothing else."""

import itertools

from tests.chaos import plan
from tests.chaos.kinds import ENDS, KINDS
from tests.chaos.run import CLIENTS, FULL
from tests.chaos.timeline import LOSES

NAMES = [name for name, _, _ in CLIENTS]


def test_the_same_seed_gives_the_same_faults_and_jobs() -> None:
    assert plan.faults(7, 2, NAMES) == plan.faults(7, 2, NAMES)
    for name in NAMES:
        first, again = (list(itertools.islice(plan.jobs(7, name, FULL), 150)) for _ in range(2))
        assert first == again


def test_another_seed_gives_others_and_so_does_another_client() -> None:
    assert plan.faults(7, 2, NAMES) != plan.faults(8, 2, NAMES)
    kinds = {
        tuple(job.kind for job in itertools.islice(plan.jobs(seed, name, FULL), 50))
        for seed in (7, 8)
        for name in NAMES[:2]
    }
    assert len(kinds) == 4


def test_a_longer_run_begins_like_a_shorter_one() -> None:
    short, long = plan.faults(7, 1, NAMES), plan.faults(7, 3, NAMES)
    for hand, faults in short.items():
        assert long[hand][: len(faults)] == faults


def test_a_deck_has_every_kind() -> None:
    jobs = itertools.islice(plan.jobs(7, "any", FULL), sum(kind.weight for kind in KINDS.values()))
    assert {job.kind for job in jobs} == set(KINDS) == set(ENDS)
    small = itertools.islice(plan.jobs(7, "any", ()), 200)
    assert {job.kind for job in small} == set(KINDS) - {"window", "tools"}
    for kinds, hand in ((plan.SERVERS, "servers"), (plan.CLIENTS, "clients")):
        assert {fault.kind for fault in plan.faults(7, 2, NAMES)[hand]} == set(kinds)
    assert set(plan.SERVERS) >= LOSES.keys()
