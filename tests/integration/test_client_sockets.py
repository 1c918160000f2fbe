"""The client over real sockets, against a scripted ROUTER: connecting, reconnecting, failing over, ending."""

import asyncio
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator

import pytest

from dspymq import AsyncClient, Client, exceptions
from dspymq.link import ZmqTransport
from dspymq.protocol import client_messages as cm
from dspymq.protocol import messages as m
from dspymq.testing import FakeBroker
from tests.integration.client_router import RouterFront, until


def upper(question: str) -> dict[str, str]:
    return {"answer": question.upper()}


def letters(question: str) -> Iterator[dict[str, str]]:
    for letter in question:
        yield {"answer": letter}
    return {"answer": question}


async def never(question: str) -> dict[str, str]:
    await asyncio.Event().wait()
    return {}


def fake() -> FakeBroker:
    return FakeBroker({"qa": upper, "letters": letters, "never": never})


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def run(main) -> None:
    asyncio.run(asyncio.wait_for(main(), 40))


def test_call_stream_and_large_bodies():
    async def main() -> None:
        broker = fake()
        async with RouterFront(broker) as front, AsyncClient(front.address) as client:
            assert (await client.call("qa", question="x")).answer == "X"
            job = client.stream("letters", question="abc" * 200)
            assert "".join([chunk.text async for chunk in job]) == "abc" * 200
            large = "y" * 5_000_000
            assert (await client.call("qa", question=large)).answer == large.upper()
            await until(lambda: sum(len(ack.jobs) for ack in broker.seen(cm.Ack)) == 3)
        await until(lambda: len(broker.seen(m.Bye)) == 1)

    run(main)


def test_hundreds_in_flight():
    async def main() -> None:
        broker = fake()
        async with RouterFront(broker) as front, AsyncClient(front.address) as client:
            inputs = [{"question": f"q{n}"} for n in range(2_000)]
            answers = [p.answer async for p in client.map("qa", inputs, concurrency=500)]
            assert answers == [f"Q{n}" for n in range(2_000)]

    run(main)


def test_no_broker_there_is_one_clear_line_in_time():
    async def main() -> None:
        a, b = f"tcp://127.0.0.1:{free_port()}", f"tcp://127.0.0.1:{free_port()}"
        async with AsyncClient([a, b], connect_timeout_s=0.5) as client:
            began = time.monotonic()
            with pytest.raises(exceptions.BrokerUnreachable) as caught:
                await client.call("qa", question="x")
            assert 0.4 < time.monotonic() - began < 2
            assert str(caught.value) == (
                f"UNAVAILABLE/broker_unreachable: no broker answered at {a}, {b} (connection refused)"
            )

    run(main)


def test_call_without_connect_timeout_waits_for_its_own():
    async def main() -> None:
        async with AsyncClient(f"127.0.0.1:{free_port()}") as client:
            with pytest.raises(exceptions.BrokerUnreachable):
                await client.with_options(timeout_s=0.3).call("qa", question="x")

    run(main)


def test_names_that_do_not_resolve_are_unreachable():
    async def main() -> None:
        async with AsyncClient("tcp://no-such-host.invalid:5570", connect_timeout_s=0.3) as client:
            with pytest.raises(exceptions.BrokerUnreachable, match=r"no-such-host\.invalid"):
                await client.ping()

    run(main)


def test_address_that_zmq_refuses_is_unreachable_and_says_why():
    async def main() -> None:
        async with AsyncClient("carrier-pigeon://loft", connect_timeout_s=0.3) as client:
            with pytest.raises(exceptions.BrokerUnreachable, match="Protocol not supported"):
                await client.ping()

    run(main)


def test_broker_that_comes_later_is_found():
    async def main() -> None:
        address = f"tcp://127.0.0.1:{free_port()}"
        async with AsyncClient(address) as client:
            job = client.submit("qa", {"question": "late"})
            with pytest.raises(TimeoutError):
                await job.result(timeout_s=0.3)
            broker = fake()
            async with RouterFront(broker, address):
                assert (await job.result(timeout_s=10)).answer == "LATE"
                # Nothing stale was queued for it.
                assert [type(message) for message in broker.received] == [m.Hello, cm.Submit]

    run(main)


