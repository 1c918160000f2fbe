"""Clients that flood, vanish, never read, or lie: nobody else notices, and nothing grows without bound."""

import contextlib
import resource
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest
import zmq

from dspymq import Client
from dspymq.protocol import body as bodies
from dspymq.protocol import client_messages as c
from dspymq.protocol import encode, new_uuid7
from dspymq.protocol import worker_messages as w
from dspymq.protocol.messages import Bye, Error, Hello, Ping, Reply, Request, Welcome
from tests.faults.peers import RawClient, RawPeer, RawWorker
from tests.faults.system import PATIENCE_S, Bystander, System, open_files, resident_mib, running_system
from tests.processes import clean_environ, wait_until

MIB = 1024 * 1024
CLIENT = """
import sys
from dspymq import Client
client = Client(sys.argv[1])
jobs = [client.submit("qa", {"question": text}, on_disconnect=sys.argv[2]) for text in sys.argv[3:]]
jobs[0].result()
"""


@pytest.fixture(scope="module")
def system() -> Iterator[System]:
    """Sessions of clients die after 0.9 s of silence, and their jobs half a second later."""
    with running_system(
        processes=2,
        concurrency=4,
        broker_environ={"DSPYMQ_BROKER_CLIENT_PING_MS": "300", "DSPYMQ_BROKER_ORPHAN_MS": "500"},
    ) as made:
        yield made


@pytest.fixture(autouse=True)
def nothing_left(system: System) -> Iterator[None]:
    yield
    system.lm.release()
    wait_until(lambda: system.client.stats()["jobs"]["live"] == 0, 20.0, "the end of every job")
    system.still_serves()


def test_a_client_that_submits_5000_jobs_and_never_reads(system: System) -> None:
    """Silent for dead_ms, it is given up: its jobs leave the queue, and others were served all the while."""
    with Bystander(system, at_least=20), RawClient(system.broker.clients, answers_pings=False) as client:
        client.hello(name="mute")
        for n in range(5_000):
            client.submit("qa", question=f"unread {n} #delay_ms=50")
        wait_until(lambda: system.client.stats()["jobs"]["live"] <= 2, 20.0, "the end of its jobs")
    assert system.lm.requests < 4_000


def test_a_client_that_never_reads_but_stays_alive_costs_bounded_memory(system: System) -> None:
    """Results of 64 MiB in all go unread: they are kept once, and given out when it reads after all."""
    before = resident_mib(system.broker.pid)
    with Bystander(system), RawClient(system.broker.clients, answers_pings=False) as client:
        client.hello(name="stubborn")
        jobs = {client.submit("fat", size=64 * 1024) for _ in range(1_000)}

        def are_done() -> bool:
            client.send(Ping())
            return bool(system.client.stats()["jobs"]["live"] <= 2)

        wait_until(are_done, 20.0, "all results")
        assert resident_mib(system.broker.pid) - before < 64 * 3
        results = set()
        while jobs - results:
            result, body = client.expect(c.Result)
            assert len(bodies.decode(body)["outputs"]["text"]) == 64 * 1024
            results.add(result.job)
        assert results == jobs
        client.send(c.Ack(jobs=list(jobs)))
        client.round_trip()


