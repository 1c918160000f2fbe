"""The rules of leases, held pages, refunds and blame, on a real broker."""

from __future__ import annotations

import time
from typing import Any

from tests.conformance.bare_peers import PATIENCE_S, Broker, Client, Header, Worker


def held(dispatch: Header, state: str = "running", **fields: Any) -> Header:
    """The entry of a lease in a page of held."""
    copied = {name: dispatch[name] for name in ("lease", "ns", "job", "attempt", "digest")}
    return {**copied, "state": state, **fields}


def queued(client: Client) -> int:
    """How many jobs are queued."""
    client.send({"t": "request", "rid": "1", "method": "stats.get"})
    count: int = client.expect_with_body("reply", rid="1")[1]["result"]["jobs"]["queued"]
    return count


# -- leases -----------------------------------------------------------------------------------------------------------


def test_r_6_1_to_6_3_a_lease_is_the_epoch_and_a_counter_and_attempts_count_from_1(broker: Broker) -> None:
    client, worker = Client(broker), Worker(broker)
    client.submit("j")
    first = worker.dispatch("j", attempt=1, ns="anonymous", program="qa", revision="r1", lane=None, isolate=None)
    worker.release(first, started=True)
    second = worker.dispatch("j", attempt=2, digest=first["digest"])
    epoch = worker.welcome["epoch"]
    assert [first["lease"], second["lease"]] == [f"{epoch}-{n:012d}" for n in (1, 2)]
    assert len(first["digest"]) == 32


def test_r_6_5_no_more_leases_than_slots(broker: Broker) -> None:
    client, worker = Client(broker), Worker(broker, slots=2)
    for n in range(4):
        client.submit(f"j{n}")
    a, b = worker.dispatch("j0"), worker.dispatch("j1")
    worker.hears_nothing_else()
    worker.ready(1)
    worker.finish(a)
    worker.acked(a)
    worker.hears_nothing_else()
    worker.finish(b)
    assert {worker.receive()[0]["t"] for _ in range(2)} == {"ack", "dispatch"}


def test_r_6_4_and_6_6_the_lease_of_another_worker_ends_nothing_and_is_acknowledged(broker: Broker) -> None:
    client, worker, other = Client(broker), Worker(broker), Worker(broker, "w2", slots=0)
    client.submit("j", want=["chunks", "started"])
    dispatch = worker.dispatch("j")
    other.say("started", dispatch, revision="r1", worker="x")
    other.say("chunk", dispatch, seq=0)
    other.release(dispatch, started=True)
    other.finish(dispatch)
    other.acked(dispatch)
    client.hears_nothing_else()
    worker.finish(dispatch)
    client.result("j")


def test_r_6_22_a_worker_says_ready_before_anything_about_a_lease(broker: Broker) -> None:
    worker = Worker(broker, slots=None)
    worker.send({"t": "result", "lease": "x", "attempt": 1, "code": "OK"})
    worker.refused("FAILED_PRECONDITION", "not_ready", lease="x", retryable=True)
    worker.send({"t": "request", "rid": "1", "method": "programs.list"})
    worker.expect("reply", rid="1")


# -- held and synced --------------------------------------------------------------------------------------------------


def test_r_6_13_to_6_18_pages_of_held_are_answered_one_by_one_and_nothing_comes_before_the_last(broker: Broker) -> None:
    client, worker = Client(broker), Worker(broker, slots=4)
    for job in ("kept", "done", "never", "ran"):
        client.submit(job)
    kept, done, _, ran = (worker.dispatch() for _ in range(4))
    worker.say("started", ran, revision="r1", worker="x")
    worker.hears_nothing_else()
    client.submit("waits")
    worker.close()
    again = Worker(broker, slots=None)
    smaller = {**held(kept), "lease": "0-1"}
    assert again.ready(5, held=[held(kept), smaller], more=True) == [kept["lease"]]
    again.hears_nothing_else()
    assert again.ready(5, held=[held(done, "done", seq=3, left_ms=5)], more=False) == [done["lease"]]
    given = {dispatch["job"]: dispatch["attempt"] for dispatch in (again.dispatch() for _ in range(3))}
    assert given == {"never": 2, "ran": 2, "waits": 1}
    again.finish(kept)
    again.finish(done)
    assert {client.receive()[0]["job"] for _ in range(2)} == {"kept", "done"}


def test_r_6_14_a_first_ready_without_held_is_an_empty_last_page(broker: Broker) -> None:
    client, worker = Client(broker), Worker(broker, slots=None)
    client.submit("j")
    worker.ready(1)
    worker.expect("synced", keep=None)
    worker.dispatch("j")
    worker.ready(1)
    worker.hears_nothing_else()