def test_restarted_broker_gets_the_job_again_long_before_silence_would_show():
    async def main() -> None:
        first = fake()
        async with RouterFront(first) as front:
            address = front.address
            client = AsyncClient(address)
            await client.call("qa", question="warm up")
            job = client.submit("never", {"question": "x"}, timeout_s=30)
            await until(lambda: len(first.seen(cm.Submit)) == 2)
        second = FakeBroker({"never": upper})
        async with RouterFront(second, address):
            began = time.monotonic()
            assert (await job.result(timeout_s=10)).answer == "X"
            assert time.monotonic() - began < 5
            assert [s.known_epoch for s in second.seen(cm.Submit)] == [first.epoch]
            await client.close()

    run(main)


@pytest.mark.parametrize("count", [20, 600])
def test_results_that_arrive_just_before_the_connection_ends_are_not_lost(count):
    async def main() -> None:
        broker = FakeBroker()
        front = RouterFront(broker)
        answers = []

        def die() -> None:
            # The results are on their way, and the client, on this same loop, has read none of them; 600 are more
            # than one round of its reading.
            time.sleep(0.1)
            front.close()

        def answer_all_at_once(message, _):
            if not isinstance(message, cm.Submit):
                return None
            answers.append((cm.Result(job=message.job, attempt=1, code="OK"), b""))
            if len(answers) < count:
                return []
            asyncio.get_running_loop().call_soon(die)
            return answers

        broker.intercept = answer_all_at_once
        async with AsyncClient(front.address) as client:
            jobs = [client.submit("qa", timeout_s=5) for _ in range(count)]
            for job in jobs:
                assert (await job.result(timeout_s=8)).job == job.id

    run(main)


@pytest.mark.parametrize("first", ["refuses", "silent", "http"])
def test_failover_to_the_next_address(first):
    async def main() -> None:
        async def speak_http(reader, writer):
            await reader.read(10)
            writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n" * 10)
            await writer.drain()
            writer.close()

        async def say_nothing(reader, writer):
            await reader.read()
            writer.close()

        server = None
        if first == "refuses":
            bad = f"tcp://127.0.0.1:{free_port()}"
        else:
            server = await asyncio.start_server(say_nothing if first == "silent" else speak_http, "127.0.0.1", 0)
            bad = f"tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with RouterFront(fake()) as front, AsyncClient([bad, front.address]) as client:
            began = time.monotonic()
            assert (await client.call("qa", question="x")).answer == "X"
            assert time.monotonic() - began < 4
            assert client.address == front.address
        if server is not None:
            server.close()

    run(main)


def test_reconnecting_leaks_no_file_descriptors():
    async def main() -> None:
        def open_files() -> int:
            return len(os.listdir("/proc/self/fd"))

        async with AsyncClient(f"127.0.0.1:{free_port()}", connect_timeout_s=20) as client:
            connects = 0
            transport = client.driver._transport
            real = transport.connect

            def counting(*args):
                nonlocal connects
                connects += 1
                return real(*args)

            transport.connect = counting
            task = asyncio.create_task(client.ping())
            await until(lambda: connects == 3)
            before = open_files()
            await until(lambda: connects == 9, 20)
            assert open_files() <= before + 8
            task.cancel()

    run(main)


def test_closing_in_the_middle_of_refusals_never_blocks():
    async def main() -> None:
        address = f"tcp://127.0.0.1:{free_port()}"
        transport = ZmqTransport()
        for number in range(1_500):
            link = transport.connect(address, lambda frames: None, lambda reason: None)
            # A refusal takes some 0.1 ms here: before, amid and after it.
            spin_until = time.perf_counter() + number % 30 * 0.00001
            while time.perf_counter() < spin_until:
                pass
            link.close()
            if number % 10 == 0:
                await asyncio.sleep(0)
        await transport.aclose()

    run(main)


