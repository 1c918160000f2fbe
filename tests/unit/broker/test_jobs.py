"""A job's life in the core, one race a test: each is a list of events (SPEC section 5)."""

from __future__ import annotations

from dspymq.broker.core import events as ev
from dspymq.protocol import client_messages as c
from dspymq.protocol import worker_messages as w
from dspymq.protocol.messages import Bye, Error, Hello, Ping, Pong, Usage, Welcome
from tests.unit.broker.harness import CoreHarness, held, ready

C, W, W2 = b"client", b"worker", b"worker2"


def serving(**settings: object) -> CoreHarness:
    """One client, one worker with one slot."""
    h = CoreHarness(**settings)
    h.join_client(C)
    h.join_worker(W)
    h.take(C, Welcome)
    h.take(W, Welcome)
    h.take(W, w.Synced)
    return h


def test_a_job_costs_one_dispatch_one_result_and_two_acks() -> None:
    h = serving()
    h.submit(C, "j1", body=b"in")
    dispatch = h.one(W, w.Dispatch)
    assert (dispatch.job, dispatch.attempt, dispatch.program, dispatch.revision) == ("j1", 1, "qa", "r1")
    h.finish(W, dispatch)
    result = h.one(C, c.Result)
    assert (result.job, result.code, result.attempt) == ("j1", "OK", 1)
    assert h.one(W, w.Ack).leases == [dispatch.lease]
    h.client(C, c.Ack(jobs=["j1"]))
    assert not h.core.store.jobs
    assert h.sent[C] == []
    assert h.sent[W] == []


def test_a_body_goes_through_unread_in_both_directions() -> None:
    h = serving()
    h.submit(C, "j1", body=b"\xc1 not msgpack")
    assert [body for message, body in h.sent[W] if isinstance(message, w.Dispatch)] == [b"\xc1 not msgpack"]
    h.finish(W, h.one(W, w.Dispatch), body=b"\xc1 out")
    assert [body for message, body in h.sent[C] if isinstance(message, c.Result)] == [b"\xc1 out"]


def test_a_job_waits_for_a_worker_that_comes_later() -> None:
    h = CoreHarness()
    h.join_client(C)
    h.submit(C, "j1", want=["accepted"])
    accepted = h.one(C, c.Accepted)
    assert accepted.waiting
    assert accepted.missing == ["program"]
    h.join_worker(W)
    assert h.one(W, w.Dispatch).job == "j1"


def test_slots_are_never_exceeded_and_each_answer_frees_one() -> None:
    h = serving()
    for n in range(3):
        h.submit(C, f"j{n}")
    first = h.one(W, w.Dispatch)
    h.finish(W, first)
    second = h.one(W, w.Dispatch)
    assert (first.job, second.job) == ("j0", "j1")


def test_the_same_submit_again_attaches_and_makes_no_second_job() -> None:
    h = serving()
    h.submit(C, "j1", body=b"in")
    h.submit(C, "j1", body=b"in", want=["accepted"])
    assert h.one(C, c.Accepted).duplicate
    dispatch = h.one(W, w.Dispatch)
    h.finish(W, dispatch)
    assert len(h.take(C, c.Result)) == 1


def test_another_content_under_the_same_id_is_refused() -> None:
    h = serving()
    h.submit(C, "j1", body=b"in")
    h.submit(C, "j1", body=b"other")
    error = h.one(C, Error)
    assert (error.code, error.reason, error.job) == ("ALREADY_EXISTS", "id_conflict", "j1")


def test_a_finished_job_is_replayed_until_its_ack_and_refused_after() -> None:
    h = serving()
    h.submit(C, "j1")
    h.finish(W, h.one(W, w.Dispatch))
    h.submit(C, "j1")
    assert len(h.take(C, c.Result)) == 2
    h.client(C, c.Ack(jobs=["j1"]))
    h.submit(C, "j1")
    assert h.one(C, Error).reason == "result_gone"
    assert h.take(W, w.Dispatch) == []


def test_a_second_session_takes_over_and_the_first_hears_superseded() -> None:
    h = serving()
    h.submit(C, "j1")
    h.join_client(b"other")
    h.submit(b"other", "j1")
    error = h.one(C, Error)
    assert (error.code, error.reason, error.job) == ("ABORTED", "superseded", "j1")
    h.finish(W, h.one(W, w.Dispatch))
    assert h.take(C, c.Result) == []
    assert h.one(b"other", c.Result).code == "OK"


