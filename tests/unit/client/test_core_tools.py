"""Tool calls in the client's core: run once, answered in this session or the next."""

from dspymq import events as ev
from dspymq.protocol import body as bodies
from dspymq.protocol import client_messages as cm
from dspymq.protocol.limits import Limits
from dspymq.tool_calls import Answer
from tests.unit.client.core_bench import EPOCH_1, EPOCH_2, Bench, live_bench

VALUE = Answer(body=bodies.encode(value=5))


def open_job(**limits: int) -> Bench:
    bench = live_bench()
    if limits:
        bench.core.session.limits = Limits(**limits)
    bench.submit(want=["tools"])
    return bench


def call(
    bench: Bench, number: int = 0, *, attempt: int = 1, name: str = "t", job: str = "j1", **args: int
) -> list[int]:
    """The runs that the call starts."""
    bench.receive(cm.ToolCall(job=job, attempt=attempt, call=number, name=name, timeout_ms=900), args=args)
    return [called.run for called in bench.of(ev.ToolCalled)]


def answers(bench: Bench) -> list[tuple[int, int, str, bytes]]:
    return [
        (output.message.attempt, output.message.call, output.message.code, output.body)
        for output in bench.of(ev.Send)
        if isinstance(output.message, cm.ToolResult)
    ]


def answer(bench: Bench, run: int, given: Answer = VALUE) -> list[tuple[int, int, str, bytes]]:
    bench.feed(ev.AnswerTool("j1", run, given))
    return answers(bench)


def test_a_call_is_run_and_answered():
    bench = open_job()
    call(bench, x=1)
    assert bench.of(ev.ToolCalled) == [ev.ToolCalled("j1", 1, "t", bodies.encode(args={"x": 1}), 900)]
    assert answers(bench) == []
    assert answer(bench, 1) == [(1, 0, "OK", VALUE.body)]


def test_a_call_that_comes_again_is_run_once():
    bench = open_job()
    (run,) = call(bench)
    assert call(bench) == []
    assert answers(bench) == []
    answer(bench, run)
    assert call(bench) == []
    assert answers(bench) == [(1, 0, "OK", VALUE.body)]


def reconnect(bench: Bench, epoch: str) -> None:
    bench.no_session(job="j1")
    bench.live(epoch, "s2")
    assert [message.want for message in bench.sent(cm.Submit)] == [["tools"]]


def test_an_answer_without_a_session_waits_for_the_call_to_come_again():
    for epoch in (EPOCH_1, EPOCH_2):
        bench = open_job()
        (run,) = call(bench)
        bench.no_session(job="j1")
        assert answer(bench, run) == []
        bench.live(epoch, "s2")
        assert answers(bench) == []
        assert call(bench) == []
        assert answers(bench) == [(1, 0, "OK", VALUE.body)]


def test_nothing_is_answered_before_the_welcome():
    bench = open_job()
    bench.no_session(job="j1")
    assert call(bench, job="other") == []
    assert answers(bench) == []


def test_a_tool_still_runs_when_its_call_comes_again_in_another_session():
    bench = open_job()
    (run,) = call(bench)
    reconnect(bench, EPOCH_2)
    assert call(bench) == []
    assert bench.of(ev.ToolsVoid) == []
    assert answer(bench, run) == [(1, 0, "OK", VALUE.body)]


def test_another_attempt_voids_what_runs():
    bench = open_job()
    (run,) = call(bench)
    (again,) = call(bench, attempt=2)
    assert bench.of(ev.ToolsVoid) == [ev.ToolsVoid("j1")]
    assert answer(bench, run) == []
    assert call(bench, 1, attempt=1) == []
    assert answer(bench, again) == [(2, 0, "OK", VALUE.body)]


def test_a_broker_that_runs_the_job_anew_is_followed():
    bench = open_job()
    call(bench, attempt=2)
    reconnect(bench, EPOCH_2)
    (run,) = call(bench, attempt=1, x=2)
    assert answer(bench, run) == [(1, 0, "OK", VALUE.body)]


def test_every_call_is_answered_also_for_nobody():
    bench = open_job()
    assert call(bench, job="other") == []
    assert answers(bench) == [(1, 0, "NOT_FOUND", b"")]
    bench.submit("j2")
    assert call(bench, job="j2") == []
    assert answers(bench) == [(1, 0, "NOT_FOUND", b"")]
    bench.feed(ev.CancelJob("j1"))
    assert call(bench) == []
    assert answers(bench) == [(1, 0, "CANCELLED", b"")]


def test_nothing_is_answered_for_a_job_that_has_ended():
    bench = open_job()
    (run,) = call(bench)
    bench.result()
    assert answer(bench, run) == []


def test_an_answer_that_is_too_large_is_said_to_be():
    bench = open_job(max_body_bytes=4)
    (run,) = call(bench)
    assert answer(bench, run, Answer(body=b"12345")) == [(1, 0, "RESOURCE_EXHAUSTED", b"")]
    assert call(bench) == []
    assert answers(bench) == [(1, 0, "RESOURCE_EXHAUSTED", b"")]
