"""A real pool, its processes and their ends, against a peer that speaks the broker's side of the protocol."""

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dspymq.protocol import body
from dspymq.protocol import worker_messages as w
from dspymq.protocol.messages import Bye, Hello
from tests.integration.pool_peer import PROGRAMS, Peer, PoolProcess, is_alive, session_of, wait_until_gone

StartPool = Callable[..., PoolProcess]


@pytest.fixture
def peer() -> Iterator[Peer]:
    peer = Peer()
    yield peer
    peer.close()


@pytest.fixture
def start_pool(tmp_path: Path, peer: Peer) -> Iterator[StartPool]:
    pools: list[PoolProcess] = []

    def start(address: str | list[str] | None = None, **settings: object) -> PoolProcess:
        pools.append(PoolProcess(tmp_path, address or peer.address, **settings))
        return pools[-1]

    yield start
    for pool in pools:
        pool.close()


def only_executor(peer: Peer) -> int:
    pid: int = peer.executors()[0]["pid"]
    return pid


def test_a_pool_runs_jobs_and_drains_without_ever_importing_dspy(peer: Peer, start_pool: StartPool) -> None:
    pool = start_pool(processes=2)
    peer.welcome_pool(8)
    assert peer.ready is not None
    assert {offer.name for offer in peer.ready.programs} >= {"echo", "nap", "_inline"}
    assert len(peer.ready_body["programs"]) == 6
    leases = [peer.dispatch("echo", text=f"text {n}") for n in range(8)]
    outputs = [peer.result(lease)[1] for lease in leases]
    assert [output["text"] for output in outputs] == [f"text {n}" for n in range(8)]
    assert {output["pid"] for output in outputs} == {executor["pid"] for executor in peer.executors()}
    began = time.monotonic()
    pool.terminate()
    peer.expect(Bye)
    assert pool.wait() == 0
    assert time.monotonic() - began < 3
    assert json.loads(pool.output()) == {"dspy": []}


def test_a_thousand_jobs_over_two_executors_are_each_answered_once(peer: Peer, start_pool: StartPool) -> None:
    start_pool(processes=2, concurrency=8)
    peer.welcome_pool(16)
    waiting = {peer.dispatch("echo", text=str(n)): str(n) for n in range(16)}
    sent, answered = 16, 0
    while waiting:
        message, payload = peer.expect_with_body(w.Result)
        assert (body.decode(payload)["outputs"])["text"] == waiting.pop(message.lease)
        peer.send(w.Ack(leases=[message.lease]))
        answered += 1
        if sent < 1_000:
            waiting[peer.dispatch("echo", text=str(sent))] = str(sent)
            sent += 1
    assert answered == 1_000
    assert not [m for m, _ in peer.seen if isinstance(m, w.Released)]


def test_a_killed_executor_is_replaced_in_a_moment(peer: Peer, start_pool: StartPool) -> None:
    start_pool()
    peer.welcome_pool(4)
    lease = peer.dispatch_with({"want": ["started"]}, "nap", ms=60_000)
    peer.expect(w.Started)
    began = time.monotonic()
    os.kill(only_executor(peer), signal.SIGKILL)
    released = peer.released(lease)
    assert (released.started, released.cause, released.blame) == (True, "crash", "self")
    assert released.details is not None
    assert released.details["exit_code"] == -signal.SIGKILL
    peer.until_slots(4)
    assert time.monotonic() - began < 1.0
    assert peer.slots[-2:] == [0, 4], "the loss was told before the job was given back"
    assert peer.result(peer.dispatch("echo", text="again"))[1]["text"] == "again"


def test_what_an_executor_wrote_before_it_died_arrives(peer: Peer, start_pool: StartPool, tmp_path: Path) -> None:
    """A death that overtakes a result would run the job twice."""
    (tmp_path / "last_words.py").write_text(
        PROGRAMS
        + """
class LastWords(dspy.Module):
    async def aforward(self, size: int) -> dict:
        loop = asyncio.get_running_loop()
        loop.call_later(0.02, os.kill, os.getpid(), signal.SIGKILL)
        return dspy.Prediction(text="x" * size)
last_words = LastWords()
"""
    )
    start_pool(targets=["last_words"])
    peer.welcome_pool(4)
    for _ in range(10):
        lease = peer.dispatch("last_words", size=100_000)
        pid = only_executor(peer)
        assert len(peer.result(lease)[1]["text"]) == 100_000
        while only_executor(peer) == pid or peer.executors()[0]["state"] != "ready":
            assert peer.pump(10.0) is not None
    assert not [m for m, _ in peer.seen if isinstance(m, w.Released)]


@pytest.mark.parametrize("start_method", ["forkserver", "spawn"])
def test_nothing_outlives_a_killed_supervisor(peer: Peer, start_pool: StartPool, start_method: str) -> None:
    pool = start_pool(processes=2, start_method=start_method)
    peer.welcome_pool(8)
    # One loop that hangs, one thread that cannot be stopped: neither sees the end of its pipe.
    peer.dispatch("hog", ms=60_000)
    peer.dispatch("deaf", ms=60_000)
    family = session_of(pool.pid)
    assert len(family) >= 4, "supervisor, resource tracker, two executors, perhaps a fork server"
    pool.process.kill()
    pool.wait()
    assert wait_until_gone(family, 3.0) == []