class Child:
    """A Python program that uses a client, as a process of its own."""

    def __init__(self, code: str, *args: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(code), *args],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    async def end(self, timeout_s: float = 10) -> tuple[int, str, str]:
        out, err = await asyncio.to_thread(self.process.communicate, timeout=timeout_s)
        return self.process.returncode, out, err

    def __enter__(self) -> "Child":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()


def test_interpreter_ends_at_once_and_says_bye_although_nobody_closed():
    code = """
        import sys
        from dspymq import Client
        client = Client(sys.argv[1])
        print(client.call("qa", question="x").answer)
        job = client.submit("never", {"question": "x"})
    """

    async def main() -> None:
        broker = fake()
        async with RouterFront(broker) as front:
            with Child(code, front.address) as child:
                assert await child.end() == (0, "X\n", "")
            await until(lambda: len(broker.seen(m.Bye)) == 1)
            assert [len(ack.jobs) for ack in broker.seen(cm.Ack)] == [1]

    run(main)


def test_interpreter_ends_at_once_without_a_broker():
    code = """
        import sys
        from dspymq import Client
        client = Client(sys.argv[1])
        client.submit("never", {"question": "x"})
    """

    async def main() -> None:
        with Child(code, f"127.0.0.1:{free_port()}") as child:
            assert await child.end() == (0, "", "")

    run(main)


def test_ctrl_c_in_a_call_cancels_the_job():
    code = """
        import sys
        from dspymq import Client
        client = Client(sys.argv[1])
        try:
            client.call("never", question="x")
        except KeyboardInterrupt:
            print("interrupted")
    """

    async def main() -> None:
        broker = fake()
        async with RouterFront(broker) as front:
            with Child(code, front.address) as child:
                await until(lambda: len(broker.seen(cm.Submit)) == 1)
                child.process.send_signal(signal.SIGINT)
                assert await child.end() == (0, "interrupted\n", "")
            await until(lambda: len(broker.seen(cm.Cancel)) == 1)

    run(main)


def _use_in_child(client: Client, queue) -> None:
    try:
        client.call("qa", question="x")
    except exceptions.FailedPrecondition as error:
        queue.put(error.reason)


def test_fork_with_open_sockets_harms_neither_side():
    async def main() -> None:
        async with RouterFront(fake()) as front:
            client = Client(front.address)
            assert (await asyncio.to_thread(client.call, "qa", question="x")).answer == "X"
            context = multiprocessing.get_context("fork")
            queue = context.SimpleQueue()
            child = context.Process(target=_use_in_child, args=(client, queue))
            child.start()
            assert await asyncio.to_thread(queue.get) == "forked"
            await asyncio.to_thread(child.join, 10)
            assert child.exitcode == 0
            assert (await asyncio.to_thread(client.call, "qa", question="y")).answer == "Y"
            await asyncio.to_thread(client.close)

    run(main)


def test_fork_inherits_an_idle_interpreter_that_ends():
    code = """
        import os, sys
        from dspymq import Client
        client = Client(sys.argv[1])
        client.call("qa", question="x")
        pid = os.fork()
        if pid == 0:
            sys.exit(7)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), client.call("qa", question="y").answer)
    """

    async def main() -> None:
        async with RouterFront(fake()) as front:
            with Child(code, front.address) as child:
                assert await child.end() == (0, "7 Y\n", "")

    run(main)


def test_async_client_that_nobody_closed_lets_the_interpreter_end():
    code = """
        import asyncio, sys
        from dspymq import AsyncClient

        async def main():
            client = AsyncClient(sys.argv[1])
            job = client.submit("never", {"question": "x"})
            print((await client.call("qa", question="x")).answer)

        asyncio.run(main())
    """

    async def main() -> None:
        async with RouterFront(fake()) as front:
            with Child(code, front.address) as child:
                assert await child.end() == (0, "X\n", "")

    run(main)
