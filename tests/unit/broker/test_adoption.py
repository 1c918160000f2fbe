"""A broker that starts anew forgets nothing that its workers and clients still know (SPEC section 8)."""

from __future__ import annotations

from dspymq.broker.core import events as ev
from dspymq.broker.core.store import digest_of
from dspymq.protocol import client_messages as c
from dspymq.protocol import lease_id
from dspymq.protocol import worker_messages as w
from dspymq.protocol.messages import Bye, Error
from tests.unit.broker.harness import CoreHarness, ready
from tests.unit.broker.harness import held as running

C, W, W2 = b"client", b"worker", b"worker2"
OLD_EPOCH = "018f0000-0000-7000-8000-000000000000"
BODY = b"inputs"


def submit(job: str = "j1", **fields: object) -> c.Submit:
    settings = {"timeout_ms": 60_000, "known_epoch": OLD_EPOCH, **fields}
    return c.Submit(job=job, program="qa", **settings)  # type: ignore[arg-type]


def held(job: str = "j1", n: int = 1, *, attempt: int = 1, state: str = "running", body: bytes = BODY) -> w.Held:
    return w.Held(
        lease=lease_id(OLD_EPOCH, n),
        ns="anonymous",
        job=job,
        attempt=attempt,
        digest=digest_of(submit(job), body).hex(),
        state=state,  # type: ignore[arg-type]
        left_ms=50_000,
    )


def answer(h: CoreHarness, peer: bytes, lease: str, body: bytes = b"out") -> None:
    h.worker(peer, w.Result(lease=lease, attempt=1, code="OK", revision="r1"), body)


def test_clients_back_first() -> None:
    h = CoreHarness()
    h.join_client(C)
    h.client(C, submit(), BODY)
    h.join_worker(W2, "idle")
    assert h.take(W2, w.Dispatch) == [], "the job waits for the worker that may have it"
    h.join_worker(W, "w1", held=[held()])
    assert h.one(W, w.Synced).keep == [held().lease]
    answer(h, W, held().lease)
    result = h.one(C, c.Result)
    assert (result.code, result.attempt) == ("OK", 1)
    assert h.one(W, w.Ack).leases == [held().lease]
    assert h.take(W, w.Dispatch) == []


def test_workers_back_first() -> None:
    h = CoreHarness()
    h.join_worker(W, "w1", held=[held()])
    assert h.one(W, w.Synced).keep == [held().lease]
    h.join_client(C)
    h.client(C, submit(want=["accepted", "chunks"]), BODY)
    assert h.one(C, c.Accepted).state == "running"
    assert [a.want for a in h.take(W, w.Attach)][-1] == ["accepted", "chunks"]
    answer(h, W, held().lease)
    assert h.one(C, c.Result).code == "OK"
    assert h.take(W, w.Dispatch) == []


def test_a_job_that_finished_during_the_outage_is_answered_from_its_worker() -> None:
    h = CoreHarness()
    h.join_worker(W, "w1", held=[held(state="done")])
    answer(h, W, held().lease)
    h.join_client(C)
    h.client(C, submit(), BODY)
    assert h.one(C, c.Result).code == "OK"


def test_nobody_reports_it_so_it_runs_after_adopt_ms() -> None:
    h = CoreHarness(adopt_ms=5_000)
    h.join_client(C)
    h.join_worker(W)
    h.client(C, submit(), BODY)
    h.wait(4_500, heard=(C, W))
    assert h.take(W, w.Dispatch) == []
    h.wait(1_000, heard=(C, W))
    assert h.one(W, w.Dispatch).job == "j1"


def test_a_job_with_side_effects_is_not_run_a_second_time() -> None:
    h = CoreHarness()
    h.join_client(C)
    h.join_worker(W)
    h.client(C, submit(redeliver=False), BODY)
    h.wait(6_000, heard=(C, W))
    assert h.one(C, c.Result).reason == "worker_lost"
    assert h.take(W, w.Dispatch) == []


def test_a_job_of_this_epoch_does_not_wait() -> None:
    h = CoreHarness()
    h.join_client(C)
    h.join_worker(W)
    h.client(C, submit(known_epoch=h.core.context.epoch), BODY)
    assert h.one(W, w.Dispatch).job == "j1"


def test_an_unknown_program_is_not_judged_while_workers_may_come_back() -> None:
    h = CoreHarness()
    h.join_client(C)
    h.join_worker(W, programs=("other",))
    h.client(C, submit(), BODY)
    assert h.take(C, Error) == []


