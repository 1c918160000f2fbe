"""Networks that stall, break, crawl and come back between a pool and its broker; see test_network.py."""

import time
from collections.abc import Iterator

import pytest

from dspymq import Client
from tests.faults.network_system import DEAD_S, FAR_SLOTS, NOTICED_S, Net, cut, hang, is_at, running_net
from tests.faults.system import PATIENCE_S, Bystander
from tests.processes import wait_until

WAYS = ["both", "up", "down", "away"]
SOME_WAYS = ["both", *(pytest.param(how, marks=pytest.mark.soak) for how in ("up", "down", "away"))]


@pytest.fixture(scope="module")
def whole() -> Iterator[Net]:
    with running_net() as made:
        yield made


@pytest.fixture
def net(whole: Net) -> Iterator[Net]:
    """Everything connected, before and after."""
    yield whole
    whole.settle()


@pytest.mark.parametrize("how", WAYS)
def test_a_pool_cut_off_for_a_moment_is_not_lost(net: Net, how: str) -> None:
    names = [f"p-{how}-{n}" for n in range(FAR_SLOTS)]
    with Bystander(net.system), Client(net.broker.clients) as client:
        jobs = hang(client, "lone", names)
        for name in names:
            net.lm.wait_open(name)
        lost = net.watcher.stats()["counts"].get("workers_lost", 0)
        with cut(net.line, how):
            net.lm.release(names[0])
            time.sleep(0.3 * DEAD_S)
        for name in names[1:]:
            net.lm.release(name)
        assert [job.result(PATIENCE_S).attempt for job in jobs] == [1] * FAR_SLOTS
        assert net.requests(names) == [1] * FAR_SLOTS
        assert net.watcher.stats()["counts"].get("workers_lost", 0) == lost


@pytest.mark.parametrize("how", SOME_WAYS)
def test_a_pool_cut_off_past_its_death_goes_on_with_what_nobody_began_again(net: Net, how: str) -> None:
    """Also with what ended meanwhile. Nobody else offers the program; what waits is run once, after the return."""
    names = [f"a-{how}-{n}" for n in range(FAR_SLOTS + 1)]
    with Bystander(net.system), Client(net.broker.clients) as client:
        jobs = hang(client, "lone", names)
        for name in names[:FAR_SLOTS]:
            net.lm.wait_open(name)
        lost = net.watcher.stats()["counts"].get("workers_lost", 0)
        with cut(net.line, how):
            net.lm.release(names[0])
            time.sleep(2.5 * DEAD_S)
            assert net.watcher.stats()["counts"]["workers_lost"] == lost + 1
        began = time.monotonic()
        wait_until(jobs[0].done, PATIENCE_S, "the answer that was kept")
        print(f"{how}: the kept answer {time.monotonic() - began:.2f} s after")
        net.lm.wait_open(names[-1])
        net.lm.release()
        # Where the broker heard that a slot was free, it had dispatched the last one into the void.
        assert [job.result(PATIENCE_S).attempt for job in jobs] == [1] * FAR_SLOTS + [2 if how == "down" else 1]
        assert net.requests(names) == [1] * len(names)


@pytest.mark.parametrize("answered_meanwhile", [True, False])
@pytest.mark.parametrize("how", SOME_WAYS)
def test_a_pool_cut_off_past_its_death_gives_no_second_end(net: Net, how: str, answered_meanwhile: bool) -> None:
    """Another pool has run its jobs again: it stops its own at the LM, and its answers count for nothing."""
    names = [f"s-{how}-{answered_meanwhile}-{n}" for n in range(2 * FAR_SLOTS)]
    with Bystander(net.system), Client(net.broker.clients) as client:
        jobs = [
            client.submit("shared", {"question": f"#job={name} #hang"}, watch=["started"], timeout_s=60)
            for name in names
        ]
        for name in names:
            net.lm.wait_open(name)
        wait_until(lambda: all(job.worker for job in jobs), PATIENCE_S, "started")
        there = [n for n, job in enumerate(jobs) if is_at(net.far, job)]
        assert there
        with cut(net.line, how):
            for n in there:
                net.lm.wait_for(lambda n=n: net.lm.job(names[n]).requests == 2, PATIENCE_S)
            if answered_meanwhile:
                net.lm.release()
                attempts = [job.result(PATIENCE_S).attempt for job in jobs]
        if not answered_meanwhile:
            for n in there:
                net.lm.wait_disconnected(names[n])
            for name in names:
                net.lm.release(name)
            attempts = [job.result(PATIENCE_S).attempt for job in jobs]
        expected = [2 if n in there else 1 for n in range(len(names))]
        assert attempts == expected
        net.far.wait_ready(1)
        wait_until(lambda: not net.far.row()["in_flight"].get("default"), PATIENCE_S, "free slots")
        assert net.requests(names) == expected