def test_r_6_13_a_page_has_at_most_200_entries(broker: Broker) -> None:
    worker = Worker(broker, slots=None)
    entry = {"lease": "x", "ns": "", "job": "j", "attempt": 1, "digest": "no digest", "state": "done"}
    assert worker.ready(1, held=[entry] * 200) == []
    worker.send({"t": "ready", "worker": "w1", "slots": {}, "held": [entry] * 201})
    worker.refused("INVALID_ARGUMENT", "bad_header")


def test_r_6_21_a_new_session_of_a_worker_ends_the_old_one(broker: Broker) -> None:
    client, old = Client(broker), Worker(broker)
    client.submit("j")
    dispatch = old.dispatch("j")
    new = Worker(broker, slots=None)
    assert new.ready(1, held=[held(dispatch)]) == [dispatch["lease"]]
    old.send({"t": "ping"})
    old.refused("FAILED_PRECONDITION", "no_session")
    new.send({"t": "ready", "worker": "somebody-else", "slots": {}})
    new.refused("INVALID_ARGUMENT", "bad_header")
    new.finish(dispatch)
    client.result("j")


def test_r_6_6_and_6_15_after_a_job_ran_elsewhere_its_old_lease_is_dropped_and_its_result_acknowledged(
    broker: Broker,
) -> None:
    client, worker = Client(broker), Worker(broker)
    client.submit("j")
    first = worker.dispatch("j")
    worker.leave()
    other = Worker(broker, "w2")
    second = other.dispatch("j", attempt=2)
    back = Worker(broker, slots=None)
    assert back.ready(0, held=[held(first, "done")]) == []
    back.finish(first)
    back.acked(first)
    client.hears_nothing_else()
    other.finish(second)
    client.result("j", attempt=2)


def test_r_6_23_a_silent_worker_is_lost_and_its_job_goes_elsewhere() -> None:
    with Broker(worker_ping_ms=100) as broker:
        client, silent = Client(broker), Worker(broker, "silent")
        client.submit("j")
        silent.dispatch("j")
        end = time.monotonic() + PATIENCE_S
        while not queued(client):
            assert time.monotonic() < end
        assert silent.socket.poll(0), "it was pinged before"
        Worker(broker, "other").dispatch("j", attempt=2)


# -- refunds, losses, blame -------------------------------------------------------------------------------------------


def test_r_6_9_what_was_not_started_is_refunded_and_avoids_that_worker_until_its_next_ready(broker: Broker) -> None:
    client, worker = Client(broker), Worker(broker)
    client.submit("j")
    client.submit("next")
    worker.release(worker.dispatch("j", attempt=1), started=False, cause="capacity")
    following = worker.dispatch("next")
    worker.finish(following)
    worker.acked(following)
    worker.hears_nothing_else()
    worker.ready(1)
    worker.finish(worker.dispatch("j", attempt=2))
    client.result("next")
    client.result("j", attempt=2)


def test_r_6_9_a_refunded_job_goes_to_another_worker_at_once(broker: Broker) -> None:
    client, one, two = Client(broker), Worker(broker, "w1"), Worker(broker, "w2", slots=0)
    client.submit("j")
    refused = one.dispatch("j")
    two.ready(1)
    one.release(refused, started=False, cause="capacity")
    two.dispatch("j", attempt=2)
    one.hears_nothing_else()


def test_r_6_9_four_refunds_are_free_and_later_ones_are_charged(broker: Broker) -> None:
    client, worker = Client(broker), Worker(broker)
    client.submit("j")
    for attempt in range(1, 8):
        worker.release(worker.dispatch("j", attempt=attempt), started=False, cause="capacity")
        worker.ready(1)
    client.result("j", "UNAVAILABLE", reason="worker_lost", attempt=7, retryable=True)


def test_r_6_9_two_workers_that_refuse_do_not_play_a_job_to_each_other(broker: Broker) -> None:
    client, one, two = Client(broker), Worker(broker, "w1"), Worker(broker, "w2", slots=0)
    client.submit("j")
    one.release(one.dispatch("j"), started=False, cause="capacity")
    one.hears_nothing_else()
    two.ready(1)
    two.release(two.dispatch("j"), started=False, cause="capacity")
    two.hears_nothing_else()
    one.hears_nothing_else()


def test_r_6_23_and_6_24_lost_workers_use_up_the_attempts(broker: Broker) -> None:
    client = Client(broker)
    client.submit("j")
    for attempt in (1, 2, 3):
        worker = Worker(broker, f"w{attempt}")
        worker.dispatch("j", attempt=attempt)
        worker.leave()
    client.result("j", "UNAVAILABLE", reason="worker_lost", attempt=3, retryable=True)


