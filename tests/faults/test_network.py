"""Networks that stall, break, crawl and come back between clients and their broker, as real processes.

Judged by the LM's ledger: how many requests each job made. The times for which something is cut off are the fault
itself; nothing is waited for by sleeping.
"""

import contextlib
import random
import time
from collections.abc import Iterator

import pytest

from dspymq import Client, exceptions
from dspymq.protocol.messages import Ping
from tests.faults.network import Proxy
from tests.faults.network_system import DEAD_S, NOTICED_S, QUICK, Net, check_stream, cut, hang, running_net, streams
from tests.faults.peers import RawClient
from tests.faults.system import PATIENCE_S, PROGRAMS, Bystander, resident_mib
from tests.lm import ScriptedLM, expected_answer
from tests.processes import running_broker, running_pool, wait_until

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


@pytest.mark.parametrize("share", [0.5, 2.5])
@pytest.mark.parametrize("how", SOME_WAYS)
def test_a_client_cut_off_is_answered_when_the_network_is_back(net: Net, how: str, share: float) -> None:
    """What it had sent is not run again, what it sends meanwhile is run once, what ended meanwhile is not lost."""
    names = [f"c-{how}-{share}-{n}" for n in range(4)]
    with Bystander(net.system), Proxy(net.broker.clients) as line, Client(line.address, name="cut off") as client:
        jobs = hang(client, "qa", names[:3])
        for name in names[:3]:
            net.lm.wait_open(name)
        with cut(line, how):
            jobs += hang(client, "qa", names[3:])
            net.lm.release(names[0])
            time.sleep(share * DEAD_S)
        began = time.monotonic()
        net.lm.wait_open(names[3])
        print(f"{how} for {share * DEAD_S:.1f} s: its new call at the LM {time.monotonic() - began:.2f} s after")
        for name in names:
            net.lm.release(name)
        assert [job.result(PATIENCE_S).attempt for job in jobs] == [1] * 4
        assert net.requests(names) == [1] * 4


def test_a_call_ends_by_its_deadline_at_a_client_that_stays_cut_off(net: Net) -> None:
    with Bystander(net.system), Proxy(net.broker.clients) as line, Client(line.address) as client:
        (job,) = hang(client, "qa", ["never"], timeout_s=2.0)
        net.lm.wait_open("never")
        line.hold()
        began = time.monotonic()
        (late,) = hang(client, "qa", ["later"], timeout_s=1.5)
        for one in (late, job):
            with pytest.raises(exceptions.DeadlineExceeded):
                one.result(PATIENCE_S)
        print(f"both ended after {time.monotonic() - began:.2f} s")
        assert time.monotonic() - began < 2.0 + NOTICED_S
        # And by the broker, which nobody has told anything.
        net.lm.wait_disconnected("never")
        assert net.requests(["never", "later"]) == [1, 0]


def test_a_call_whose_time_passes_before_the_loss_is_noticed_ends_with_it(net: Net) -> None:
    """Its time is over when the client still waits for the broker's word: without a session none will come (R-5.10)."""
    with Proxy(net.broker.clients) as line, Client(line.address) as client:
        client.ping()
        (job,) = hang(client, "qa", ["overdue"], timeout_s=DEAD_S / 2)
        net.lm.wait_open("overdue")
        with cut(line, "both"):
            wait_until(job.done, DEAD_S + NOTICED_S, "its end")


@pytest.mark.parametrize("how", ["both", "up", "down"])
def test_a_half_open_client_is_noticed_on_both_sides(net: Net, how: str) -> None:
    """One after the other if only one direction is dead: the side that hears nothing first."""
    with Proxy(net.broker.clients) as line, Client(line.address, name=f"half-open-{how}") as client:
        (job,) = hang(client, "qa", [f"half-open-{how}"])
        net.lm.wait_open(f"half-open-{how}")
        session = client._inner.driver.core.session
        clients = net.watcher.stats()["clients"]
        began = time.monotonic()
        with cut(line, how):
            broker_s = client_s = 0.0
            while not (broker_s and client_s):
                now = time.monotonic() - began
                assert now < 3 * DEAD_S, f"broker {broker_s} client {client_s}"
                if not broker_s and net.watcher.stats()["clients"] < clients:
                    broker_s = now
                if not client_s and not session.live:
                    client_s = now
                time.sleep(0.01)
        print(f"{how}: the broker after {broker_s:.2f} s, the client after {client_s:.2f} s, dead_s {DEAD_S}")
        # Each side's ping may have been heard just before; and the broker still talks for as long as it hears.
        assert broker_s < (1 if how != "down" else 2) * DEAD_S + NOTICED_S
        assert client_s < (1 if how != "up" else 2) * DEAD_S + NOTICED_S
        net.lm.release(f"half-open-{how}")
        assert job.result(PATIENCE_S).attempt == 1


