"""A real executor process, forked and spawned, driven over its pipe as a supervisor does."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import msgpack
import msgspec
import pytest

from dspymq.protocol import worker_messages as w
from dspymq.protocol.messages import Bye, Error, Ping, Pong, Reply, Request
from dspymq.worker.profiles import local_profile
from tests.integration.executor.harness import Child, executor, profile
from tests.lm import ScriptedLM

METHODS = pytest.mark.parametrize("method", ["forkserver", "spawn"])


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(50):
            await test()

    asyncio.run(bounded())


async def revisions(child: Child) -> dict[str, str]:
    ready, _ = await child.next(w.Ready)
    return {offer.name: offer.revision for offer in ready.programs}


@METHODS
def test_ready_then_jobs_then_bye(tmp_path: Path, scripted_lm: ScriptedLM, method: str) -> None:
    async def test() -> None:
        async with executor(
            tmp_path, [profile(scripted_lm.url), profile(scripted_lm.url, "b")], method=method
        ) as child:
            ready, body = await child.next(w.Ready)
            assert (ready.worker, ready.slots, ready.profiles) == ("x1", {"default": 4}, ["default", "b"])
            offers = {offer.name: offer.revision for offer in ready.programs}
            assert sorted(offers) == ["_define", "_inline", "deaf", "qa", "stuck", "threaded"]
            assert body["programs"]["threaded"]["description"] == "Runs in a thread."
            assert body["programs"]["qa"]["inputs"]["required"] == ["question"]
            for name in ("qa", "threaded"):
                lease = child.dispatch(name, {"question": "hello"}, revision=offers[name])
                result, answer = await child.result(lease)
                assert answer == {"outputs": {"answer": "answer: hello"}}
                assert (result.code, result.attempt, result.chunks, result.revision) == ("OK", 1, 0, offers[name])
                assert result.usage is not None
                assert result.usage.calls == 1
                started = child.seen[-2][0]
                assert (started.lease, started.revision, started.worker) == (lease, offers[name], "x1")
            child.pipe.send(Ping(n=77))
            await child.next(Pong, lambda pong: pong.n == 77)
            await child.next(Ping)
            child.pipe.send(Bye())
            assert await asyncio.to_thread(child.exit_code) == 0

    run(test)


def test_a_job_that_is_refused_has_no_started(tmp_path: Path, scripted_lm: ScriptedLM) -> None:
    async def test() -> None:
        async with executor(tmp_path, [profile(scripted_lm.url)]) as child:
            offers = await revisions(child)
            result, _ = await child.result(child.dispatch("qa", {"questio": 1}, revision=offers["qa"]))
            assert (result.code, result.reason) == ("INVALID_ARGUMENT", "invalid_inputs")
            assert result.details is not None
            assert {entry["field"] for entry in result.details["fields"]} == {"question", "questio"}
            assert not any(isinstance(message, w.Started) for message, _ in child.seen)
            assert scripted_lm.requests == 0

    run(test)


def test_streams_credit_and_attach(tmp_path: Path, scripted_lm: ScriptedLM) -> None:
    async def test() -> None:
        async with executor(tmp_path, [profile(scripted_lm.url)]) as child:
            offers = await revisions(child)
            question = "#job=s #chunk=1 #token_ms=5 #tokens=20 #hang_after=60 hi"
            lease = child.dispatch(
                "qa", {"question": question}, revision=offers["qa"], want=["chunks"], window=1, attempt=2
            )
            first, body = await child.next(w.Chunk)
            assert (first.seq, first.reset, first.attempt) == (0, True, 2)
            text = body["fields"]["answer"]
            child.pipe.send(w.Credit(lease=lease, attempt=1, upto=9))  # another attempt's
            await asyncio.to_thread(scripted_lm.wait_for, lambda: scripted_lm.job("s").pieces > 50)
            child.pipe.send(Ping(n=5))
            await child.next(Pong)
            assert sum(isinstance(message, w.Chunk) for message, _ in child.seen) == 1
            child.pipe.send(w.Credit(lease=lease, attempt=2, upto=2))
            second, body = await child.next(w.Chunk)
            assert (second.seq, second.reset) == (1, False)
            text += body["fields"]["answer"]
            child.pipe.send(w.Attach(lease=lease, want=["started", "chunks"]))
            again, _ = await child.next(w.Started)
            assert again.attempt == 2
            snapshot, body = await child.next(w.Chunk)
            assert (snapshot.seq, snapshot.reset) == (2, True)
            assert body["fields"]["answer"].startswith(text)
            text = body["fields"]["answer"]

            async def release() -> None:
                while True:  # it may not have come to its hang yet
                    scripted_lm.release("s")
                    await asyncio.sleep(0.02)

            releasing = asyncio.create_task(release())
            result, answer = await child.result(lease)
            releasing.cancel()
            for message, raw in child.seen[child.seen.index((snapshot, msgpack.packb(body))) + 1 :]:
                if isinstance(message, w.Chunk):
                    assert not message.reset
                    text += msgpack.unpackb(raw)["fields"]["answer"]
            assert text == answer["outputs"]["answer"]
            assert result.chunks == 1 + max(m.seq for m, _ in child.seen if isinstance(m, w.Chunk))

    run(test)


@pytest.mark.parametrize("program", ["qa", "threaded"])
def test_cancel_reaches_the_provider(tmp_path: Path, scripted_lm: ScriptedLM, program: str) -> None:
    async def test() -> None:
        async with executor(tmp_path, [profile(scripted_lm.url)]) as child:
            offers = await revisions(child)
            lease = child.dispatch(program, {"question": "#job=h #hang"}, revision=offers[program])
            await asyncio.to_thread(scripted_lm.wait_open, "h")
            sent_s = time.monotonic()
            child.pipe.send(w.Cancel(lease=lease, cause="cancel", grace_ms=1000))
            result, _ = await child.result(lease)
            assert result.code == "CANCELLED"
            assert result.usage is not None
            assert result.usage.calls == 1
            assert await asyncio.to_thread(scripted_lm.wait_disconnected, "h") - sent_s < 1

    run(test)


def test_more_than_its_slots_is_given_back(tmp_path: Path, scripted_lm: ScriptedLM) -> None:
    async def test() -> None:
        async with executor(tmp_path, [profile(scripted_lm.url)], concurrency=2) as child:
            offers = await revisions(child)
            leases = [
                child.dispatch("qa", {"question": f"#job=c{n} #delay_ms=300"}, revision=offers["qa"]) for n in range(3)
            ]
            released, _ = await child.next(w.Released)
            assert (released.lease, released.started, released.cause) == (leases[2], False, "capacity")
            ended = {(await child.next(w.Result))[0].lease for _ in range(2)}
            assert ended == set(leases[:2])

    run(test)


def test_progress_goes_out_if_wanted(tmp_path: Path, scripted_lm: ScriptedLM) -> None:
    async def test() -> None:
        async with executor(tmp_path, [profile(scripted_lm.url)]) as child:
            revision = (await revisions(child))["threaded"]
            await child.result(child.dispatch("threaded", {"question": "q"}, revision=revision))
            assert not any(isinstance(message, w.Progress) for message, _ in child.seen)
            lease = child.dispatch("threaded", {"question": "q"}, revision=revision, want=["progress"])
            await child.result(lease)
            found = [message for message, _ in child.seen if isinstance(message, w.Progress)]
            assert found == [w.Progress(lease=lease, attempt=1, done=1, total=2, note="asking")]

    run(test)


def test_the_end_of_the_pipe_ends_the_process_even_with_a_thread_that_hangs(tmp_path: Path) -> None:
    async def test() -> None:
        async with executor(tmp_path, []) as child:
            offers = await revisions(child)
            child.dispatch("deaf", {"seconds": 60}, revision=offers["deaf"])
            await child.next(w.Started)
            child.pipe.close()
            began_s = time.monotonic()
            assert await asyncio.to_thread(child.exit_code) == 0
            assert time.monotonic() - began_s < 2

    run(test)


def test_signals_to_the_whole_group_are_the_supervisors_to_act_on(tmp_path: Path) -> None:
    async def test() -> None:
        async with executor(tmp_path, []) as child:
            await child.next(w.Ready)
            for n, number in enumerate((signal.SIGINT, signal.SIGTERM)):
                os.kill(child.process.pid, number)
                child.pipe.send(Ping(n=n))
                await child.next(Pong, lambda pong, n=n: pong.n == n)

    run(test)


@METHODS
@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("import dspy\nqa = dspy.Predict('question -> answer')\n1/0", "ZeroDivisionError"),
        ("x = 1", "exports no dspy.Module"),
    ],
)
def test_broken_programs_are_one_clear_error(tmp_path: Path, method: str, source: str, message: str) -> None:
    async def test() -> None:
        async with executor(tmp_path, [], method=method, source=source, target="broken_programs") as child:
            error, _ = await child.next(Error)
            assert (error.code, error.reason) == ("FAILED_PRECONDITION", "programs_failed")
            assert message in error.message
            assert error.details == {"target": "broken_programs"}
            assert await asyncio.to_thread(child.exit_code) == 3

    run(test)


def test_a_profile_that_cannot_be_used_is_one_too(tmp_path: Path) -> None:
    async def test() -> None:
        bad = msgspec.structs.replace(profile("http://127.0.0.1:1/v1"), model="openai/o3", temperature=0.3)
        async with executor(tmp_path, [bad]) as child:
            error, _ = await child.next(Error)
            assert error.reason == "programs_failed"
            assert "profiles.default" in error.message
            assert await asyncio.to_thread(child.exit_code) == 3

    run(test)


THREADED = """
import threading, dspy
threading.Thread(target=threading.Event().wait, daemon=True).start()
qa = dspy.Predict("question -> answer")
"""


def test_an_import_that_starts_a_thread_is_refused_when_forked_and_fine_when_spawned(tmp_path: Path) -> None:
    async def test() -> None:
        async with executor(tmp_path, [], source=THREADED, target="threaded_programs") as child:
            error, _ = await child.next(Error)
            assert error.reason == "threads_started"
            assert "threaded_programs" in error.message
            assert await asyncio.to_thread(child.exit_code) == 3
        async with executor(tmp_path, [], source=THREADED, target="threaded_programs", method="spawn") as child:
            await child.next(w.Ready)

    run(test)


def test_the_local_models_address_is_asked_over_the_pipe(tmp_path: Path, scripted_lm: ScriptedLM) -> None:
    pytest.importorskip("dspymq.worker.executor.local_adapter")

    async def test() -> None:
        async with executor(tmp_path, [local_profile()]) as child:
            offers = await revisions(child)
            lease = child.dispatch("qa", {"question": "q"}, revision=offers["qa"], profile="local")
            request, body = await child.next(Request)
            assert (request.method, body) == ("local_lm.url", {"params": {"again": False}})
            child.pipe.send(Reply(rid=request.rid), msgpack.packb({"result": {"url": scripted_lm.url}}))
            result, _ = await child.result(lease)
            assert result.code == "OK"
            assert scripted_lm.requests == 1
            child.dispatch("qa", {"question": "q"}, revision=offers["qa"], profile="local")
            await child.next(w.Result)
            assert sum(isinstance(message, Request) for message, _ in child.seen) == 1

    run(test)


def test_a_refused_address_fails_the_job(tmp_path: Path) -> None:
    pytest.importorskip("dspymq.worker.executor.local_adapter")

    async def test() -> None:
        async with executor(tmp_path, [local_profile()]) as child:
            offers = await revisions(child)
            lease = child.dispatch("qa", {"question": "q"}, revision=offers["qa"], profile="local")
            request, _ = await child.next(Request)
            refusal = Error(
                rid=request.rid, code="FAILED_PRECONDITION", reason="lm_not_configured", message="not installed"
            )
            child.pipe.send(refusal)
            result, _ = await child.result(lease)
            assert (result.reason, result.message) == ("lm_not_configured", "not installed")

    run(test)


ORPHANS = """
import asyncio, os, sys, pathlib
sys.path.insert(0, {root!r})
from dspymq.protocol import worker_messages as w
from tests.integration.executor.harness import executor

async def main():
    async with executor(pathlib.Path({folder!r}), [], method={method!r}) as child:
        ready, _ = await child.next(w.Ready)
        offers = {{offer.name: offer.revision for offer in ready.programs}}
        child.dispatch("stuck", {{"seconds": 60}}, revision=offers["stuck"])
        await child.next(w.Started)
        print(child.process.pid, flush=True)
        await asyncio.sleep(60)

if __name__ == "__main__":
    asyncio.run(main())
"""


@METHODS
def test_no_executor_outlives_a_killed_supervisor(tmp_path: Path, method: str) -> None:
    root = str(Path(__file__).parents[3])
    script = tmp_path / "supervisor.py"
    script.write_text(ORPHANS.format(root=root, folder=str(tmp_path), method=method))
    supervisor = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    try:
        assert supervisor.stdout is not None
        pid = int(supervisor.stdout.readline())
        assert is_alive(pid)
    finally:
        supervisor.kill()
        supervisor.communicate()
    until_s = time.monotonic() + 5
    while is_alive(pid):
        assert time.monotonic() < until_s, f"executor {pid} is still there"
        time.sleep(0.01)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
