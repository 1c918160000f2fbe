"""Hello and welcome, life, failover, backoff, restarts: each case is a list of events."""

import pytest

from dspymq import events as ev
from dspymq import exceptions
from dspymq.protocol import client_messages as cm
from dspymq.protocol import messages as m
from dspymq.session import BACKOFF_MAX_MS
from tests.unit.client.core_bench import EPOCH_2, Bench, live_bench, welcome


def test_nothing_is_connected_before_there_is_work():
    bench = Bench()
    bench.pass_ms(100_000)
    assert bench.all == []


def test_first_job_connects_and_waits_for_welcome():
    bench = Bench(name="me", auth="token")
    bench.submit()
    assert bench.connects() == ["tcp://a:1"]
    assert bench.sent(m.Hello) == [m.Hello(name="me", lang="python", features=["ack"], auth="token")]
    assert bench.sent(cm.Submit) == []
    bench.live()
    assert [s.job for s in bench.sent(cm.Submit)] == ["j1"]
    assert bench.sent(cm.Submit)[0].known_epoch is None
    assert not bench.of(ev.SessionUp)[0].restarted


def test_time_before_welcome_counts_against_the_deadline():
    bench = Bench()
    bench.submit(timeout_ms=60_000)
    bench.now_ms += 700
    bench.live()
    assert bench.sent(cm.Submit)[0].timeout_ms == 59_300


def test_no_welcome_in_time_goes_to_the_next_address_at_once():
    bench = Bench(addresses=["tcp://a:1", "tcp://b:2"])
    bench.submit()
    bench.pass_ms(1_000)
    assert bench.connects() == ["tcp://b:2"]
    assert bench.of(ev.Disconnect)
    bench.live()
    assert bench.sent_names() == ["submit"]


def test_refused_connection_goes_to_the_next_address_at_once():
    bench = Bench(addresses=["tcp://a:1", "tcp://b:2"])
    bench.submit()
    bench.feed(ev.LinkDown("connection refused"))
    assert bench.connects() == ["tcp://b:2"]


def test_lost_session_starts_again_at_the_first_address():
    bench = Bench(addresses=["tcp://a:1", "tcp://b:2"])
    bench.submit()
    bench.feed(ev.LinkDown("connection refused"))
    bench.live()
    bench.receive(cm.Accepted(job="j1", state="queued", attempt=0))
    bench.feed(ev.LinkDown())
    assert bench.connects() == ["tcp://a:1"]


@pytest.mark.parametrize("random", [0.0, 0.5, 0.999])
def test_backoff_is_jittered_grows_and_stays_within_a_second(random):
    bench = Bench(random=random)
    bench.submit(timeout_ms=600_000)
    waits = []
    for _ in range(12):
        bench.feed(ev.LinkDown("connection refused"))
        wake = bench.core.wake_at_ms()
        assert wake is not None
        waits.append(wake - bench.now_ms)
        bench.pass_ms(waits[-1])
        assert bench.connects() == ["tcp://a:1"]
    assert all(0 < wait <= BACKOFF_MAX_MS for wait in waits)
    assert waits[0] <= 50
    assert waits == sorted(waits)
    assert waits[-1] == int(BACKOFF_MAX_MS * (0.5 + 0.5 * random))


def test_slow_broker_is_given_more_time_with_each_pass():
    bench = Bench()
    bench.submit(timeout_ms=600_000)
    patience = []
    for _ in range(5):
        began = bench.now_ms
        while not bench.of(ev.Disconnect):
            bench.pass_ms(100)
        patience.append(bench.now_ms - began)
        while not bench.connects():
            bench.pass_ms(1)
    assert patience == [1_000, 2_000, 4_000, 5_000, 5_000]


def test_without_work_a_lost_session_is_not_sought_again():
    bench = live_bench()
    bench.feed(ev.LinkDown())
    assert bench.connects() == []
    bench.pass_ms(100_000)
    assert bench.connects() == []
    bench.submit()
    assert bench.connects() == ["tcp://a:1"]


def test_backoff_ends_when_its_last_job_ends():
    bench = Bench()
    bench.submit()
    bench.feed(ev.LinkDown("connection refused"))
    bench.feed(ev.CancelJob("j1"))
    assert isinstance(bench.ends()["j1"], exceptions.Cancelled)
    bench.pass_ms(10_000)
    assert bench.connects() == []


def test_idle_session_pings_and_a_ping_is_answered():
    bench = live_bench()
    bench.pass_ms(10_000)
    assert bench.sent(m.Ping) == [m.Ping(n=0)]
    bench.receive(m.Ping(n=7))
    assert bench.sent(m.Pong) == [m.Pong(n=7)]


