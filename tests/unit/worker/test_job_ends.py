"""How a job ends, and that nothing of it stays."""

import asyncio
import gc
import os
import subprocess
import sys
import threading
from typing import Any

import dspy
import pytest
from dspy.clients.base_lm import GLOBAL_HISTORY

from dspymq.worker.executor.context import CancelToken
from dspymq.worker.executor.jobs import Watcher
from dspymq.worker.executor.progress import report_progress
from tests.unit.worker.kit import (
    FakeEngine,
    Threaded,
    Twice,
    chat,
    echo,
    job,
    outputs,
    run,
    runner,
    streamed,
)

QA = "question -> answer"


class Returns(dspy.Module):  # type: ignore[misc]
    def __init__(self, value: Any) -> None:
        super().__init__()
        self.value = value

    def forward(self) -> Any:
        if isinstance(self.value, BaseException):
            raise self.value
        return self.value


@pytest.mark.parametrize(
    ("value", "reason", "part"),
    [
        (KeyError("x"), "program_error", "KeyError: 'x'"),
        (SystemExit(1), "program_error", "SystemExit"),
        (KeyboardInterrupt(), "program_error", "KeyboardInterrupt"),
        (asyncio.CancelledError(), "program_error", "cancelled itself"),
        ("text", "program_error", "returned a str"),
        (None, "program_error", "returned a NoneType"),
        (dspy.Prediction(answer=threading.Lock()), "unserializable_output", "`answer`"),
        (dspy.Prediction(answer=1 << 80), "unserializable_output", "msgpack"),
        (dspy.Prediction(answer="x" * 3000), "result_too_large", "limit is 2000"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_bad_endings(value: Any, reason: str, part: str) -> None:
    async def test() -> None:
        made = runner(FakeEngine(echo), {"p": Returns(value)}, max_body_bytes=2000)
        outcome = await made.run(job("p", {}), CancelToken())
        assert outcome.reason == reason
        assert part in (outcome.message or "")
        assert "Traceback" not in (outcome.message or "")

    run(test)


class AsyncExit(dspy.Module):  # type: ignore[misc]
    async def aforward(self) -> Any:
        sys.exit(3)


def test_sys_exit_in_an_asynchronous_program_ends_its_job_only() -> None:
    async def test() -> None:
        made = runner(FakeEngine(echo), {"p": AsyncExit()})
        outcome = await made.run(job("p", {}), CancelToken())
        assert (outcome.reason, outcome.message) == ("program_error", "the program raised SystemExit")

    run(test)


def test_outputs_become_plain_data() -> None:
    async def test() -> None:
        import datetime
        import enum

        class Color(enum.Enum):
            RED = "red"

        value = dspy.Prediction(
            day=datetime.date(2026, 2, 3),
            color=Color.RED,
            kinds={"a"},
            pair=(1, 2),
            items=3,
            image=dspy.Image("http://127.0.0.1/x.png"),
            half="\ud83d!",
        )
        outcome = await runner(FakeEngine(echo), {"p": Returns(value)}).run(job("p", {}), CancelToken())
        assert outputs(outcome) == {
            "day": "2026-02-03",
            "color": "red",
            "kinds": ["a"],
            "pair": [1, 2],
            "items": 3,
            "image": {"url": "http://127.0.0.1/x.png"},
            "half": "\ufffd!",
        }

    run(test)


def test_fields_outside_the_signature_are_dropped() -> None:
    async def test() -> None:
        def answers(prompt: str) -> str:
            if "next_tool_name" in prompt:
                return chat(next_thought="t", next_tool_name="finish", next_tool_args="{}")
            return chat(reasoning="r", answer="a")

        made = runner(FakeEngine(answers), {"react": dspy.ReAct(QA, tools=[])})
        assert outputs(await made.run(job("react", {"question": "q"}), CancelToken())) == {"answer": "a"}

    run(test)


def test_nothing_is_kept_of_a_job() -> None:
    async def test() -> None:
        module = Twice()
        made = runner(FakeEngine(echo), {"p": module, "s": Threaded()})
        trace = len(dspy.settings.trace)
        history = len(GLOBAL_HISTORY)
        for n in range(20):
            outcome, _ = await streamed(made, job("s" if n % 2 else "p", {"question": "x" * 1000}))
            outputs(outcome)
        lm = made._lms.get(None)
        assert lm is not None
        assert (len(dspy.settings.trace), len(GLOBAL_HISTORY)) == (trace, history)
        assert (lm.lm.history, module.history, module.inner.history) == ([], [], [])

    run(test)


def test_memory_does_not_grow_with_jobs() -> None:
    async def test() -> None:
        made = runner(FakeEngine(lambda _: chat(answer="y" * 5000)), {"qa": dspy.Predict(QA)})

        async def some(count: int) -> None:
            for _ in range(count // 50):
                await asyncio.gather(*(made.run(job("qa", {"question": "x" * 5000}), CancelToken()) for _ in range(50)))

        def resident_bytes() -> int:
            gc.collect()
            with open("/proc/self/statm") as file:
                return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

        await some(500)
        before = resident_bytes()
        await some(1000)
        assert resident_bytes() - before < 8_000_000

    run(test)


def test_the_supervisors_imports_bring_no_dspy_and_the_executors_no_zmq() -> None:
    light = "dspymq.worker.executor.main, dspymq.worker.pipe, dspymq.worker.profiles, dspymq.worker.executor_spec"
    heavy = "dspymq.worker.executor.preload, dspymq.worker.executor.serve"
    for modules, forbidden in ((light, "dspy"), (heavy, "zmq"), (heavy, "litellm")):
        code = f"import {modules}, sys; sys.exit({forbidden!r} in sys.modules)"
        assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0, forbidden


def test_progress_is_told_from_threads_and_tasks() -> None:
    async def test() -> None:
        class Reporting(dspy.Module):  # type: ignore[misc]
            def forward(self) -> Any:
                report_progress(1, 3, "one")
                return dspy.Prediction(ok=True)

        seen: list[Any] = []
        watcher = Watcher(on_progress=lambda *args: seen.append(args))
        outputs(await runner(FakeEngine(echo), {"p": Reporting()}).run(job("p", {}), CancelToken(), None, watcher))
        assert seen == [(1, 3, "one")]
        report_progress(1)

    run(test)