def test_a_reader_that_stops_in_its_stream_loses_its_session_and_not_its_job(system: System) -> None:
    """It promised to read (no window), and does not: `bye slow_consumer`, and the job can be attached to again."""
    before = resident_mib(system.broker.pid)
    with (
        Bystander(system),
        RawClient(system.broker.clients, answers_pings=False) as client,
        RawWorker(system.broker.workers) as worker,
        RawClient(system.broker.clients) as again,
    ):
        worker.hello(features=["chunks"])
        worker.ready(1, "talk")
        client.hello(name="drowsy")
        job = new_uuid7()
        submit = c.Submit(job=job, program="talk", timeout_ms=60_000, want=["chunks"], on_disconnect="keep")
        client.send(submit, bodies.encode(inputs={}))
        dispatch, _ = worker.expect(w.Dispatch)
        piece = bodies.encode(fields={"text": "x" * 64_000})
        seq = 0
        while not counts(system).get("slow_consumers"):
            for _ in range(50):
                worker.send(w.Chunk(lease=dispatch.lease, attempt=1, seq=seq), piece)
                seq += 1
            client.send(Ping())
            worker.round_trip()
            assert seq < 4_000
        assert resident_mib(system.broker.pid) - before < 300
        again.hello(name="awake")
        again.send(c.Attach(job=job))
        again.expect(c.Accepted)
        worker.answer(dispatch, {"text": "all of it"})
        assert again.result(job)[1] == {"text": "all of it"}
        # The drowsy one finds what had left for it, then the end of its session.
        client.expect(Bye, lambda bye: bye.reason == "slow_consumer")
        worker.send(Bye())


def test_answers_that_nobody_reads_do_not_pile_up(system: System) -> None:
    """Of a peer without a session, and of one with: errors, pongs and replies are bounded like chunks."""
    before = resident_mib(system.broker.pid)
    with (
        Bystander(system, at_least=20),
        RawClient(system.broker.clients) as stranger,
        RawClient(system.broker.clients) as client,
        RawWorker(system.broker.workers) as worker,
    ):
        client.hello(name="curious")
        worker.hello()
        for n in range(40_000):
            stranger.send(c.Submit(job="x" * 60, program="y" * 120, timeout_ms=1))
            client.send(Request(rid="r" * 60, method="programs.list"))
            worker.send(Request(rid="r" * 60, method="no.such.method." + "z" * 100))
            if n % 1_000 == 0:
                system.client.ping(timeout_s=30)
        wait_until(lambda: counts(system).get("slow_consumers", 0) >= 2, PATIENCE_S, "the end of its session")
    assert resident_mib(system.broker.pid) - before < 250


@pytest.mark.parametrize("how", ["cancel", "keep"])
def test_a_client_that_vanishes_with_open_jobs(system: System, how: str) -> None:
    """Killed without a bye: what it wanted cancelled is closed at the LM, what it wanted kept goes on to its end."""
    names = [f"orphan-{how}-{n}" for n in range(3)]
    command = [sys.executable, "-c", CLIENT, system.broker.clients, how, *(f"#job={name} #hang" for name in names)]
    with subprocess.Popen(command, env=clean_environ()) as process:
        for name in names:
            system.lm.wait_open(name)
        process.kill()
    if how == "cancel":
        for name in names:
            system.lm.wait_disconnected(name)
    else:
        sessions = system.client.stats()["clients"]
        wait_until(lambda: system.client.stats()["clients"] < sessions or sessions == 1, 10.0, "the end of its session")
        assert [system.lm.job(name).open for name in names] == [1, 1, 1]
        for name in names:
            system.lm.release(name)
        system.lm.wait_for(lambda: all(system.lm.job(name).ok == 1 for name in names))


def test_a_client_that_is_frozen_past_its_death_gets_one_end_each(system: System) -> None:
    """SIGSTOP, its session dies, its job is cancelled for it; on SIGCONT it hears just that, and ends."""
    script = CLIENT.replace("jobs[0].result()", "print(type(jobs[0].exception() or jobs[0].result(30)).__name__)")
    script = f"try:\n    exec({script!r})\nexcept Exception as error:\n    print(type(error).__name__, error.reason)"
    command = [sys.executable, "-c", script, system.broker.clients, "cancel", "#job=icy #hang"]
    with subprocess.Popen(command, env=clean_environ(), stdout=subprocess.PIPE, text=True) as process:
        system.lm.wait_open("icy")
        process.send_signal(signal.SIGSTOP)
        system.lm.wait_disconnected("icy")
        process.send_signal(signal.SIGCONT)
        output, _ = process.communicate(timeout=20)
    assert output.split() == ["Cancelled", "client_gone"]
    assert system.lm.job("icy").requests == 1


