"""Tools from end to end: a client offers functions, programs in a real pool call them over a real broker."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest

from dspymq import AsyncClient, Client, Tool, exceptions
from dspymq.link import ZmqTransport
from dspymq.protocol import body as bodies
from dspymq.protocol import client_messages as cm
from tests.faults.peers import RawClient
from tests.lm import ScriptedLM
from tests.processes import RunningBroker, RunningPool, running_broker, running_pool, wait_until

PROGRAMS = "tests.integration.tool_programs"
ADD = '#tools=add,add #args.add={"a": 2, "b": 3}'


class System:
    def __init__(self, lm: ScriptedLM, broker: RunningBroker, pool: RunningPool) -> None:
        self.lm = lm
        self.broker = broker
        self.pool = pool

    def idle(self) -> None:
        """Wait until no executor has a job."""
        wait_until(lambda: not sum(one["in_flight"] for one in self.pool.executors()), 10, "an idle pool")


@pytest.fixture(scope="module")
def system() -> Iterator[System]:
    with (
        ScriptedLM() as lm,
        running_broker() as broker,
        running_pool(broker, targets=[PROGRAMS], lm=lm, processes=2, environ={"DSPYMQ_BEAT_MS": "100"}) as pool,
    ):
        yield System(lm, broker, pool)


def run(system: System, test: Callable[[AsyncClient], Awaitable[None]], **options: Any) -> None:
    async def main() -> None:
        async with asyncio.timeout(50), AsyncClient(system.broker.clients, timeout_s=30, **options) as client:
            await test(client)

    asyncio.run(main())


class Adder:
    """A tool that counts its calls; with `hold` it waits until `go`."""

    def __init__(self, *, hold: bool = False) -> None:
        self.calls: list[tuple[int, int]] = []
        self.called = asyncio.Event()
        self.go = asyncio.Event()
        self.stopped = False
        if not hold:
            self.go.set()

    async def add(self, a: int, b: int) -> int:
        """The sum of two numbers."""
        self.calls.append((a, b))
        self.called.set()
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.stopped = True
            raise
        return a + b


def test_react_with_functions_of_the_client(system: System) -> None:
    async def test(client: AsyncClient) -> None:
        adder = Adder()

        def twice(x: int) -> int:
            return 2 * x

        agent = client.with_options(tools=[adder.add, twice], kind="react", instructions="Use the tools.")
        question = '#job=react #tools=add,twice #args.add={"a": 2, "b": 3} #args.twice={"x": 21} #answer.answer=done'
        prediction = await agent.call("question -> answer", question=question)
        assert dict(prediction) == {"answer": "done"}
        assert adder.calls == [(2, 3)]
        prompts = system.lm.job("react").texts
        assert "[[ ## observation_0 ## ]]\n5" in prompts[1]
        assert "[[ ## observation_1 ## ]]\n42" in prompts[2]

    run(system, test)


@pytest.mark.parametrize("program", ["agent", "thread_agent"])
def test_programs_of_the_worker_get_the_tools_of_a_sync_client(system: System, program: str) -> None:
    calls: list[tuple[int, int]] = []

    def add(a: int, b: int) -> int:
        """The sum of two numbers."""
        assert threading.current_thread() is not threading.main_thread()
        calls.append((a, b))
        return a + b

    with Client(system.broker.clients, timeout_s=30) as client:
        question = f"#job={program} {ADD} #answer.answer=done"
        assert client.with_options(tools=[add]).call(program, question=question).answer == "done"
        job = client.submit("ask", {"args": {"a": 1, "b": 1}}, tools=[Tool("plus", add)])
        assert job.result().got == [2]
    assert calls == [(2, 3), (2, 3), (1, 1)]
    assert "[[ ## observation_1 ## ]]\n5" in system.lm.job(program).texts[2]


def test_without_tools_a_program_has_none(system: System) -> None:
    run(system, lambda client: _has_none(client))


async def _has_none(client: AsyncClient) -> None:
    assert (await client.call("ask", args={})).got == []


def test_a_tool_that_raises_is_a_short_line_to_the_model(system: System) -> None:
    async def test(client: AsyncClient) -> None:
        def add(a: int, b: int) -> int:
            raise LookupError("no such number")

        question = f"#job=raises {ADD} #answer.answer=done"
        for program in ("agent", "thread_agent", "question -> answer"):
            options = {"tools": [add], "kind": "react"}
            assert (await client.submit(program, {"question": question}, **options)).answer == "done"
        prompts = system.lm.job("raises").texts
        assert sum("the tool `add` failed: LookupError: no such number" in prompt for prompt in prompts) == 9
        assert not any('File "' in prompt or "Traceback" in prompt for prompt in prompts)

    run(system, test)


def test_arguments_that_do_not_fit_never_leave_the_worker(system: System) -> None:
    async def test(client: AsyncClient) -> None:
        adder = Adder()
        for args, words in (({"a": 1}, "`b` is required"), ({"a": 1, "b": 2, "c": 3}, "no argument `c`")):
            (got,) = (await client.submit("ask", {"args": args}, tools=[adder.add])).got
            assert words in got
        assert adder.calls == []

    run(system, test)


def test_a_tool_that_takes_longer_than_its_timeout(system: System) -> None:
    async def test(client: AsyncClient) -> None:
        adder = Adder(hold=True)
        tools = [Tool("add", adder.add, timeout_s=0.2), Tool("plus", Adder().add)]
        prediction = await client.submit("ask", {"args": {"a": 1, "b": 2}}, tools=tools)
        assert prediction.got == ["error: the tool `add` gave no answer within 200 ms", 3]
        assert adder.stopped

    run(system, test)


def test_a_tool_without_timeout_waits_for_as_long_as_the_job_has(system: System) -> None:
    async def test(client: AsyncClient) -> None:
        adder = Adder(hold=True)
        job = client.submit("ask", {"args": {"a": 1, "b": 2}}, tools=[adder.add], timeout_s=0.7)
        with pytest.raises(exceptions.DeadlineExceeded):
            await job
        assert adder.stopped

    run(system, test)
    system.idle()


@pytest.mark.parametrize("program", ["ask", "ask_in_thread"])
def test_cancel_while_waiting_works_at_once(system: System, program: str) -> None:
    async def test(client: AsyncClient) -> None:
        adder = Adder(hold=True)
        job = client.submit(program, {"args": {"a": 1, "b": 2}}, tools=[adder.add])
        await adder.called.wait()
        loop = asyncio.get_running_loop()
        began = loop.time()
        job.cancel()
        with pytest.raises(exceptions.Cancelled):
            await job
        assert loop.time() - began < 2
        await asyncio.sleep(0)
        assert adder.stopped

    run(system, test)
    system.idle()


def test_a_client_that_goes_away_leaves_nothing_running(system: System) -> None:
    async def test(client: AsyncClient) -> None:
        adder = Adder(hold=True)
        client.submit("ask", {"args": {"a": 1, "b": 2}}, tools=[adder.add])
        await adder.called.wait()

    run(system, test)
    system.idle()


class CutTransport(ZmqTransport):
    """ZeroMQ connections that a test can break."""

    def connect(self, address: str, on_frames: Any, on_down: Any) -> Any:
        self.on_down = on_down
        return super().connect(address, on_frames, on_down)

    def cut(self) -> None:
        self.on_down("cut by the test")


def test_a_client_that_reconnects_between_call_and_answer_runs_its_tool_once(system: System) -> None:
    transport = CutTransport()

    async def test(client: AsyncClient) -> None:
        adder = Adder(hold=True)
        job = client.submit("ask", {"args": {"a": 1, "b": 2}}, tools=[adder.add, Tool("plus", adder.add)])
        await adder.called.wait()
        transport.cut()
        await client.ping()
        adder.go.set()
        prediction = await job
        assert (prediction.got, prediction.attempt) == ([3, 3], 1)
        assert adder.calls == [(1, 2)] * 2

    run(system, test, transport=transport)


def test_an_answer_that_is_ready_while_there_is_no_connection_is_sent_afterwards(system: System) -> None:
    transport = CutTransport()

    async def test(client: AsyncClient) -> None:
        adder = Adder(hold=True)
        job = client.submit("ask", {"args": {"a": 1, "b": 2}}, tools=[adder.add])
        await adder.called.wait()
        adder.go.set()
        transport.cut()
        assert not client.driver.core.session.live
        assert (await job).got == [3]
        assert adder.calls == [(1, 2)]

    run(system, test, transport=transport)


def test_another_client_takes_over_the_open_call(system: System) -> None:
    async def test(client: AsyncClient) -> None:
        first, second = Adder(hold=True), Adder()
        job = client.submit("ask", {"args": {"a": 1, "b": 2}}, tools=[first.add], on_disconnect="keep")
        await first.called.wait()
        async with AsyncClient(system.broker.clients, tools=[second.add]) as other:
            assert (await other.attach(job.id)).got == [3]
        with pytest.raises(exceptions.Aborted):
            await job
        assert (first.calls, second.calls) == ([(1, 2)], [(1, 2)])
        await asyncio.sleep(0)
        assert first.stopped

    run(system, test)


def test_an_executor_that_dies_makes_another_attempt_with_calls_of_its_own(system: System) -> None:
    async def test(client: AsyncClient) -> None:
        adder = Adder(hold=True)
        job = client.submit("ask", {"args": {"a": 1, "b": 2}}, tools=[adder.add], watch=["started"])
        await adder.called.wait()
        adder.called.clear()
        assert job.worker is not None
        os.kill(await asyncio.to_thread(system.pool.pid_of, job.worker), signal.SIGKILL)
        await adder.called.wait()
        assert adder.stopped
        adder.go.set()
        prediction = await job
        assert (prediction.got, prediction.attempt) == ([3], 2)
        assert adder.calls == [(1, 2)] * 2

    run(system, test)
    system.pool.wait_ready(2)


def test_a_stream_holds_the_answer_and_nothing_of_the_tools(system: System) -> None:
    async def test(client: AsyncClient) -> None:
        adder = Adder()
        question = f"{ADD} #tokens=60 #chunk=5"
        job = client.submit("question -> answer", {"question": question}, stream=True, tools=[adder.add], kind="react")
        text = "".join([chunk.text async for chunk in job])
        assert text == (await job).answer
        assert set(job.text) == {"answer"}
        assert len(adder.calls) == 2

    run(system, test)


def test_many_jobs_with_tools_at_once(system: System) -> None:
    async def test(client: AsyncClient) -> None:
        async def add(a: int, b: int) -> int:
            await asyncio.sleep(0.01)
            return a + b

        view = client.with_options(tools=[add])
        jobs = [view.submit("ask", {"args": {"a": n, "b": 1}}) for n in range(100)]
        assert [(await job).got for job in jobs] == [[n + 1] for n in range(100)]

    run(system, test)


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ({"tools": [{"name": "t"}]}, "invalid_tools"),
        ({"spec": {"signature": "q -> a", "kind": "react"}}, "invalid_tools"),
    ],
)
def test_tools_of_a_body_that_are_wrong_end_the_job(system: System, parts: dict[str, Any], reason: str) -> None:
    program = "_inline" if "spec" in parts else "ask"
    with RawClient(system.broker.clients) as client:
        client.hello()
        client.send(
            cm.Submit(job=f"wrong-{program}", program=program, timeout_ms=10_000, want=["tools"]),
            bodies.encode(inputs={"q": "x"} if "spec" in parts else {"args": {}}, **parts),
        )
        result, _ = client.expect(cm.Result)
        assert (result.code, result.reason) == ("INVALID_ARGUMENT", reason)


def test_tools_that_nobody_would_answer_end_the_job(system: System) -> None:
    with RawClient(system.broker.clients) as client:
        client.hello()
        body = bodies.encode(inputs={"args": {}}, tools=[{"name": "t", "parameters": {"type": "object"}}])
        client.send(cm.Submit(job="no-want", program="ask", timeout_ms=10_000), body)
        result, _ = client.expect(cm.Result)
        assert (result.code, result.reason) == ("INVALID_ARGUMENT", "invalid_tools")


def test_a_second_answer_and_those_to_no_call_are_ignored(system: System) -> None:
    with RawClient(system.broker.clients) as client:
        client.hello()
        tool = {"name": "t", "parameters": {"type": "object", "properties": {"a": {}}}}
        body = bodies.encode(inputs={"args": {"a": 1}}, tools=[tool, {**tool, "name": "u"}])
        client.send(cm.Submit(job="twice", program="ask", timeout_ms=10_000, want=["tools"]), body)

        def answer(call: int, value: Any, **fields: Any) -> None:
            result = {"job": "twice", "attempt": 1, "call": call, "code": "OK", **fields}
            client.send(cm.ToolResult(**result), bodies.encode(value=value))

        first, _ = client.expect(cm.ToolCall)
        assert (first.call, first.name, first.attempt) == (0, "t", 1)
        assert 0 < first.timeout_ms <= 10_000
        answer(7, "of no call")
        answer(0, "of another attempt", attempt=2)
        answer(0, "first")
        answer(0, "second")
        second, _ = client.expect(cm.ToolCall)
        assert (second.call, second.name) == (1, "u")
        answer(0, "third")
        answer(1, None, code="UNKNOWN", message="broken")
        message, result = client.expect(cm.Result)
        assert message.code == "OK"
        assert bodies.decode(result)["outputs"]["got"] == ["first", "error: the tool `u` failed: broken"]


def free_address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"tcp://127.0.0.1:{probe.getsockname()[1]}"


@contextlib.asynccontextmanager
async def broker_at(clients: str, workers: str) -> AsyncIterator[RunningBroker]:
    with contextlib.ExitStack() as stack:
        starting = asyncio.to_thread(stack.enter_context, running_broker(clients=clients, workers=workers))
        yield await starting


def test_a_broker_that_is_restarted_between_call_and_answer_costs_no_second_run() -> None:
    clients, workers = free_address(), free_address()

    async def test(system: System, adders: list[Adder]) -> None:
        async with asyncio.timeout(50), AsyncClient(clients, timeout_s=40) as client:
            jobs = [client.submit("ask", {"args": {"a": 1, "b": 2}}, tools=[adder.add]) for adder in adders]
            for adder in adders:
                await adder.called.wait()
            await asyncio.to_thread(system.broker.process.kill)
            # One of them is done while there is no broker.
            adders[0].go.set()
            async with broker_at(clients, workers):
                await client.ping(timeout_s=20)
                for adder in adders:
                    adder.go.set()
                for job in jobs:
                    prediction = await job
                    assert (prediction.got, prediction.attempt) == ([3], 1)
                assert [adder.calls for adder in adders] == [[(1, 2)]] * 3

    with (
        ScriptedLM() as lm,
        running_broker(clients=clients, workers=workers) as broker,
        running_pool(broker, targets=[PROGRAMS], lm=lm) as pool,
    ):
        asyncio.run(test(System(lm, broker, pool), [Adder(hold=True) for _ in range(3)]))