def test_attach_joins_a_job_without_its_inputs() -> None:
    h = serving(adopt_ms=0)
    h.submit(C, "j1", on_disconnect="keep")
    h.client(C, Bye())
    h.join_client(b"other")
    h.client(b"other", c.Attach(job="j1", want=["chunks"]))
    assert h.one(b"other", c.Accepted).state == "dispatched"
    assert h.one(W, w.Attach).want == ["chunks"]
    h.client(b"other", c.Attach(job="nope"))
    assert h.one(b"other", Error).reason == "unknown_job"


def test_cancel_in_the_queue_ends_at_once() -> None:
    h = serving()
    h.submit(C, "j0")
    h.submit(C, "j1")
    h.client(C, c.Cancel(job="j1"))
    result = h.one(C, c.Result)
    assert (result.job, result.code, result.reason, result.attempt, result.chunks) == (
        "j1",
        "CANCELLED",
        "cancelled",
        0,
        0,
    )


def test_cancel_of_a_running_job_waits_for_its_usage() -> None:
    h = serving()
    h.submit(C, "j1")
    dispatch = h.one(W, w.Dispatch)
    h.client(C, c.Cancel(job="j1"))
    cancel = h.one(W, w.Cancel)
    assert (cancel.lease, cancel.cause) == (dispatch.lease, "cancel")
    assert h.take(C, c.Result) == []
    h.finish(W, dispatch, "CANCELLED", b"", reason="cancelled", usage=Usage(calls=1))
    result = h.one(C, c.Result)
    assert result.code == "CANCELLED"
    assert result.usage == Usage(calls=1)


def test_on_cancel_a_result_that_was_earlier_wins() -> None:
    h = serving()
    h.submit(C, "j1")
    dispatch = h.one(W, w.Dispatch)
    h.client(C, c.Cancel(job="j1"))
    h.finish(W, dispatch)
    assert h.one(C, c.Result).code == "OK"


def test_only_the_attached_client_cancels() -> None:
    h = serving()
    h.submit(C, "j1")
    h.join_client(b"other")
    h.client(b"other", c.Cancel(job="j1"))
    assert h.one(b"other", Error).reason == "not_attached"
    h.client(C, c.Cancel(job="unknown"))
    assert h.one(C, Error).reason == "unknown_job"


def test_a_worker_that_ignores_cancel_keeps_its_slot_and_the_client_gets_its_end() -> None:
    h = serving(grace_ms=1_000)
    h.submit(C, "j1")
    h.submit(C, "j2")
    dispatch = h.one(W, w.Dispatch)
    h.client(C, c.Cancel(job="j1"))
    h.take(W, w.Cancel)
    h.wait(3_000, heard=(C, W))
    assert h.one(C, c.Result).code == "CANCELLED"
    assert h.one(W, w.Cancel).cause == "fenced"
    assert h.take(W, w.Dispatch) == []
    h.finish(W, dispatch)
    assert h.one(W, w.Ack).leases == [dispatch.lease]
    assert h.take(C, c.Result) == []
    assert h.one(W, w.Dispatch).job == "j2"


def test_a_deadline_in_the_queue() -> None:
    h = CoreHarness()
    h.join_client(C)
    h.submit(C, "j1", timeout_ms=2_000)
    h.wait(1_500, heard=(C,))
    assert h.take(C, c.Result) == []
    h.wait(600, heard=(C,))
    result = h.one(C, c.Result)
    assert (result.code, result.reason) == ("DEADLINE_EXCEEDED", "deadline")


def test_a_deadline_in_flight_is_deadline_exceeded_with_usage_whatever_the_worker_says() -> None:
    h = serving()
    h.submit(C, "j1", timeout_ms=2_000)
    dispatch = h.one(W, w.Dispatch)
    h.wait(2_100, heard=(C, W))
    assert h.one(W, w.Cancel).cause == "deadline"
    h.finish(W, dispatch, "OK", usage=Usage(calls=2))
    result = h.one(C, c.Result)
    assert (result.code, result.usage) == ("DEADLINE_EXCEEDED", Usage(calls=2))


def test_a_silent_worker_is_lost_and_its_job_runs_elsewhere_under_a_new_lease() -> None:
    h = serving()
    h.submit(C, "j1")
    first = h.one(W, w.Dispatch)
    h.join_worker(W2, "w2")
    h.wait(3_500, heard=(C, W2))
    second = h.one(W2, w.Dispatch)
    assert (second.job, second.attempt) == ("j1", 2)
    assert second.lease > first.lease
    h.finish(W2, second)
    assert h.one(C, c.Result).attempt == 2


