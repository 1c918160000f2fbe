"""The rules of order, fairness, bounds and programs, on a real broker."""

from __future__ import annotations

from dspymq.protocol import Limits
from tests.conformance.bare_peers import Broker, Client, Worker


def served(worker: Worker, count: int) -> list[str]:
    """The jobs that a worker with one slot is given, in their order; each is ended at once."""
    jobs = []
    while len(jobs) < count:
        message = worker.receive()[0]
        if message["t"] == "dispatch":
            jobs.append(message["job"])
            worker.finish(message)
    return jobs


def test_r_11_2_priority_orders_the_jobs_of_a_flow_then_age_does(broker: Broker) -> None:
    client = Client(broker)
    for job, priority in (("a", 4), ("b", 0), ("c", 9), ("d", 4), ("e", 9)):
        client.submit(job, priority=priority)
    client.hears_nothing_else()
    assert served(Worker(broker), 5) == ["c", "e", "a", "d", "b"]


def test_r_11_1_the_flow_with_the_fewest_slots_is_next_whatever_the_priority_of_others(broker: Broker) -> None:
    many, few = Client(broker, "many"), Client(broker, "few")
    for n in range(8):
        many.submit(f"many-{n}", priority=9)
    many.hears_nothing_else()
    for n in range(2):
        few.submit(f"few-{n}", priority=0)
    few.hears_nothing_else()
    order = served(Worker(broker), 10)
    assert max(order.index("few-0"), order.index("few-1")) <= 4, order


def test_r_11_1_it_holds_among_jobs_that_need_different_things(broker: Broker) -> None:
    many, few = Client(broker, "many"), Client(broker, "few")
    for n in range(8):
        many.submit(f"many-{n}", "qa", priority=9)
    many.hears_nothing_else()
    for n in range(2):
        few.submit(f"few-{n}", "other", priority=0)
    few.hears_nothing_else()
    programs = [{"name": "qa", "revision": "r1"}, {"name": "other", "revision": "r1"}]
    order = served(Worker(broker, programs=programs), 10)
    assert max(order.index("few-0"), order.index("few-1")) <= 4, order


def test_r_11_6_a_bound_on_jobs_is_answered_with_a_time_to_come_back() -> None:
    with Broker(limits=Limits(max_jobs=2), queue_retry_ms=77) as broker:
        client = Client(broker)
        for job in ("a", "b", "c"):
            client.submit(job)
        client.refused("RESOURCE_EXHAUSTED", "queue_full", job="c", retryable=True, retry_after_ms=77)
        client.submit("a", want=["accepted"])
        client.expect("accepted", job="a", duplicate=True)


def test_r_11_8_and_11_9_an_unknown_program_is_not_found_once_somebody_could_have_offered_it(broker: Broker) -> None:
    client = Client(broker)
    client.submit("early", "qaa", want=["accepted"])
    client.expect("accepted", job="early", waiting=True, missing=["program"])
    worker = Worker(broker)
    client.submit("late", "qaa")
    error = client.refused("NOT_FOUND", "unknown_program", job="late", retryable=None)
    assert error["details"] == {"close_matches": ["qa"]}
    client.submit("secret", "_secret")
    client.refused("NOT_FOUND", "unknown_program", job="secret")
    worker.leave()
    other = Worker(broker, "w2", programs=[{"name": "other", "revision": "r1"}])
    client.submit("known", "qa", want=["accepted"])
    client.expect("accepted", job="known", waiting=True, missing=["program"])
    other.hears_nothing_else()


def test_r_11_10_fail_fast_refuses_what_nobody_offers_and_waits_for_a_slot(broker: Broker) -> None:
    client, worker = Client(broker), Worker(broker)
    client.submit("a")
    worker.dispatch("a")
    client.submit("b", fail_fast=True, want=["accepted"])
    client.expect("accepted", job="b", state="queued", waiting=None)
    client.submit("c", fail_fast=True, profile="big")
    client.refused("UNAVAILABLE", "no_worker", job="c", retryable=True)


def test_r_11_3_and_11_11_a_job_waits_for_all_that_it_needs(broker: Broker) -> None:
    client, plain = Client(broker), Worker(broker, "plain", features=[])
    for job, fields, missing in (
        ("profile", {"profile": "big"}, ["profile"]),
        ("lane", {"lane": "batch"}, ["lane"]),
        ("revision", {"revision": "r2"}, ["revision"]),
        ("features", {"want": ["accepted", "chunks"]}, ["features"]),
    ):
        client.submit(job, **{"want": ["accepted"], **fields})
        client.expect("accepted", job=job, waiting=True, missing=missing)
    offers = [{"name": "qa", "revision": "r2"}]
    rich = Worker(broker, "rich", slots=None)
    slots = {"default": 9, "batch": 9}
    rich.send({"t": "ready", "worker": "rich", "slots": slots, "programs": offers, "profiles": ["big"], "held": []})
    rich.expect("synced")
    assert {rich.dispatch()["job"] for _ in range(4)} == {"profile", "lane", "revision", "features"}
    plain.hears_nothing_else()