def test_r_6_23_a_broken_connection_does_not_lose_a_worker_that_comes_back_in_time(broker: Broker) -> None:
    client, worker = Client(broker), Worker(broker)
    client.submit("j", want=["chunks"], window=1)
    dispatch = worker.dispatch("j")
    worker.close()
    for upto in range(2, 40):
        # Sends to the closed connection: the broker finds out that its route is gone.
        client.send({"t": "credit", "job": "j", "attempt": 1, "upto": upto})
        client.hears_nothing_else()
    again = Worker(broker, slots=None)
    assert again.ready(1, held=[held(dispatch)]) == [dispatch["lease"]]
    again.hears_nothing_else()
    again.finish(dispatch)
    client.result("j", attempt=1)


def test_r_6_25_two_convictions_are_poison_and_cost_no_attempts(broker: Broker) -> None:
    client, worker = Client(broker), Worker(broker)
    client.submit("j")
    worker.release(worker.dispatch("j", isolate=None), started=True, blame="self")
    worker.release(worker.dispatch("j", isolate=True), started=True, blame="self")
    client.result("j", "ABORTED", reason="poison", attempt=2, retryable=None)


def test_r_6_24_and_6_25_a_conviction_is_not_charged(broker: Broker) -> None:
    client, worker = Client(broker), Worker(broker)
    client.submit("j")
    for attempt in (1, 2):
        worker.release(worker.dispatch("j", attempt=attempt), started=True, cause="drain")
    worker.release(worker.dispatch("j", attempt=3), started=True, blame="self")
    worker.finish(worker.dispatch("j", attempt=4, isolate=True))
    client.result("j", attempt=4)


def test_r_6_25_shared_blame_isolates_and_is_charged(broker: Broker) -> None:
    client, worker = Client(broker), Worker(broker)
    client.submit("j")
    worker.release(worker.dispatch("j"), started=True, blame="shared")
    for attempt in (2, 3):
        worker.release(worker.dispatch("j", isolate=True, attempt=attempt), started=True, cause="drain")
    client.result("j", "UNAVAILABLE", reason="worker_lost", attempt=3)


def test_r_6_29_redeliver_false_runs_once_unless_refunded(broker: Broker) -> None:
    client, worker = Client(broker), Worker(broker)
    client.submit("j", redeliver=False)
    worker.release(worker.dispatch("j"), started=False, cause="capacity")
    worker.ready(1)
    worker.release(worker.dispatch("j", attempt=2), started=True)
    client.result("j", "UNAVAILABLE", reason="worker_lost", attempt=2)


def test_r_5_4_a_release_while_cancelling_ends_the_job_with_the_cause_of_its_stop(broker: Broker) -> None:
    client, worker = Client(broker), Worker(broker)
    client.submit("j")
    dispatch = worker.dispatch("j")
    client.send({"t": "cancel", "job": "j"})
    worker.expect("cancel")
    worker.release(dispatch, started=True)
    client.result("j", "CANCELLED", reason="cancelled")


# -- programs and revisions -------------------------------------------------------------------------------------------


def test_r_11_13_unpinned_jobs_run_at_the_revision_first_seen_last(broker: Broker) -> None:
    client, old = Client(broker), Worker(broker, "old", slots=9)
    new = Worker(broker, "new", slots=9, programs=[{"name": "qa", "revision": "r2"}])
    old.ready(9)
    client.submit("newest")
    new.dispatch("newest", revision="r2")
    client.submit("pinned", revision="r1")
    old.dispatch("pinned", revision="r1")


def test_r_11_14_a_job_that_is_run_again_stays_at_its_revision(broker: Broker) -> None:
    client, old = Client(broker), Worker(broker, "old", slots=1)
    client.submit("j")
    dispatch = old.dispatch("j", revision="r1")
    new = Worker(broker, "new", slots=9, programs=[{"name": "qa", "revision": "r2"}])
    old.release(dispatch, started=True)
    old.dispatch("j", revision="r1", attempt=2)
    client.submit("fresh")
    new.dispatch("fresh", revision="r2")


def test_r_11_14_also_after_a_refund(broker: Broker) -> None:
    client, old = Client(broker), Worker(broker, "old", slots=1)
    client.submit("j")
    dispatch = old.dispatch("j", revision="r1")
    new = Worker(broker, "new", slots=9, programs=[{"name": "qa", "revision": "r2"}])
    old.release(dispatch, started=True)
    old.release(old.dispatch("j", revision="r1"), started=False, cause="capacity")
    new.hears_nothing_else()
    old.ready(1)
    old.dispatch("j", revision="r1", attempt=3)


def test_r_11_4_the_worker_that_uses_the_smallest_share_is_next(broker: Broker) -> None:
    client = Client(broker)
    small, large = Worker(broker, "small", slots=1), Worker(broker, "large", slots=4)
    client.submit("a")
    client.submit("b")
    client.submit("c")
    client.hears_nothing_else()
    assert small.dispatch()["job"] in ("a", "b")
    assert {large.dispatch()["job"] for _ in range(2)} < {"a", "b", "c"}
    small.hears_nothing_else()