@pytest.mark.parametrize("side", ["client", "pool"])
def test_connections_that_break_in_the_middle_of_streams_cost_no_text(net: Net, side: str) -> None:
    """By RST and by a FIN to either side, every 0.2 s."""
    names = [f"break-{side}-{n}" for n in range(4)]
    with Bystander(net.system), Proxy(net.broker.clients) as line, Client(line.address) as client:
        program = "qa" if side == "client" else "lone"
        opened = streams(client, program, names, words=200, token_ms=8)
        for name in names:
            net.lm.wait_open(name)
        broken = line if side == "client" else net.line
        before = broken.accepted
        dice = random.Random(side)
        while any(net.lm.job(name).open for name in names):
            match dice.randrange(3):
                case 0:
                    broken.reset()
                case 1:
                    broken.close_one_side(to_target=True)
                case 2:
                    broken.close_one_side(to_target=False)
            time.sleep(0.2)
        assert [check_stream(job, question, 200) for job, question in opened] == [1] * 4
        assert net.requests(names) == [1] * 4
        print(f"{side}: {broken.accepted - before} connections")
        assert broken.accepted - before >= 4


@pytest.mark.parametrize("side", ["client", "pool"])
def test_writes_that_are_cut_and_glued_anywhere(net: Net, side: str) -> None:
    names = [f"chop-{side}-{n}" for n in range(4)]
    with Bystander(net.system), Proxy(net.broker.clients) as line, Client(line.address) as client:
        broken = line if side == "client" else net.line
        broken.up.chop, broken.down.chop = random.Random("up"), random.Random("down")
        program = "qa" if side == "client" else "lone"
        before = broken.accepted, broken.up.passed_bytes, broken.down.passed_bytes
        opened = streams(client, program, names, words=200, token_ms=2)
        large = "x" * 300_000
        assert client.call(program, question=f"{large} end").answer == expected_answer("answer", f"{large} end")
        assert [check_stream(job, question, 200) for job, question in opened] == [1] * 4
        assert net.requests(names) == [1] * 4
        if side == "pool":
            assert broken.accepted == before[0]
        print(f"{side}: {broken.up.passed_bytes - before[1]} octets up, {broken.down.passed_bytes - before[2]} down")


@pytest.mark.parametrize("side", ["client", "pool"])
def test_a_slow_and_distant_line_is_no_dead_line(net: Net, side: str) -> None:
    """0.3 s each way and 20 kB a second: nobody is taken for dead, all text comes."""
    names = [f"slow-{side}-{n}" for n in range(3)]
    with Bystander(net.system), Proxy(net.broker.clients) as line, Client(line.address) as client:
        broken = line if side == "client" else net.line
        client.ping()
        before, lost = broken.accepted, net.watcher.stats()["counts"].get("workers_lost", 0)
        for flow in (broken.up, broken.down):
            flow.delay_s, flow.bytes_per_s = DEAD_S / 3, 20_000
        opened = streams(client, "qa" if side == "client" else "lone", names, words=150, token_ms=8)
        assert [check_stream(job, question, 150) for job, question in opened] == [1] * 3
        assert net.requests(names) == [1] * 3
        assert broken.accepted == before
        assert net.watcher.stats()["counts"].get("workers_lost", 0) == lost


def test_a_client_goes_on_from_an_address_that_says_nothing_to_the_next(net: Net) -> None:
    with Proxy(net.broker.clients) as line:
        line.mute = True
        began = time.monotonic()
        with Client([line.address, net.broker.clients]) as client:
            assert client.call("qa", question="anybody?").answer == expected_answer("answer", "anybody?")
            print(f"answered after {time.monotonic() - began:.2f} s")
            assert time.monotonic() - began < 3
        assert line.accepted >= 1


