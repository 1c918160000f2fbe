"""Packets that vanish without a word, between real processes in network namespaces (Linux, root, iproute2).

Judged by the LMs' ledgers: how many requests each job made. The times for which packets are lost are the fault itself.
"""

import contextlib
import dataclasses
import time
from collections.abc import Iterator, Sequence

import pytest

from dspymq import Client
from tests.faults.namespaces import Site, sites, why_no_namespaces
from tests.faults.network_system import DEAD_S, FAR_SLOTS, OTHERS, QUICK, hang, is_at
from tests.faults.system import PATIENCE_S, PROGRAMS, Bystander, System
from tests.lm import ScriptedLM
from tests.processes import RunningPool, running_broker, running_pool, wait_until


@dataclasses.dataclass
class Sites:
    """The broker and a pool of its own in one place, a pool in another, and a place for clients."""

    here: Site
    there: Site
    clients: Site
    lms: list[ScriptedLM]
    system: System
    far: RunningPool

    def requests(self, names: Sequence[str]) -> list[int]:
        """How often each job was at an LM, wherever."""
        return [sum(lm.job(name).requests for lm in self.lms) for name in names]

    def open(self, name: str) -> bool:
        """Whether it is at one now."""
        return any(lm.job(name).open for lm in self.lms)

    def release(self, name: str | None = None) -> None:
        for lm in self.lms:
            lm.release(name)


@pytest.fixture(scope="module")
def three_sites() -> Iterator[Sites]:
    if reason := why_no_namespaces():
        pytest.skip(reason)
    with contextlib.ExitStack() as stack:
        here, there, clients = stack.enter_context(sites(3))
        with here.inside():
            lm = stack.enter_context(ScriptedLM())
            anywhere = f"tcp://{here.host}:*"
            broker = stack.enter_context(
                running_broker("--insecure", clients=anywhere, workers=anywhere, environ=QUICK)
            )
            near = stack.enter_context(running_pool(broker, targets=[PROGRAMS], lm=lm, concurrency=24, wait=False))
            beside = stack.enter_context(
                running_pool(broker, targets=[f"{OTHERS}:shared"], lm=lm, concurrency=12, name="beside", wait=False)
            )
            watcher = stack.enter_context(Client(broker.clients, name="watcher"))
            watcher.ping()
        with there.inside():
            other_lm = stack.enter_context(ScriptedLM())
            far = stack.enter_context(
                running_pool(broker, targets=[OTHERS], lm=other_lm, concurrency=FAR_SLOTS, name="far")
            )
        far._client = watcher
        for pool in (near, beside, far):
            pool.wait_ready(1)
        yield Sites(here, there, clients, [lm, other_lm], System(broker, near, lm, watcher), far)


@pytest.fixture
def apart(three_sites: Sites) -> Iterator[Sites]:
    """Everything connected, before and after; a bystander at the broker's own site."""
    net = three_sites
    with contextlib.ExitStack() as stack:
        with net.here.inside():
            stack.enter_context(Bystander(net.system))
        yield net
    for site in (net.there, net.clients):
        site.heal()
    net.release()
    watcher = net.system.client
    wait_until(lambda: watcher.stats()["jobs"]["live"] == 0, PATIENCE_S, "the end of every job")
    net.far.wait_ready(1)


@contextlib.contextmanager
def lost(site: Site, how: str) -> Iterator[None]:
    """Its packets vanish: those that it sends, those for it, or both; or its interface is down."""
    match how:
        case "link":
            site.link_down()
        case _:
            site.drop(sent=how != "received", received=how != "sent")
    try:
        yield
    finally:
        site.heal()


LOSSES = [
    ("both", 0.5),
    ("both", 2.5),
    pytest.param("sent", 2.5, marks=pytest.mark.soak),
    pytest.param("received", 2.5, marks=pytest.mark.soak),
    pytest.param("link", 2.5, marks=pytest.mark.soak),
]
"""How packets are lost, and for how many times `dead_ms`."""


@pytest.mark.parametrize(("how", "share"), LOSSES)
def test_packets_of_a_client_vanish(apart: Sites, how: str, share: float) -> None:
    names = [f"c-{how}-{share}-{n}" for n in range(4)]
    with contextlib.ExitStack() as stack:
        with apart.clients.inside():
            client = stack.enter_context(Client(apart.system.broker.clients))
            jobs = hang(client, "qa", names[:3])
        for name in names[:3]:
            wait_until(lambda name=name: apart.open(name), PATIENCE_S, name)
        with lost(apart.clients, how):
            jobs += hang(client, "qa", names[3:])
            apart.release(names[0])
            time.sleep(share * DEAD_S)
        began = time.monotonic()
        wait_until(lambda: apart.open(names[3]), PATIENCE_S, "the new call")
        print(f"{how} for {share * DEAD_S:.1f} s: its new call at the LM {time.monotonic() - began:.2f} s after")
        apart.release()
        assert [job.result(PATIENCE_S).attempt for job in jobs] == [1] * 4
        assert apart.requests(names) == [1] * 4


@pytest.mark.parametrize(("how", "share"), LOSSES)
def test_packets_of_a_pool_vanish(apart: Sites, how: str, share: float) -> None:
    """What only it can run goes on there; what another has begun meanwhile ends there alone."""
    lone = [f"l-{how}-{share}-{n}" for n in range(2)]
    shared = [f"s-{how}-{share}-{n}" for n in range(8)]
    client = apart.system.client
    jobs = hang(client, "lone", lone)
    both = [
        client.submit("shared", {"question": f"#job={name} #hang"}, watch=["started"], timeout_s=60) for name in shared
    ]
    for name in lone + shared:
        wait_until(lambda name=name: apart.open(name), PATIENCE_S, name)
    wait_until(lambda: all(job.worker for job in both), PATIENCE_S, "started")
    there = [n for n, job in enumerate(both) if is_at(apart.far, job)]
    assert there
    workers_lost = client.stats()["counts"].get("workers_lost", 0)
    with lost(apart.there, how):
        apart.release(lone[0])
        began = time.monotonic()
        if share > 1:
            wait_until(lambda: all(apart.requests([shared[n]]) == [2] for n in there), PATIENCE_S, "second requests")
            print(f"{how}: at the other pool after {time.monotonic() - began:.2f} s")
        time.sleep(max(0.0, share * DEAD_S - (time.monotonic() - began)))
    began = time.monotonic()
    wait_until(jobs[0].done, PATIENCE_S, "the answer that was kept")
    print(f"{how} for {share * DEAD_S:.1f} s: the kept answer {time.monotonic() - began:.2f} s after")
    if share > 1:
        for n in there:
            apart.lms[1].wait_disconnected(shared[n])
    apart.release()
    assert [job.result(PATIENCE_S).attempt for job in jobs] == [1, 1]
    assert apart.requests(lone) == [1, 1]
    expected = [2 if n in there and share > 1 else 1 for n in range(len(shared))]
    assert [job.result(PATIENCE_S).attempt for job in both] == expected
    assert apart.requests(shared) == expected
    assert client.stats()["counts"].get("workers_lost", 0) - workers_lost == int(share > 1)
