"""Tool calls through the pool: passed on by lease, and asked for again where they may have been lost."""

from dspymq.protocol import worker_messages as w
from dspymq.worker.supervisor import effects as ef
from dspymq.worker.supervisor.pool import FEATURES
from tests.unit.worker.pool_rig import Rig


def tool_call(rig: Rig, executor: str, lease: str = "L1", call: int = 0) -> None:
    rig.executor(executor, w.ToolCall(lease=lease, attempt=1, call=call, name="t", timeout_ms=1_000), b"args")


def with_job(want: list[str]) -> tuple[Rig, str]:
    rig = Rig().running()
    return rig, rig.start_job("L1", want=want)


def test_the_pool_says_that_it_takes_tools() -> None:
    assert "tools" in FEATURES


def test_a_call_goes_to_the_broker_and_its_answer_to_the_executor() -> None:
    rig, executor = with_job(["tools"])
    tool_call(rig, executor)
    (effect,) = rig.effects
    assert isinstance(effect, ef.ToBroker)
    assert (effect.message.lease, effect.body) == ("L1", b"args")
    answer = w.ToolResult(lease="L1", attempt=1, call=0, code="OK")
    assert rig.broker(answer, b"value") == [ef.ToExecutor(executor, answer, b"value")]


def test_an_answer_for_a_lease_that_is_not_here_goes_nowhere() -> None:
    rig, executor = with_job(["tools"])
    assert rig.broker(w.ToolResult(lease="L2", attempt=1, call=0, code="OK")) == []
    rig.finish(executor, "L1")
    assert rig.broker(w.ToolResult(lease="L1", attempt=1, call=0, code="OK")) == []


def test_an_attach_of_the_client_reaches_the_program() -> None:
    rig, executor = with_job([])
    rig.broker(w.Attach(lease="L1", want=["tools"]))
    assert rig.told(w.Attach) == [(executor, w.Attach(lease="L1", want=["tools"]))]


def test_calls_that_were_lost_with_the_session_are_asked_for_again() -> None:
    rig, executor = with_job(["tools"])
    rig.session_again()
    tool_call(rig, executor)
    assert rig.sent(w.ToolCall) == []
    rig.broker(w.Synced(keep=["L1"]))
    assert rig.told(w.Attach) == [(executor, w.Attach(lease="L1", want=["tools"]))]


def test_nothing_of_a_dropped_lease_is_sent() -> None:
    rig, executor = with_job(["tools"])
    rig.resync(keep=[])
    tool_call(rig, executor)
    assert rig.sent(w.ToolCall) == []