def test_a_result_under_an_old_lease_is_acknowledged_and_dropped() -> None:
    h = serving()
    h.submit(C, "j1")
    first = h.one(W, w.Dispatch)
    h.join_worker(W2, "w2")
    h.wait(3_500, heard=(C, W2))
    h.one(W2, w.Dispatch)
    h.join_worker(b"back", "w1", held=[held(first)])
    assert h.one(b"back", w.Synced).keep == []
    h.finish(b"back", first)
    assert h.one(b"back", w.Ack).leases == [first.lease]
    assert h.take(C, c.Result) == []


def test_attempts_are_bounded() -> None:
    h = CoreHarness()
    h.join_client(C)
    h.submit(C, "j1")
    for n in range(3):
        peer = b"w%d" % n
        h.join_worker(peer, f"w{n}")
        assert h.one(peer, w.Dispatch).attempt == n + 1
        h.wait(3_500, heard=(C,))
    result = h.one(C, c.Result)
    assert (result.code, result.reason, result.retryable) == ("UNAVAILABLE", "worker_lost", True)


def test_redeliver_false_never_runs_twice() -> None:
    h = serving()
    h.submit(C, "j1", redeliver=False)
    h.one(W, w.Dispatch)
    h.wait(3_500, heard=(C,))
    assert h.one(C, c.Result).reason == "worker_lost"


def test_a_job_given_back_unstarted_is_refunded_and_avoids_that_worker_until_its_next_ready() -> None:
    h = serving()
    h.submit(C, "j1")
    for expected in (1, 2, 3, 4):
        dispatch = h.one(W, w.Dispatch)
        assert dispatch.attempt == expected
        h.worker(W, w.Released(lease=dispatch.lease, started=False, cause="capacity"))
        assert h.take(W, w.Dispatch) == []
        h.worker(W, ready("w1", 1))
    dispatch = h.one(W, w.Dispatch)
    h.finish(W, dispatch)
    assert h.one(C, c.Result).code == "OK"


def test_a_returned_job_goes_to_the_head_of_its_queue() -> None:
    h = serving()
    for n in range(3):
        h.submit(C, f"j{n}")
    first = h.one(W, w.Dispatch)
    h.join_worker(W2, "w2", slots=0)
    h.worker(W, w.Released(lease=first.lease, started=True, cause="drain"))
    assert h.one(W, w.Dispatch).job == "j0"


def test_two_deaths_alone_are_poison() -> None:
    h = serving()
    h.submit(C, "j1")
    first = h.one(W, w.Dispatch)
    h.worker(W, w.Released(lease=first.lease, started=True, cause="crash", blame="self"))
    second = h.one(W, w.Dispatch)
    assert second.isolate
    h.worker(W, w.Released(lease=second.lease, started=True, cause="crash", blame="self"))
    result = h.one(C, c.Result)
    assert (result.code, result.reason) == ("ABORTED", "poison")


def test_a_shared_death_convicts_nobody_and_isolates_everybody() -> None:
    h = CoreHarness()
    h.join_client(C)
    h.join_worker(W, slots=2)
    h.submit(C, "j1")
    h.submit(C, "j2")
    one, two = h.take(W, w.Dispatch)
    for dispatch in (one, two):
        h.worker(W, w.Released(lease=dispatch.lease, started=True, cause="crash", blame="shared"))
    again = h.take(W, w.Dispatch)
    assert [(d.job, d.isolate) for d in again] == [("j1", True), ("j2", True)]
    for dispatch in again:
        h.finish(W, dispatch)
    assert [result.code for result in h.take(C, c.Result)] == ["OK", "OK"]


def test_a_worker_that_reconnects_keeps_what_is_current() -> None:
    h = CoreHarness()
    h.join_client(C)
    h.join_worker(W, slots=2)
    h.submit(C, "j1")
    h.submit(C, "j2")
    one, two = h.take(W, w.Dispatch)
    h.event(ev.WorkerUnreachable(W))
    h.join_worker(b"again", "w1", slots=2, held=[held(one)])
    assert h.one(b"again", w.Synced).keep == [one.lease]
    retry = h.one(b"again", w.Dispatch)
    assert (retry.job, retry.attempt) == (two.job, 2)
    h.finish(b"again", one)
    h.finish(b"again", retry)
    assert {r.job for r in h.take(C, c.Result)} == {"j1", "j2"}