def test_sending_puts_the_ping_off():
    bench = live_bench()
    bench.pass_ms(9_000)
    bench.submit()
    bench.pass_ms(9_999)
    assert bench.sent(m.Ping) == []
    bench.pass_ms(1)
    assert len(bench.sent(m.Ping)) == 1


def test_silence_of_dead_ms_ends_the_session_and_the_job_is_sent_to_the_next():
    bench = live_bench()
    bench.submit()
    bench.pass_ms(29_999)
    assert bench.of(ev.SessionDown) == []
    bench.pass_ms(1)
    assert len(bench.of(ev.SessionDown)) == 1
    assert bench.connects() == ["tcp://a:1"]
    assert bench.sent_names() == ["hello"]


def test_any_message_is_life():
    bench = live_bench()
    bench.submit()
    for _ in range(10):
        bench.pass_ms(20_000)
        bench.receive(cm.Progress(job="other", attempt=1))
    assert [o for o in bench.all if isinstance(o, ev.SessionDown)] == []


def test_after_standing_still_the_broker_is_not_judged_at_once():
    bench = live_bench()
    bench.sleep_ms(120_000)
    assert bench.of(ev.SessionDown) == []
    assert len(bench.sent(m.Ping)) == 1
    bench.receive(m.Pong(n=0))
    bench.pass_ms(20_000)
    assert bench.of(ev.SessionDown) == []


def test_after_standing_still_a_silent_broker_is_given_up_soon():
    bench = live_bench()
    bench.sleep_ms(120_000)
    bench.pass_ms(1_000)
    assert len(bench.of(ev.SessionDown)) == 1


def test_storm_of_no_session_costs_one_hello():
    bench = live_bench()
    jobs = [f"j{n}" for n in range(100)]
    for job in jobs:
        bench.submit(job)
    bench.no_session(job="j0")
    assert bench.sent_names() == ["hello"]
    assert bench.of(ev.SessionDown) == [ev.SessionDown("tcp://a:1", "no_session")]
    for job in jobs[1:]:
        assert bench.no_session(job=job) == []
    bench.live(EPOCH_2, "s2")
    assert [s.job for s in bench.sent(cm.Submit)] == jobs
    assert bench.sent_names().count("hello") == 0
    assert {s.known_epoch for s in bench.sent(cm.Submit)} == {"epoch-1"}
    assert bench.of(ev.SessionUp)[0].restarted


def test_broker_that_welcomes_and_then_forgets_is_left_with_backoff():
    bench = live_bench()
    bench.submit()
    bench.no_session(job="j1")
    bench.live(EPOCH_2, "s2")
    bench.no_session(job="j1")
    assert bench.sent_names() == []
    assert bench.of(ev.Disconnect)
    assert bench.connects() == []
    bench.pass_ms(50)
    assert bench.connects() == ["tcp://a:1"]


def test_welcome_with_a_new_epoch_tells_and_resends():
    bench = live_bench()
    bench.submit()
    bench.feed(ev.LinkDown())
    bench.live(EPOCH_2, "s2")
    assert bench.of(ev.SessionUp)[0].restarted
    assert bench.sent(cm.Submit)[0].known_epoch == "epoch-1"
    bench.receive(cm.Accepted(job="j1", state="queued", attempt=0))
    bench.feed(ev.LinkDown())
    bench.live(EPOCH_2, "s3")
    assert not bench.of(ev.SessionUp)[0].restarted
    # Should the new broker not have got it, a worker may still hold it for the one before.
    assert bench.sent(cm.Submit)[0].known_epoch == "epoch-1"


def test_same_welcome_again_changes_nothing():
    bench = live_bench()
    bench.submit()
    assert bench.receive(welcome()) == []


def test_another_welcome_on_a_live_session_sends_all_again():
    bench = live_bench()
    bench.submit()
    bench.live(EPOCH_2, "s2")
    assert [s.job for s in bench.sent(cm.Submit)] == ["j1"]


@pytest.mark.parametrize("reason", ["shutdown", "slow_consumer"])
def test_bye_ends_the_session_and_jobs_are_sent_again(reason):
    bench = live_bench()
    bench.submit()
    bench.receive(m.Bye(reason=reason))
    assert bench.connects() == ["tcp://a:1"]
    bench.live("epoch-1", "s2")
    assert [s.job for s in bench.sent(cm.Submit)] == ["j1"]