def test_a_line_that_nobody_reads_costs_the_broker_little(net: Net) -> None:
    """The client is behind it with 16 streams of 300 kB each, and gets all of it when it goes on."""
    names = [f"flood-{n}" for n in range(16)]
    with Bystander(net.system, at_least=20), Proxy(net.broker.clients) as line, Client(line.address) as client:
        opened = [
            client.submit(
                "qa",
                {"question": f"#job={name} tell #tokens=40000 #chunk=4000 #token_ms=40"},
                stream=True,
                timeout_s=60,
            )
            for name in names
        ]
        for name in names:
            net.lm.wait_for(lambda name=name: net.lm.job(name).pieces > 0, PATIENCE_S)
        before, most = resident_mib(net.broker.pid), 0.0
        with cut(line, "down"):
            end = time.monotonic() + 3 * DEAD_S
            while time.monotonic() < end or net.lm.open > 1:
                most = max(most, resident_mib(net.broker.pid) - before)
                time.sleep(0.02)
                assert time.monotonic() < end + PATIENCE_S
        print(f"the broker's memory: +{most:.1f} MiB at most")
        assert [check_stream(job, f"#job={name} tell", 40_000) for job, name in zip(opened, names, strict=True)] == [
            1
        ] * 16
        assert net.requests(names) == [1] * 16
        assert most < 60


# -- what is not kept -------------------------------------------------------------------------------------------------

SLOW = "a message proves life only when it is complete: one that needs longer than dead_ms on its line never arrives"


@pytest.mark.soak
@pytest.mark.xfail(strict=True, raises=exceptions.DeadlineExceeded, reason=SLOW)
@pytest.mark.parametrize("side", ["client", "pool"])
def test_a_message_that_takes_longer_than_dead_ms_arrives(net: Net, side: str) -> None:
    """150 kB at 60 kB a second; others notice nothing either way."""
    with Bystander(net.system), Proxy(net.broker.clients) as line, Client(line.address, timeout_s=3.0) as client:
        client.ping()
        broken = line if side == "client" else net.line
        before = broken.accepted
        broken.up.bytes_per_s = 60_000
        try:
            if side == "client":
                client.call("qa", question="x" * 150_000)
            else:
                client.call("lone", question="#tokens=20000")
        finally:
            print(f"{side}: {broken.accepted - before} connections more")


@pytest.mark.soak
@pytest.mark.xfail(strict=True, raises=TimeoutError, reason="what libzmq holds for a connection that is dead is kept")
def test_what_a_dead_connection_did_not_take_is_given_back() -> None:
    """Three clients that are there, read nothing and say no more; the broker keeps 8 MiB of results."""
    environ = {**QUICK, "DSPYMQ_BROKER_RETAIN_BYTES": str(8 * 1024 * 1024)}
    with (
        ScriptedLM() as lm,
        running_broker(environ=environ) as broker,
        running_pool(broker, targets=[f"{PROGRAMS}:fat"], lm=lm, concurrency=8),
        Client(broker.clients) as watcher,
        contextlib.ExitStack() as stack,
    ):
        before = resident_mib(broker.pid)
        for n in range(3):
            line = stack.enter_context(Proxy(broker.clients))
            raw = stack.enter_context(RawClient(line.address))
            raw.hello()
            line.hold(line.down)
            for _ in range(60):
                raw.submit("fat", size=1_000_000)

            def are_done(raw: RawClient = raw, count: int = 60 * (n + 1)) -> bool:
                raw.send(Ping(n=1))
                return bool(watcher.stats()["counts"].get("done.OK", 0) == count)

            wait_until(are_done, PATIENCE_S, "60 results")
        # The watcher is the one that is left; the pool's watcher is another.
        wait_until(lambda: watcher.stats()["clients"] <= 2, PATIENCE_S, "the end of their sessions")
        wait_until(lambda: resident_mib(broker.pid) - before < 90, 10 * DEAD_S, "the return of their memory")
