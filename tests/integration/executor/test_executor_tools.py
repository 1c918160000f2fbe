"""A real executor and the tool messages of its pipe."""

from __future__ import annotations

from pathlib import Path

import msgpack
import pytest

from dspymq.protocol import worker_messages as w
from tests.integration.executor.harness import executor
from tests.unit.worker.kit import run

PROGRAMS = """
import dspy
from dspymq.worker.executor.tools import client_tools

class Ask(dspy.Module):
    async def aforward(self):
        return dspy.Prediction(got=[await tool.acall() for tool in client_tools()])

class AskInThread(dspy.Module):
    def forward(self):
        return dspy.Prediction(got=[tool() for tool in client_tools()])

ask, ask_in_thread = Ask(), AskInThread()
"""
TOOLS = [{"name": name, "parameters": {"type": "object"}} for name in ("one", "two")]


@pytest.mark.parametrize("program", ["ask", "ask_in_thread"])
def test_calls_answers_attach_and_cancel(tmp_path: Path, program: str) -> None:
    async def test() -> None:
        async with executor(tmp_path, [], source=PROGRAMS, target="tool_sources") as child:
            ready, _ = await child.next(w.Ready)
            revision = next(offer.revision for offer in ready.programs if offer.name == program)
            header = {"revision": revision, "want": ["tools"], "attempt": 2}

            def answer(lease: str, call: int, value: object, attempt: int = 2) -> None:
                result = w.ToolResult(lease=lease, attempt=attempt, call=call, code="OK")
                child.pipe.send(result, msgpack.packb({"value": value}))

            lease = child.dispatch(program, {}, parts={"tools": TOOLS}, **header)
            call, body = await child.next(w.ToolCall)
            assert (call.lease, call.attempt, call.call, call.name, body) == (lease, 2, 0, "one", {"args": {}})
            assert 0 < call.timeout_ms <= 20_000
            child.pipe.send(w.Attach(lease=lease, want=[]))
            child.pipe.send(w.Attach(lease=lease, want=["tools"]))
            again, _ = await child.next(w.ToolCall)
            assert (again.call, again.name) == (0, "one")
            answer(lease, 0, "of an older attempt", attempt=1)
            answer(lease, 5, "of no call")
            answer(lease, 0, "first")
            answer(lease, 0, "second")
            call, _ = await child.next(w.ToolCall)
            assert (call.call, call.name) == (1, "two")
            answer(lease, 1, {"x": [1, None]})
            result, body = await child.result(lease)
            assert (result.code, body["outputs"]["got"]) == ("OK", ["first", {"x": [1, None]}])

            lease = child.dispatch(program, {}, parts={"tools": TOOLS}, **header)
            await child.next(w.ToolCall, lambda message: message.lease == lease)
            child.pipe.send(w.Cancel(lease=lease, cause="cancel", grace_ms=5_000))
            result, _ = await child.result(lease)
            assert (result.code, result.reason) == ("CANCELLED", "cancelled")

            lease = child.dispatch(program, {}, parts={"tools": TOOLS}, revision=revision)
            result, _ = await child.result(lease)
            assert (result.code, result.reason) == ("INVALID_ARGUMENT", "invalid_tools")

    run(test)