def test_hello_refused_everywhere_fails_what_is_open():
    bench = Bench(addresses=["tcp://a:1", "tcp://b:2"])
    bench.submit()
    bench.feed(ev.AskBroker("r1", "stats.get", b"", 10_000))
    bench.refuse("UNAUTHENTICATED", "bad_token")
    assert bench.connects() == ["tcp://b:2"]
    bench.refuse("UNAUTHENTICATED", "bad_token")
    assert isinstance(bench.ends()["j1"], exceptions.Unauthenticated)
    assert bench.ends()["j1"].job == "j1"
    assert isinstance(bench.of(ev.Answered)[0].value, exceptions.Unauthenticated)
    bench.pass_ms(10_000)
    assert bench.connects() == []


def test_hello_refused_for_now_is_tried_again():
    bench = Bench()
    bench.submit()
    bench.refuse("UNAVAILABLE", "shutdown", retryable=True)
    assert bench.ends() == {}
    bench.pass_ms(1_000)
    assert bench.connects() == ["tcp://a:1"]


def test_close_says_bye_and_fails_what_is_open():
    bench = live_bench()
    bench.submit()
    bench.result("gone")
    bench.feed(ev.AskBroker("r1", "stats.get", b"", 10_000))
    bench.feed(ev.CloseClient())
    assert bench.sent_names() == ["ack", "bye"]
    assert bench.of(ev.Disconnect)[0].linger_ms > 0
    assert isinstance(bench.ends()["j1"], exceptions.ClientClosed)
    assert isinstance(bench.of(ev.Answered)[0].value, exceptions.ClientClosed)
    assert bench.feed(ev.CloseClient()) == []
    bench.submit("j2")
    assert isinstance(bench.ends()["j2"], exceptions.ClientClosed)
    bench.feed(ev.LinkDown())
    assert bench.core.wake_at_ms() is None
    bench.pass_ms(100_000)
    assert bench.connects() == []


def test_close_while_greeting_closes_the_link():
    bench = Bench()
    bench.submit()
    bench.feed(ev.CloseClient())
    assert bench.of(ev.Disconnect) == [ev.Disconnect()]
    assert bench.sent_names() == []
    assert bench.core.wake_at_ms() is None


def test_close_while_waiting_has_no_link_to_close():
    bench = Bench()
    bench.submit()
    bench.feed(ev.LinkDown("connection refused"))
    bench.feed(ev.CloseClient())
    assert bench.of(ev.Disconnect) == []
    assert bench.core.wake_at_ms() is None


def test_new_work_after_a_pause_starts_without_old_patience_and_backoff():
    bench = Bench()
    bench.submit(timeout_ms=20_000)
    bench.pass_ms(20_000)
    assert "j1" in bench.ends()
    bench.pass_ms(20_000)
    bench.submit("j2")
    bench.pass_ms(1_000)
    assert bench.of(ev.Disconnect), "the first pass has the least patience"
    bench.pass_ms(50)
    assert bench.connects() == ["tcp://a:1"], "and the first wait is the shortest"


def test_same_welcome_after_a_new_hello_makes_the_session_live():
    bench = live_bench()
    bench.submit()
    bench.no_session(job="j1")
    bench.live("epoch-1", "s1")
    assert [s.job for s in bench.sent(cm.Submit)] == ["j1"]


def test_welcome_that_nobody_waits_for_is_ignored():
    bench = Bench()
    assert bench.receive(welcome()) == []
    bench.submit()
    bench.feed(ev.LinkDown("connection refused"))
    assert bench.receive(welcome()) == []
    bench.pass_ms(50)
    assert bench.connects() == ["tcp://a:1"]


def test_refusal_that_nobody_waits_for_is_ignored():
    bench = Bench()
    bench.submit()
    bench.feed(ev.LinkDown("connection refused"))
    assert bench.refuse("UNAUTHENTICATED", "bad_token") == []
    bench.pass_ms(50)
    assert bench.connects() == ["tcp://a:1"]


def test_why_no_broker_answered_is_said():
    bench = Bench()
    bench.submit("j1", timeout_ms=900)
    bench.refuse("UNAVAILABLE", "shutdown", message="the broker is stopping", retryable=True)
    bench.pass_ms(20)
    bench.submit("j2", timeout_ms=10)
    bench.pass_ms(10)
    assert "(UNAVAILABLE/shutdown: the broker is stopping)" in str(bench.ends()["j2"])
    bench.pass_ms(200)
    bench.feed(ev.LinkDown("connection refused"))
    bench.submit("j3", timeout_ms=10)
    bench.pass_ms(10)
    assert "(connection refused)" in str(bench.ends()["j3"])


def test_why_the_session_was_lost_is_said():
    bench = live_bench()
    bench.submit(timeout_ms=500)
    bench.feed(ev.LinkDown("cable cut"))
    bench.pass_ms(500)
    assert "(no session: cable cut)" in str(bench.ends()["j1"])
