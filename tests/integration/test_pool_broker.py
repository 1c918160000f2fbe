"""A real pool and a broker that goes, comes back, or is not there; and the pool's own ends."""

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dspymq.protocol import worker_messages as w
from dspymq.protocol.messages import Bye, Hello
from tests.integration.pool_peer import Peer, PoolProcess

StartPool = Callable[..., PoolProcess]


@pytest.fixture
def peer() -> Iterator[Peer]:
    peer = Peer()
    yield peer
    peer.close()


@pytest.fixture
def start_pool(tmp_path: Path) -> Iterator[StartPool]:
    pools: list[PoolProcess] = []

    def start(address: str | list[str], **settings: object) -> PoolProcess:
        pools.append(PoolProcess(tmp_path, address, **settings))
        return pools[-1]

    yield start
    for pool in pools:
        pool.close()


def held_by(peer: Peer, timeout_s: float = 20.0) -> dict[str, str]:
    """Say welcome, and return what the first page of held names: lease to state."""
    peer.expect(Hello, timeout_s)
    page = peer.expect(w.Ready, timeout_s, lambda ready: ready.held is not None)
    return {held.lease: held.state for held in page.held or []}


def test_results_survive_a_broker_that_is_restarted(start_pool: StartPool) -> None:
    first = Peer()
    address = first.address
    start_pool(address)
    first.welcome_pool(4)
    short, long, lost = (first.dispatch_with({"want": ["started"]}, "nap", ms=ms) for ms in (300, 4_000, 60_000))
    for _ in range(3):
        first.expect(w.Started)
    first.close()
    time.sleep(0.5)
    second = Peer(address)
    try:
        assert held_by(second) == {short: "done", long: "running", lost: "running"}
        second.send(w.Synced(keep=[short, long]))
        assert second.result(short)[0].code == "OK"
        assert second.result(long)[0].code == "OK"
        assert not [m for m, _ in second.seen if isinstance(m, w.Result | w.Released) and m.lease == lost]
        assert second.result(second.dispatch("echo", text="x"))[0].code == "OK"
    finally:
        second.close()


def test_a_pool_outlasts_a_broker_that_is_not_there_and_takes_the_next(start_pool: StartPool) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        nobody = f"tcp://127.0.0.1:{unused.getsockname()[1]}"
        standby = Peer()
        try:
            start_pool([nobody, standby.address])
            standby.welcome_pool(4)
            assert standby.result(standby.dispatch("echo", text="x"))[0].code == "OK"
        finally:
            standby.close()


def test_what_is_held_goes_to_the_broker_that_takes_over(start_pool: StartPool) -> None:
    first, second = Peer(), Peer()
    try:
        start_pool([first.address, second.address])
        first.welcome_pool(4)
        lease = first.dispatch_with({"want": ["started"]}, "nap", ms=5_000)
        first.expect(w.Started)
        first.close()
        assert held_by(second, 30.0) == {lease: "running"}
        second.send(w.Synced(keep=[lease]))
        assert second.result(lease)[0].code == "OK"
    finally:
        second.close()


def test_a_pool_that_was_stopped_starts_nothing_of_what_waited(peer: Peer, start_pool: StartPool) -> None:
    """After SIGCONT the stale dispatch comes first: it runs elsewhere since."""
    pool = start_pool(peer.address)
    peer.welcome_pool(4)
    running = peer.dispatch_with({"want": ["started"]}, "nap", ms=60_000)
    peer.expect(w.Started)
    os.kill(pool.pid, signal.SIGSTOP)
    end = time.monotonic() + 3.5
    while (left := end - time.monotonic()) > 0:
        peer.pump(left)
    stale = peer.dispatch_with({"want": ["started"]}, "echo", text="stale")
    os.kill(pool.pid, signal.SIGCONT)
    assert held_by(peer) == {running: "running"}
    peer.send(w.Synced(keep=[running]))
    assert peer.result(peer.dispatch("echo", text="fresh"))[1]["text"] == "fresh"
    assert not [m for m, _ in peer.seen if getattr(m, "lease", "") == stale]
    assert "own_stall" in pool.log()


def test_a_term_finishes_what_runs_and_ends_with_0(peer: Peer, start_pool: StartPool) -> None:
    pool = start_pool(peer.address)
    peer.welcome_pool(4)
    lease = peer.dispatch_with({"want": ["started"]}, "nap", ms=800)
    peer.expect(w.Started)
    pool.terminate()
    peer.until_slots(0)
    late = peer.dispatch("echo", text="late")
    assert peer.released(late) == w.Released(lease=late, started=False, cause="drain")
    assert peer.result(lease)[0].code == "OK"
    peer.expect(Bye)
    assert pool.wait() == 0


def test_at_the_end_of_the_grace_the_rest_is_given_back(peer: Peer, start_pool: StartPool) -> None:
    pool = start_pool(peer.address, grace_ms=500)
    peer.welcome_pool(4)
    lease = peer.dispatch_with({"want": ["started"]}, "deaf", ms=60_000)
    peer.expect(w.Started)
    pool.process.send_signal(signal.SIGINT)
    released = peer.released(lease)
    assert (released.started, released.cause, released.blame) == (True, "drain", "none")
    peer.expect(Bye)
    assert pool.wait() == 0


def test_the_second_signal_stops_at_once(peer: Peer, start_pool: StartPool) -> None:
    pool = start_pool(peer.address, grace_ms=60_000)
    peer.welcome_pool(4)
    peer.dispatch_with({"want": ["started"]}, "deaf", ms=60_000)
    peer.expect(w.Started)
    pool.terminate()
    peer.until_slots(0)
    began = time.monotonic()
    pool.terminate()
    peer.expect(Bye)
    assert pool.wait() == 1
    assert time.monotonic() - began < 2


def test_a_term_to_the_whole_group_drains_too(peer: Peer, start_pool: StartPool) -> None:
    """A service manager signals every process of the unit, a terminal the whole foreground group."""
    pool = start_pool(peer.address)
    peer.welcome_pool(4)
    lease = peer.dispatch_with({"want": ["started"]}, "nap", ms=500)
    peer.expect(w.Started)
    os.killpg(pool.pid, signal.SIGINT)
    assert peer.result(lease)[0].code == "OK"
    assert pool.wait() == 0


def test_a_drain_of_the_broker_leaves_a_whole_pool(peer: Peer, start_pool: StartPool) -> None:
    start_pool(peer.address)
    peer.welcome_pool(4)
    lease = peer.dispatch_with({"want": ["started"]}, "nap", ms=60_000)
    peer.expect(w.Started)
    peer.send(w.Drain(grace_ms=200))
    assert peer.released(lease).cause == "drain"
    peer.until_slots(4)
    assert peer.result(peer.dispatch("echo", text="after"))[0].code == "OK"


def test_a_result_too_large_for_the_broker_is_refused_in_the_pool(start_pool: StartPool) -> None:
    peer = Peer(max_body_bytes=10_000)
    try:
        start_pool(peer.address)
        peer.welcome_pool(4)
        message, _ = peer.result(peer.dispatch("large", size=20_000))
        assert (message.code, message.reason) == ("RESOURCE_EXHAUSTED", "result_too_large")
        assert peer.result(peer.dispatch("large", size=5_000))[0].code == "OK"
    finally:
        peer.close()