def test_a_flood_of_garbage_on_both_endpoints(system: System) -> None:
    """Thousands of messages of rubbish that nobody reads the answers of, while calls go on."""
    before = resident_mib(system.broker.pid)
    stop = threading.Event()

    def flood(peer: RawPeer) -> None:
        with peer:
            peer.socket.setsockopt(zmq.SNDTIMEO, 100)
            rubbish = [(b"DJP1", b"\x91" * 200), (b"x" * 500,), (b"DJP1", b"\x81\xa1t\xa5hello", b"y"), (b"",) * 9]
            while not stop.is_set():
                for frames in rubbish:
                    with contextlib.suppress(zmq.Again):
                        peer.send_frames(*frames)

    peers = [RawClient(system.broker.clients), RawWorker(system.broker.workers)]
    threads = [threading.Thread(target=flood, args=(peer,)) for peer in peers]
    for thread in threads:
        thread.start()
    try:
        with Bystander(system, at_least=30):
            wait_until(
                lambda: sum(n for key, n in counts(system).items() if key.startswith("refused.")) > 1_500,
                PATIENCE_S,
                "1,500 refusals",
            )
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert resident_mib(system.broker.pid) - before < 150


def counts(system: System) -> dict[str, int]:
    found: dict[str, int] = system.client.stats()["counts"]
    return found


def test_storms_of_connections_leave_nothing_behind(system: System) -> None:
    """Hundreds of peers that connect, say hello or nothing at all, and vanish; then bare TCP connections."""
    host, port = system.broker.clients.removeprefix("tcp://").rsplit(":", 1)
    sessions, files = system.client.stats()["clients"], open_files(system.broker.pid)
    with Bystander(system, at_least=10):
        for _ in range(3):
            context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
            context.set(zmq.MAX_SOCKETS, 2_000)
            sockets = []
            for n in range(200):
                peer = context.socket(zmq.DEALER)
                peer.connect(system.broker.clients if n % 2 else system.broker.workers)
                if n % 3:
                    peer.send_multipart(encode(Hello(name=f"storm-{n}")))
                sockets.append(peer)
            sockets[1].poll(5_000)
            context.destroy(linger=0)
            raw = [socket.create_connection((host, int(port)), timeout=5) for _ in range(200)]
            for one in raw:
                one.close()
    wait_until(lambda: system.client.stats()["clients"] <= sessions, 20.0, "the end of their sessions")
    wait_until(lambda: open_files(system.broker.pid) <= files + 2, 20.0, "their file descriptors")


def test_more_connections_than_the_broker_may_have_files(system: System) -> None:
    """At its limit new peers wait outside; those inside are served, and it recovers when there is room."""
    host, port = system.broker.clients.removeprefix("tcp://").rsplit(":", 1)
    limits = resource.prlimit(system.broker.pid, resource.RLIMIT_NOFILE)
    with Bystander(system, at_least=10) as inside:
        resource.prlimit(system.broker.pid, resource.RLIMIT_NOFILE, (open_files(system.broker.pid) + 20, limits[1]))
        try:
            with contextlib.ExitStack() as stack:
                for _ in range(100):
                    stack.enter_context(socket.create_connection((host, int(port)), timeout=5))
                wait_until(lambda: open_files(system.broker.pid) >= 20, 5.0)
                inside.wait_for_calls(20)
        finally:
            resource.prlimit(system.broker.pid, resource.RLIMIT_NOFILE, limits)
        with Client(system.broker.clients) as newcomer:
            assert newcomer.ping(timeout_s=10) < 10


def test_a_peer_that_says_hello_10000_times_gets_the_same_welcome(system: System) -> None:
    sessions = system.client.stats()["clients"]
    with RawClient(system.broker.clients) as client, RawWorker(system.broker.workers) as worker:
        peers: list[RawPeer] = [client, worker]
        for peer in peers:
            first = peer.hello(name="polite")
            for _ in range(10_000):
                peer.send(Hello(name="polite again"))
            for _ in range(10_000):
                assert peer.expect(Welcome)[0] == first
        # The client has been silent for long by now: it may be given up already, but it never was two.
        assert system.client.stats()["clients"] <= sessions + 1