def test_a_dead_fork_server_is_replaced_with_its_executors(peer: Peer, start_pool: StartPool) -> None:
    pool = start_pool(processes=2)
    peer.welcome_pool(8)
    executors = {executor["pid"] for executor in peer.executors()}
    parents = {int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]) for pid in executors}
    assert len(parents) == 1
    os.kill(parents.pop(), signal.SIGKILL)
    peer.until_slots(0)
    peer.until_slots(8)
    assert not executors & {executor["pid"] for executor in peer.executors()}
    assert not [pid for pid in executors if is_alive(pid)]
    assert peer.result(peer.dispatch("echo", text="x"))[0].code == "OK"
    pool.terminate()
    assert pool.wait() == 0


def test_a_job_that_cannot_be_stopped_costs_only_its_process(peer: Peer, start_pool: StartPool) -> None:
    start_pool(cancel_grace_ms=300, grace_ms=20_000)
    peer.welcome_pool(4)
    first = only_executor(peer)
    neighbour = peer.dispatch("nap", ms=1_500)
    deaf = peer.dispatch("deaf", timeout_ms=200, ms=60_000)
    # The replacement's four slots, and the two that the condemned executor's jobs still take.
    peer.until_slots(6)
    assert {e["pid"]: e["state"] for e in peer.executors()}[first] == "condemned"
    assert peer.result(peer.dispatch("echo", text="x"))[1]["pid"] != first
    message, outputs = peer.result(neighbour)
    assert (message.code, outputs["pid"]) == ("OK", first), "the neighbour was not disturbed"
    released = peer.released(deaf)
    assert (released.started, released.cause, released.blame) == (True, "stall", "self")
    assert wait_until_gone([first], 2.0) == []


def test_a_loop_that_hangs_is_shown_gets_no_jobs_and_is_ended_by_the_deadline(
    peer: Peer, start_pool: StartPool
) -> None:
    start_pool(processes=2, cancel_grace_ms=300, stall_ms=600, beat_ms=100)
    peer.welcome_pool(8)
    hog = peer.dispatch("hog", timeout_ms=3_000, ms=60_000)
    peer.until_slots(5)
    stalled = [e for e in peer.executors() if e["state"] == "stalled"]
    assert [e["in_flight"] for e in stalled] == [1]
    others = {peer.result(peer.dispatch("echo", text="x"))[1]["pid"] for _ in range(8)}
    assert len(others) == 1
    assert stalled[0]["pid"] not in others
    released = peer.released(hog)
    assert (released.started, released.cause, released.blame) == (True, "stall", "self")
    peer.until_slots(8)
    assert wait_until_gone([stalled[0]["pid"]], 2.0) == []


def test_isolated_jobs_run_alone_in_processes_of_their_own(peer: Peer, start_pool: StartPool) -> None:
    start_pool()
    peer.welcome_pool(4)
    regular = only_executor(peer)
    leases = [peer.dispatch_with({"isolate": True}, "echo", text="x") for _ in range(3)]
    pids = [peer.result(lease)[1]["pid"] for lease in leases]
    assert len({regular, *pids}) == 4
    crash = peer.dispatch_with({"isolate": True}, "die", ms=10)
    assert peer.released(crash).blame == "self"
    assert is_alive(regular)
    assert wait_until_gone(pids, 3.0) == []


def test_streams_go_through_with_their_bodies(peer: Peer, start_pool: StartPool) -> None:
    start_pool()
    peer.welcome_pool(4)
    lease = peer.dispatch_with({"want": ["started", "progress"]}, "large", size=3_000_000)
    peer.expect(w.Started)
    assert len(peer.result(lease)[1]["text"]) == 3_000_000


def test_an_import_that_starts_a_thread_makes_the_pool_spawn(peer: Peer, start_pool: StartPool, tmp_path: Path) -> None:
    (tmp_path / "threaded.py").write_text(
        PROGRAMS + "threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()\n"
    )
    pool = start_pool(targets=["threaded"], processes=2)
    peer.welcome_pool(8, 50.0)
    assert peer.result(peer.dispatch("echo", text="x"))[0].code == "OK"
    assert pool.log().count("pool.spawn") == 1
    assert "threaded" in pool.log()
    os.kill(only_executor(peer), signal.SIGKILL)
    peer.until_slots(4)
    peer.until_slots(8)


def test_programs_that_cannot_be_loaded_end_the_pool_with_one_clear_line(start_pool: StartPool, tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("import a_module_that_is_not_there\n")
    pool = start_pool(targets=["broken"], processes=4)
    assert pool.wait(30) == 3
    lines = [line for line in pool.log().splitlines() if "a_module_that_is_not_there" in line]
    assert len([line for line in lines if "pool.programs_failed" in line]) == 1


def test_a_pool_whose_programs_end_the_process_backs_off_and_can_be_stopped(
    start_pool: StartPool, tmp_path: Path
) -> None:
    (tmp_path / "suicidal.py").write_text("import os\nos._exit(7)\n")
    pool = start_pool(targets=["suicidal"])
    end = time.monotonic() + 20
    while pool.log().count("pool.backoff") < 2 and time.monotonic() < end:
        time.sleep(0.05)
    assert pool.log().count("pool.backoff") >= 2
    assert pool.process.poll() is None
    pool.terminate()
    assert pool.wait() == 0


def test_a_pool_that_still_imports_its_programs_can_be_stopped(
    peer: Peer, start_pool: StartPool, tmp_path: Path
) -> None:
    (tmp_path / "slow.py").write_text("import time\ntime.sleep(60)\n")
    pool = start_pool(targets=["slow"])
    peer.expect(Hello)
    assert peer.pump(1.0) is None, "nothing is offered before it is there"
    family = session_of(pool.pid)
    pool.terminate()
    assert pool.wait(5) == 0
    assert wait_until_gone(family, 2.0) == []
