"""Requests and pings."""

from dspymq import events as ev
from dspymq import exceptions
from dspymq.protocol import messages as m
from tests.unit.client.core_bench import EPOCH_2, Bench, live_bench


def ask(bench: Bench, rid: str = "r1", method: str = "stats.get", timeout_ms: int = 10_000) -> None:
    bench.feed(ev.AskBroker(rid, method, b"params", timeout_ms))


def answers(bench: Bench) -> dict[str, object]:
    return {output.rid: output.value for output in bench.of(ev.Answered)}


def test_reply_answers_once():
    bench = live_bench()
    ask(bench)
    assert bench.of(ev.Send) == [ev.Send(m.Request(rid="r1", method="stats.get"), b"params")]
    bench.receive(m.Reply(rid="r1"), result={"n": 1})
    assert answers(bench) == {"r1": {"n": 1}}
    bench.receive(m.Reply(rid="r1"), result={"n": 2})
    assert answers(bench) == {}


def test_error_answers():
    bench = live_bench()
    ask(bench)
    bench.refuse("UNIMPLEMENTED", "unknown_method", rid="r1", details={"methods": ["stats.get"]})
    error = answers(bench)["r1"]
    assert isinstance(error, exceptions.Unimplemented)
    assert error.details == {"methods": ["stats.get"]}


def test_bad_reply_is_an_internal_error():
    bench = live_bench()
    ask(bench)
    bench.feed(ev.Received(m.Reply(rid="r1"), b"\xc1"))
    assert isinstance(answers(bench)["r1"], exceptions.Internal)
    ask(bench, "r2")
    bench.feed(ev.Garbled(exceptions.ProtocolError("bad_header", "no", rid="r2")))
    assert isinstance(answers(bench)["r2"], exceptions.Internal)


def test_request_is_sent_again_after_a_lost_session():
    bench = live_bench()
    ask(bench)
    bench.no_session(rid="r1")
    bench.live(EPOCH_2, "s2")
    assert bench.sent(m.Request) == [m.Request(rid="r1", method="stats.get")]


def test_request_that_makes_something_is_not_repeated():
    bench = live_bench()
    ask(bench, method="jobs.retry")
    bench.feed(ev.LinkDown())
    error = answers(bench)["r1"]
    assert isinstance(error, exceptions.Unavailable)
    assert error.reason == "session_lost"


def test_request_that_makes_something_waits_for_its_first_session():
    bench = Bench()
    ask(bench, method="jobs.retry")
    bench.feed(ev.LinkDown("connection refused"))
    bench.pass_ms(50)
    bench.live()
    assert bench.sent(m.Request) == [m.Request(rid="r1", method="jobs.retry")]


def test_request_without_answer_times_out():
    bench = live_bench()
    ask(bench)
    bench.pass_ms(10_000)
    assert isinstance(answers(bench)["r1"], exceptions.DeadlineExceeded)


def test_request_without_broker_is_unreachable():
    bench = Bench()
    ask(bench)
    bench.pass_ms(10_000)
    assert isinstance(answers(bench)["r1"], exceptions.BrokerUnreachable)


def test_ping_is_answered_by_its_own_pong():
    bench = live_bench()
    bench.feed(ev.PingBroker("p1", 1_000))
    bench.feed(ev.PingBroker("p2", 1_000))
    assert bench.sent(m.Ping) == [m.Ping(n=3)]
    bench.receive(m.Pong(n=0))
    assert answers(bench) == {}
    bench.receive(m.Pong(n=3))
    assert answers(bench) == {"p2": None}
    bench.pass_ms(1_000)
    assert isinstance(answers(bench)["p1"], exceptions.DeadlineExceeded)


def test_connect_timeout_does_not_touch_a_request_that_was_sent():
    bench = Bench(connect_timeout_ms=2_000)
    ask(bench)
    bench.live()
    bench.feed(ev.LinkDown())
    bench.pass_ms(9_999)
    assert answers(bench) == {}
    bench.pass_ms(1)
    assert isinstance(answers(bench)["r1"], exceptions.DeadlineExceeded)


def test_request_that_reached_a_broker_within_the_connect_timeout_may_take_its_time():
    bench = Bench(connect_timeout_ms=2_000)
    ask(bench)
    bench.live()
    bench.pass_ms(9_999)
    assert answers(bench) == {}