def test_duplicate_submits_run_once(system: System) -> None:
    """From one session and from another, before, while and after it runs."""
    with RawClient(system.broker.clients) as one, RawClient(system.broker.clients) as two:
        one.hello()
        two.hello()
        job = new_uuid7()
        submit = c.Submit(job=job, program="qa", timeout_ms=60_000, want=["accepted"])
        body = bodies.encode(inputs={"question": "#job=twice #hang"})
        for _ in range(50):
            one.send(submit, body)
        system.lm.wait_open("twice")
        one.round_trip()
        accepted = [m for m, _ in one.seen if isinstance(m, c.Accepted)]
        assert [m.duplicate for m in accepted] == [False] + [True] * 49
        # Another content under this id is refused, and changes nothing.
        one.send(submit, bodies.encode(inputs={"question": "something else"}))
        assert one.expect(Error)[0].reason == "id_conflict"
        # Another session takes the job over; the first is told, once.
        two.send(submit, body)
        two.expect(c.Accepted)
        error, _ = one.expect(Error)
        assert (error.reason, error.job) == ("superseded", job)
        # The first may not cancel what is no longer its own.
        one.send(c.Cancel(job=job))
        assert one.expect(Error)[0].reason == "not_attached"
        system.lm.release("twice")
        assert two.result(job)[0].code == "OK"
        for _ in range(20):
            two.send(submit, body)
            assert two.expect(c.Result)[0].job == job
        two.send(c.Ack(jobs=[job]))
        two.send(submit, body)
        assert two.expect(Error)[0].reason == "result_gone"
        one.round_trip()
        assert not [m for m, _ in one.seen if isinstance(m, c.Result)]
    assert system.lm.job("twice").requests == 1


def test_floods_of_requests_and_unknown_programs(system: System) -> None:
    """Each is answered; the catalog, and the search for close names, do not stop anybody."""
    with Bystander(system, at_least=10), RawClient(system.broker.clients) as client:
        client.hello()
        for n in range(2_000):
            client.submit(f"ech{n}" + "o" * 120, text="x")
            client.send(Request(rid=f"r{n}", method="programs.list"))
            client.send(Request(rid=f"s{n}", method="programs.get"), bodies.encode(params={"name": f"ec{n}"}))
        errors = replies = 0
        while errors < 4_000 or replies < 2_000:
            got = client.receive(10)
            assert got is not None, (errors, replies)
            errors += isinstance(got[0], Error)
            replies += isinstance(got[0], Reply)


def test_jobs_that_each_need_something_else_do_not_slow_the_others(system: System) -> None:
    """Thousands of queues of one job each, for lanes that nobody offers."""
    with RawClient(system.broker.clients) as client:
        client.hello(name="picky")
        for n in range(5_000):
            submit = c.Submit(job=f"{n}-{new_uuid7()}", program="echo", timeout_ms=30_000, lane=f"lane-{n}")
            client.send(submit, bodies.encode(inputs={"text": "x"}))
        client.round_trip()
        with Bystander(system, at_least=30):
            pass
        client.send(Bye())
        wait_until(lambda: system.client.stats()["jobs"]["live"] == 0, 20.0, "the end of its jobs")


def test_a_huge_envelope_is_not_carried_along(system: System) -> None:
    """What stands before the empty frame of a REQ peer is echoed: so it has to be small."""
    before = resident_mib(system.broker.pid)
    with RawClient(system.broker.clients) as client:
        for n in range(60):
            header = encode(c.Submit(job=f"{n}-{new_uuid7()}", program="nap", timeout_ms=5_000))
            client.send_frames(bytes([65 + n]) * 4 * MIB, b"", *header, bodies.encode(inputs={"ms": 3_000}))
            assert client.expect(Error)[0].reason == "bad_frames"
    assert resident_mib(system.broker.pid) - before < 100