@pytest.mark.parametrize("share", [0.75, pytest.param(2.5, marks=pytest.mark.soak)])
def test_dispatches_that_waited_in_the_network_are_never_started(net: Net, share: float) -> None:
    """Their pool heard nothing for so long that the broker may have lost it: R-3.16."""
    names = [f"w-{share}-{n}" for n in range(FAR_SLOTS)]
    with Bystander(net.system), Client(net.broker.clients) as client:
        stale = net.far.process.stderr().count('"event": "broker.down"')
        # Its own pings pass: the broker does not notice before it does.
        with cut(net.line, "down"):
            time.sleep(0.1 * DEAD_S)
            jobs = hang(client, "lone", names)
            wait_until(lambda: net.watcher.stats()["jobs"]["in_flight"] > FAR_SLOTS, 2.0, "the dispatches")
            time.sleep((share - 0.1) * DEAD_S)
        for name in names:
            net.lm.wait_open(name)
        net.lm.release()
        assert [job.result(PATIENCE_S).attempt for job in jobs] == [2] * FAR_SLOTS
        assert net.requests(names) == [1] * FAR_SLOTS
        assert net.far.process.stderr().count('"event": "broker.down"') == stale + 1


@pytest.mark.parametrize("how", ["both", "up", "down"])
def test_a_half_open_pool_is_noticed_on_both_sides(net: Net, how: str) -> None:
    with Bystander(net.system):
        downs = net.far.process.stderr().count('"event": "broker.down"')
        lost = net.watcher.stats()["counts"].get("workers_lost", 0)
        began = time.monotonic()
        with cut(net.line, how):
            broker_s = pool_s = 0.0
            while not (broker_s and pool_s):
                now = time.monotonic() - began
                assert now < 3 * DEAD_S, f"broker {broker_s} pool {pool_s}"
                if not broker_s and net.watcher.stats()["counts"].get("workers_lost", 0) > lost:
                    broker_s = now
                if not pool_s and net.far.process.stderr().count('"event": "broker.down"') > downs:
                    pool_s = now
                time.sleep(0.01)
        print(f"{how}: the broker after {broker_s:.2f} s, the pool after {pool_s:.2f} s, dead_s {DEAD_S}")
        assert broker_s < (1 if how != "down" else 2) * DEAD_S + NOTICED_S
        assert pool_s < (1 if how != "up" else 2) * DEAD_S + NOTICED_S


def test_a_pool_comes_back_from_a_broker_that_says_nothing(net: Net) -> None:
    with Bystander(net.system), Client(net.broker.clients) as client:
        jobs = hang(client, "lone", ["mute"])
        net.lm.wait_open("mute")
        net.line.mute = True
        accepted = net.line.accepted
        net.line.reset()
        wait_until(lambda: net.line.accepted >= accepted + 2, PATIENCE_S, "a second attempt")
        net.line.heal()
        net.lm.release("mute")
        assert jobs[0].result(PATIENCE_S).attempt == 1
        assert net.requests(["mute"]) == [1]


@pytest.mark.soak
def test_a_dispatch_that_is_late_on_a_line_dead_one_way_is_not_started(net: Net) -> None:
    """The way to the pool takes longer than `dead_ms`, the way back is cut: its jobs run elsewhere when they come."""
    names = [f"late-{n}" for n in range(12)]
    with Bystander(net.system), Client(net.broker.clients) as client:
        lost = net.watcher.stats()["counts"].get("workers_lost", 0)
        # Little by little: a gap would tell the pool.
        for step in range(1, 14):
            net.line.down.delay_s = 0.1 * step
            time.sleep(0.25)
        net.line.hold(net.line.up)
        time.sleep(0.3)
        jobs = hang(client, "shared", names)
        wait_until(lambda: net.far.row()["in_flight"].get("default"), 2.0, "dispatches")
        wait_until(lambda: net.watcher.stats()["counts"].get("workers_lost", 0) > lost, 2.0, "its loss")
        for name in names:
            net.lm.wait_open(name)
        downs = net.far.process.stderr().count('"event": "broker.down"')
        wait_until(lambda: net.far.process.stderr().count('"event": "broker.down"') > downs, 5.0, "silence")
        net.lm.release()
        for job in jobs:
            job.result(PATIENCE_S)
        assert net.requests(names) == [1] * 12