def test_nothing_is_dispatched_before_the_last_page_of_held() -> None:
    h = CoreHarness()
    h.join_client(C)
    h.submit(C, "j1")
    h.worker(W, Hello(name="w1"))
    h.worker(W, ready("w1", 1, held=[], more=True))
    assert h.one(W, w.Synced).keep == []
    assert h.take(W, w.Dispatch) == []
    h.worker(W, ready("w1", 1, held=[]))
    assert h.one(W, w.Synced).keep == []
    assert h.one(W, w.Dispatch).job == "j1"


def test_on_disconnect_cancel_waits_for_orphan_ms_and_keep_keeps() -> None:
    h = CoreHarness(orphan_ms=10_000)
    h.join_client(C)
    h.join_worker(W, slots=2)
    h.submit(C, "gone")
    h.submit(C, "kept", on_disconnect="keep")
    gone, kept = h.take(W, w.Dispatch)
    h.event(ev.ClientUnreachable(C))
    h.wait(9_000, heard=(W,))
    assert h.take(W, w.Cancel) == []
    h.wait(2_000, heard=(W,))
    assert h.one(W, w.Cancel).lease == gone.lease
    h.finish(W, kept)
    assert h.core.store.done


def test_a_client_that_comes_back_in_time_keeps_its_job() -> None:
    h = CoreHarness(orphan_ms=10_000)
    h.join_client(C)
    h.join_worker(W)
    h.submit(C, "j1")
    dispatch = h.one(W, w.Dispatch)
    h.event(ev.ClientUnreachable(C))
    h.wait(5_000, heard=(W,))
    h.join_client(b"c2")
    h.submit(b"c2", "j1")
    h.wait(20_000, heard=(W, b"c2"))
    assert h.take(W, w.Cancel) == []
    h.finish(W, dispatch)
    assert h.one(b"c2", c.Result).code == "OK"


def test_bye_cancels_at_once() -> None:
    h = serving()
    h.submit(C, "j1")
    h.client(C, Bye(reason="done"))
    assert h.one(W, w.Cancel).cause == "cancel"


def test_chunks_go_to_who_wants_them_and_imply_started() -> None:
    h = serving()
    h.submit(C, "j1", want=["chunks", "started"])
    dispatch = h.one(W, w.Dispatch)
    assert dispatch.want == ["chunks", "started"]
    h.worker(W, w.Chunk(lease=dispatch.lease, attempt=1, seq=0), b"text")
    chunk = h.one(C, c.Chunk)
    assert (chunk.job, chunk.attempt, chunk.seq) == ("j1", 1, 0)
    h.client(C, c.Credit(job="j1", attempt=1, upto=9))
    assert h.one(W, w.Credit).upto == 9
    h.client(C, c.Credit(job="j1", attempt=7, upto=9))
    assert h.take(W, w.Credit) == []


def test_chunks_of_a_job_that_does_not_want_them_are_dropped() -> None:
    h = serving()
    h.submit(C, "j1")
    dispatch = h.one(W, w.Dispatch)
    h.worker(W, w.Chunk(lease=dispatch.lease, attempt=1, seq=0), b"text")
    assert h.take(C, c.Chunk) == []


def test_results_are_kept_for_their_retention_and_no_longer() -> None:
    h = serving(retain_ms=5_000)
    h.submit(C, "j1")
    h.finish(W, h.one(W, w.Dispatch))
    h.wait(4_000, heard=(C, W))
    assert h.core.store.done
    h.wait(2_000, heard=(C, W))
    assert not h.core.store.done
    assert not h.core.store.jobs


def test_retained_bytes_and_tombstones_are_bounded() -> None:
    h = serving(retain_bytes=1_000, tombstones=5)
    for n in range(20):
        h.submit(C, f"j{n}")
        h.finish(W, h.one(W, w.Dispatch), body=b"x" * 300)
    assert h.core.store.done_bytes <= 1_000
    assert len(h.core.store.tombstones) == 5


def test_queue_bounds_are_refused_with_a_time_to_come_back() -> None:
    from dspymq.protocol import Limits

    h = CoreHarness(limits=Limits(max_jobs=2))
    h.join_client(C)
    for n in range(3):
        h.submit(C, f"j{n}")
    error = h.one(C, Error)
    assert (error.code, error.reason, error.job) == ("RESOURCE_EXHAUSTED", "queue_full", "j2")
    assert error.retry_after_ms


