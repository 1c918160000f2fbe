"""Programs with bad manners: whatever they raise, return or leave behind, each call has one documented end at once."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dspymq import exceptions
from dspymq.exceptions import DspymqError
from dspymq.protocol.errors import REASONS
from tests.faults.system import PATIENCE_S, System, running_system
from tests.processes import wait_until

KINDS = [
    "mute",
    "odd",
    "long",
    "surrogate",
    "tag",
    "exit",
    "interrupt",
    "generator",
    "cancelled",
    "base",
    "stop",
    "async_stop",
    "group",
    "timeout",
    "recursion",
    "memory",
]
VALUES = [
    "none",
    "number",
    "class",
    "evil",
    "object",
    "function",
    "endless",
    "deep",
    "huge",
    "surrogate",
    "keys",
    "generator",
    "coroutine",
]
LEFT = ["thread", "task", "failing_task", "cwd", "environ", "stdout", "output", "handlers", "settings", "trace"]
HARM = ["close_all", "fork_and_leave", "stop_loop", "alarm", "exec"]


@pytest.fixture(scope="module")
def system() -> Iterator[System]:
    with running_system(processes=1, concurrency=4, targets=["tests.faults.rude"]) as made:
        yield made


@pytest.fixture(autouse=True)
def still_tidy(system: System) -> Iterator[None]:
    yield
    assert system.client.with_options(timeout_s=PATIENCE_S).call("tidy", text="and now?").text == "and now?"


def end_of(system: System, program: str, **inputs: str) -> DspymqError | None:
    """How the call ended, which it did long before its deadline."""
    job = system.client.submit(program, inputs, timeout_s=60)
    try:
        job.result(5)
    except DspymqError as error:
        return error
    return None


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("program", ["raises", "raises_in_thread"])
def test_whatever_is_raised_is_a_program_error(system: System, program: str, kind: str) -> None:
    before = system.pool.executor_pids()
    error = end_of(system, program, kind=kind)
    assert isinstance(error, exceptions.ProgramError)
    assert (error.code, error.reason) == ("UNKNOWN", "program_error")
    assert len(error.message) <= 2_000
    assert "Traceback" not in error.message
    assert system.pool.executor_pids() == before


@pytest.mark.parametrize("kind", VALUES)
def test_whatever_is_returned_is_an_answer_or_a_documented_error(system: System, kind: str) -> None:
    before = system.pool.executor_pids()
    error = end_of(system, "returns", kind=kind)
    if error is not None:
        assert error.reason in REASONS
        assert error.code == REASONS[error.reason].code
    assert system.pool.executor_pids() == before


@pytest.mark.parametrize("what", LEFT)
def test_what_is_left_behind_harms_no_later_call(system: System, what: str) -> None:
    error = end_of(system, "leaves", what=what)
    assert error is None or isinstance(error, exceptions.ProgramError), error
    for _ in range(3):
        assert system.client.with_options(timeout_s=10).call("question -> answer", question="x").answer


@pytest.mark.parametrize("how", HARM)
def test_a_process_that_harms_itself_is_replaced_at_once(system: System, tmp_path: Path, how: str) -> None:
    """Its call is run again, and answered long before any deadline."""
    began = time.monotonic()
    before = system.pool.executor_pids()
    job = system.client.submit("rude", {"how": how, "once": str(tmp_path / "once")}, timeout_s=60)
    prediction = job.result(20)
    assert prediction.attempt == 2
    assert time.monotonic() - began < 10
    wait_until(lambda: not set(before) & set(system.pool.executor_pids()), 10.0, "a replacement")
    system.pool.wait_ready(1)