def test_another_content_is_not_adopted() -> None:
    h = CoreHarness()
    h.join_client(C)
    h.client(C, submit(), BODY)
    h.join_worker(W, "w1", held=[held(body=b"other inputs")])
    assert h.one(W, w.Synced).keep == []
    h.wait(6_000, heard=(C, W))
    assert h.one(W, w.Dispatch).job == "j1"


def test_of_two_holders_the_greatest_lease_wins() -> None:
    for first, second in ((1, 2), (2, 1)):
        h = CoreHarness()
        h.join_client(C)
        h.client(C, submit(), BODY)
        h.join_worker(W, "w1", held=[held(n=first)])
        h.join_worker(W2, "w2", held=[held(n=second, attempt=2)])
        if second > first:
            assert h.one(W, w.Cancel).cause == "fenced"
            assert h.one(W2, w.Synced).keep == [held(n=2).lease]
        else:
            assert h.one(W2, w.Synced).keep == []
        answer(h, W, held(n=1).lease if first == 1 else held(n=2).lease, b"from w1")
        answer(h, W2, held(n=2).lease if second == 2 else held(n=1).lease, b"from w2")
        winner = b"from w2" if second == 2 else b"from w1"
        assert [body for m, body in h.sent[C] if isinstance(m, c.Result)] == [winner]


def test_held_and_unclaimed_is_kept_for_orphan_ms_only() -> None:
    h = CoreHarness(orphan_ms=10_000)
    h.join_worker(W, "w1", held=[held()])
    h.wait(9_000, heard=(W,))
    assert h.take(W, w.Cancel) == []
    h.wait(2_000, heard=(W,))
    assert h.one(W, w.Cancel).lease == held().lease


def test_an_unclaimed_job_whose_worker_is_lost_leaves_no_trace_and_runs_anew() -> None:
    h = CoreHarness()
    h.join_worker(W, "w1", held=[held()])
    h.wait(4_000)
    assert not h.core.store.jobs
    assert not h.core.store.tombstones
    assert not h.core.scheduler.flows
    h.join_client(C)
    h.join_worker(W2, "w2")
    h.client(C, submit(), BODY)
    h.wait(6_000, heard=(C, W2))
    assert h.one(W2, w.Dispatch).job == "j1"


def test_a_claimed_job_runs_again_when_its_worker_is_lost() -> None:
    h = CoreHarness()
    h.join_worker(W, "w1", held=[held()])
    h.join_client(C)
    h.client(C, submit(), BODY)
    h.join_worker(W2, "w2")
    h.wait(4_000, heard=(C, W2))
    assert h.take(W2, w.Dispatch) == [], "another worker may still report a later attempt"
    h.wait(1_500, heard=(C, W2))
    dispatch = h.one(W2, w.Dispatch)
    assert (dispatch.job, dispatch.attempt) == ("j1", 2)
    assert [body for m, body in h.log_of(W2) if isinstance(m, w.Dispatch)] == [BODY]


def test_a_job_whose_adopted_attempt_is_given_back_waits_for_a_later_one() -> None:
    h = CoreHarness()
    h.join_client(C)
    h.client(C, submit(), BODY)
    h.join_worker(W, "w1", slots=2, held=[held()])
    h.worker(W, w.Released(lease=held().lease, started=True, cause="crash"))
    assert h.take(W, w.Dispatch) == [], "it is not run again while a later attempt may be reported"
    later = held(n=2, attempt=2)
    h.join_worker(W2, "w2", held=[later])
    assert h.one(W2, w.Synced).keep == [later.lease]
    h.wait(6_000, heard=(C, W, W2))
    assert h.take(W, w.Dispatch) == h.take(W2, w.Dispatch) == []
    answer(h, W2, later.lease)
    assert h.one(C, c.Result).code == "OK"


def test_a_claimed_job_leaves_the_slot_of_its_fenced_attempt_where_it_is() -> None:
    """Else one flow would count a slot too many for ever, and another one too few."""
    h = CoreHarness()
    h.join_worker(W, "w1", held=[held()])
    later = held(n=2, attempt=2)
    h.join_worker(W2, "w2", held=[later])
    assert h.one(W, w.Cancel).cause == "fenced"
    h.join_client(C)
    h.client(C, submit(), BODY)
    answer(h, W, held().lease)
    answer(h, W2, later.lease)
    assert h.one(C, c.Result).code == "OK"
    assert h.core.scheduler.flows == {}