def test_a_ping_is_answered_and_silence_is_death() -> None:
    h = serving()
    h.client(C, Ping(n=7))
    assert h.one(C, Pong).n == 7
    h.wait(10_500, heard=(W,))
    assert h.one(C, Ping)
    h.wait(20_000, heard=(W,))
    assert C not in h.core.context.clients


def test_a_message_without_a_session_is_told_to_say_hello() -> None:
    h = CoreHarness()
    h.submit(C, "j1")
    error = h.one(C, Error)
    assert (error.reason, error.job) == ("no_session", "j1")
    h.worker(W, ready("w1", 1))
    assert h.one(W, Error).reason == "no_session"


def test_an_error_is_never_answered() -> None:
    h = CoreHarness()
    h.client(C, Error(code="INTERNAL", reason="internal"))
    h.worker(W, Error(code="INTERNAL", reason="internal"))
    assert h.sent == {}


def test_what_only_brokers_send_is_refused() -> None:
    h = serving()
    h.client(C, c.Result(job="j1", attempt=1, code="OK"))
    assert h.one(C, Error).reason == "wrong_direction"


def test_a_second_hello_gets_the_same_welcome() -> None:
    h = CoreHarness()
    h.join_client(C, "one")
    first = h.one(C, Welcome)
    h.join_client(C, "two")
    assert h.one(C, Welcome) == first
    assert h.core.context.clients[C].name == "one"


def test_a_one_shot_peer_asks_once_and_is_answered_once() -> None:
    h = CoreHarness()
    h.join_worker(W)
    peer = ev.OneShot(b"route", (b"id", b""))
    h.submit(peer, "j1")
    h.finish(W, h.one(W, w.Dispatch))
    h.wait(120_000, heard=(W,))
    assert [type(m) for m, _ in h.sent[peer]] == [c.Result]
    h.client(peer, Hello(name="x"))
    assert h.one(peer, Error).reason == "one_shot_only"


def test_an_unknown_program_is_not_found_with_close_matches_once_a_worker_is_there() -> None:
    h = serving()
    h.submit(C, "j1", "qaa")
    error = h.one(C, Error)
    assert (error.code, error.reason) == ("NOT_FOUND", "unknown_program")
    assert error.details == {"close_matches": ["qa"]}


def test_fail_fast_does_not_wait() -> None:
    h = CoreHarness()
    h.join_client(C)
    h.submit(C, "j1", fail_fast=True)
    assert h.one(C, Error).reason == "no_worker"


def test_unpinned_jobs_run_at_the_newest_revision_and_pinned_ones_at_theirs() -> None:
    h = CoreHarness()
    h.join_client(C)
    h.join_worker(W, "old", revision="r1", slots=4)
    h.join_worker(W2, "new", revision="r2", slots=4)
    h.submit(C, "j1")
    assert h.one(W2, w.Dispatch).revision == "r2"
    h.submit(C, "j2", revision="r1")
    assert h.one(W, w.Dispatch).revision == "r1"


def test_profiles_route() -> None:
    h = CoreHarness()
    h.join_client(C)
    h.join_worker(W, profiles=("small",))
    h.submit(C, "j1", profile="big", want=["accepted"])
    assert h.one(C, c.Accepted).missing == ["profile"]
    h.join_worker(W2, "w2", profiles=("big",))
    assert h.one(W2, w.Dispatch).job == "j1"


def test_a_job_that_kept_to_a_revision_goes_to_others_when_that_is_offered_no_more() -> None:
    """An idle worker need not say anything for it."""
    h = serving()
    h.submit(C, "j1")
    lease = h.one(W, w.Dispatch)
    h.join_worker(W2, "w2", revision="r2")
    h.worker(W, ready("w1", 0))
    h.worker(W, w.Released(lease=lease.lease, started=True, cause="crash", blame="none"))
    assert h.take(W2, w.Dispatch) == [], "it began at r1, which is still offered"
    h.worker(W, ready("w1", 0, revision="r2"))
    assert h.one(W2, w.Dispatch).revision == "r2"


def test_a_job_that_kept_to_a_revision_goes_to_others_when_its_worker_is_lost() -> None:
    h = serving()
    h.submit(C, "j1")
    h.one(W, w.Dispatch)
    h.join_worker(W2, "w2", revision="r2")
    h.worker(W, Bye())
    assert h.one(W2, w.Dispatch).revision == "r2"