def test_workers_that_are_lost_together_do_not_use_up_the_attempts_of_a_job() -> None:
    h = CoreHarness()
    for number in range(4):
        h.join_worker(b"w%d" % number, f"w{number}")
    h.join_client(C)
    h.client(C, c.Submit(job="j1", program="qa", timeout_ms=60_000), BODY)
    h.wait(4_000, heard=(C,))
    assert h.core.fleet.workers == {}
    assert h.take(C, c.Result) == []
    h.join_worker(W, "later")
    assert h.one(W, w.Dispatch).attempt == 2


def test_a_stall_of_the_broker_is_no_time_in_which_a_worker_could_report() -> None:
    h = CoreHarness()
    h.join_client(C)
    h.join_worker(W2, "idle")
    h.client(C, submit(), BODY)
    h.now_ms += 20_000
    h.event(ev.Stalled(20_000))
    h.event(ev.Tick())
    assert h.take(W2, w.Dispatch) == []
    h.join_worker(W, "w1", held=[held()])
    assert h.one(W, w.Synced).keep == [held().lease]
    h.client(C, submit("j2"), BODY)
    h.event(ev.Stalled(60_000))
    h.wait(5_500, heard=(C, W, W2))
    assert h.one(W2, w.Dispatch).job == "j2", "what came in after the stall waits no longer for it"


def test_what_was_given_back_is_not_adopted_again() -> None:
    """`released` is not acknowledged: a worker that lost its session reports the lease, and returns it, again."""
    h = CoreHarness()
    h.join_client(C)
    h.join_worker(W)
    h.submit(C, "j1")
    lease = h.one(W, w.Dispatch)
    h.worker(W, ready("w1", 0))
    released = w.Released(lease=lease.lease, started=True, cause="crash", blame="self")
    h.worker(W, released)
    h.join_worker(W2, "w1", slots=0, held=[running(lease)])
    assert h.one(W2, w.Synced).keep == []
    h.worker(W2, released)
    h.worker(W2, ready("w1", 1))
    assert h.one(W2, w.Dispatch).isolate
    assert h.take(C, c.Result) == [], "one crash convicts once"


def test_an_attached_job_without_inputs_is_answered_when_its_worker_is_lost() -> None:
    h = CoreHarness()
    h.join_worker(W, "w1", held=[held()])
    h.join_client(C)
    h.client(C, c.Attach(job="j1"))
    assert h.one(C, c.Accepted).state == "running"
    h.wait(4_000, heard=(C,))
    assert h.one(C, c.Result).reason == "worker_lost"


def test_attach_to_an_unknown_job_right_after_the_start_may_be_tried_again() -> None:
    h = CoreHarness(adopt_ms=5_000)
    h.join_client(C)
    h.client(C, c.Attach(job="j1"))
    error = h.one(C, Error)
    assert (error.reason, error.retryable) == ("adopting", True)
    h.wait(6_000, heard=(C,))
    h.client(C, c.Attach(job="j1"))
    assert h.one(C, Error).reason == "unknown_job"


def test_a_waiting_job_can_be_cancelled_and_expires() -> None:
    h = CoreHarness()
    h.join_client(C)
    h.client(C, submit("j1"), BODY)
    h.client(C, submit("j2", timeout_ms=2_000), BODY)
    h.client(C, c.Cancel(job="j1"))
    assert h.one(C, c.Result).code == "CANCELLED"
    h.wait(2_500, heard=(C,))
    assert h.one(C, c.Result).code == "DEADLINE_EXCEEDED"
    h.wait(10_000, heard=(C,))
    assert len(h.core.machine.parked) == 0


def test_a_client_that_leaves_before_its_job_is_adopted_gives_it_up() -> None:
    h = CoreHarness()
    h.join_client(C)
    h.client(C, submit(), BODY)
    h.client(C, Bye())
    assert h.core.store.live == 0


def test_a_claimed_job_counts_for_its_clients_share() -> None:
    h = CoreHarness()
    h.join_worker(W, "w1", slots=2, held=[held()])
    h.join_client(C, "alice")
    h.client(C, submit(), BODY)
    assert h.core.scheduler.flows["alice"].slots == 1
    assert list(h.core.scheduler.flows) == ["alice"]
    answer(h, W, held().lease)
    assert not h.core.scheduler.flows


def test_affinity_prefers_the_same_worker_while_it_lives() -> None:
    h = CoreHarness()
    h.join_client(C)
    h.join_worker(W, "w1", slots=4)
    h.join_worker(W2, "w2", slots=4)
    h.submit(C, "first", affinity="cache-7")
    home = W if h.take(W, w.Dispatch) else W2
    for n in range(3):
        h.submit(C, f"j{n}", affinity="cache-7")
    assert len(h.take(home, w.Dispatch)) == 3
