"""The connection to the broker, without the connection."""

from typing import Any

import msgspec

from dspymq.protocol import worker_messages as w
from dspymq.protocol.messages import Bye, Hello, Ping, Pong
from dspymq.worker.supervisor import session as s
from tests.unit.worker.pool_rig import WELCOME, error

HELLO = Hello(name="pool")


class Line:
    """A session, and time."""

    def __init__(self, *addresses: str, random: float = 1.0) -> None:
        self.session = s.Session(addresses or ("tcp://a:1",), HELLO, lambda: random)
        self.now_ms = 500_000
        self.busy = False

    def tick(self) -> list[s.Step]:
        return self.session.tick(self.now_ms, busy=self.busy)

    def until(self, kind: type) -> Any:
        """Let time pass until such a step comes."""
        for _ in range(1_000):
            self.now_ms = max(self.now_ms, self.session.next_ms())
            for step in self.tick():
                if isinstance(step, kind):
                    return step
        raise AssertionError(f"no {kind.__name__}")

    def receive(self, message: Any) -> list[s.Step]:
        return self.session.received(message, self.now_ms, busy=self.busy)

    def up(self) -> "Line":
        self.until(s.Open)
        ping, up = self.receive(WELCOME)
        assert up == s.Up(WELCOME)
        self.answer(ping)
        return self

    def answer(self, step: s.Step) -> None:
        """The broker has heard a ping."""
        assert isinstance(step, s.Send)
        assert isinstance(step.message, Ping)
        assert self.receive(Pong(n=step.message.n)) == []


def test_it_opens_and_says_hello_at_once() -> None:
    assert Line().tick() == [s.Open("tcp://a:1", HELLO)]


def test_an_attempt_is_judged_by_its_welcome_in_a_bounded_time() -> None:
    line = Line()
    line.tick()
    line.now_ms += s.WELCOME_MS - 1
    assert line.tick() == []
    line.now_ms += 1
    assert line.tick() == [s.Close()]


def test_failover_goes_through_the_list_without_a_pause_and_pauses_after_it() -> None:
    line = Line("tcp://a:1", "tcp://b:1", "tcp://c:1")
    opened = []
    for _ in range(4):
        began_ms = line.now_ms
        opened.append((line.until(s.Open).address, line.now_ms - began_ms))
        line.until(s.Close)
    assert opened == [("tcp://a:1", 0), ("tcp://b:1", 0), ("tcp://c:1", 0), ("tcp://a:1", 200)]


def test_a_lost_broker_is_tried_first_again() -> None:
    line = Line("tcp://a:1", "tcp://b:1")
    line.until(s.Open)
    line.until(s.Close)
    assert line.until(s.Open).address == "tcp://b:1"
    line.receive(WELCOME)
    line.receive(Bye(reason="shutdown"))
    assert line.until(s.Open).address == "tcp://a:1"


def test_the_pause_is_at_most_1_s_while_leases_are_held_and_5_s_otherwise() -> None:
    for busy, longest in ((True, 1_000), (False, 5_000)):
        line = Line()
        line.busy = busy
        pauses = []
        for _ in range(12):
            began_ms = line.now_ms
            line.until(s.Open)
            pauses.append(line.now_ms - began_ms)
            line.until(s.Close)
        assert pauses[0] == 0
        assert pauses[-1] == max(pauses) == longest


def test_the_pauses_are_jittered() -> None:
    pauses = set()
    for random in (0.0, 0.5, 1.0):
        line = Line(random=random)
        line.until(s.Open)
        line.until(s.Close)
        began_ms = line.now_ms
        line.until(s.Open)
        pauses.add(line.now_ms - began_ms)
    assert pauses == {100, 150, 200}


def test_it_pings_all_the_time_each_under_a_number_of_its_own() -> None:
    """Whatever else is said: the answer is proof that it was heard (R-3.16)."""
    line = Line().up()
    numbers = []
    for _ in range(4):
        line.now_ms += 999
        line.receive(w.Drain(grace_ms=1))
        assert line.tick() == []
        line.now_ms += 1
        (step,) = line.tick()
        line.answer(step)
        numbers.append(step.message.n)  # type: ignore[union-attr]
    assert len(set(numbers)) == 4
    assert min(numbers) > s.PROOFS


def test_a_dispatch_is_not_taken_when_the_broker_may_have_heard_nothing_for_dead_ms() -> None:
    """The way back is dead: what comes was sent long ago, and may run elsewhere by now."""
    line = Line().up()
    dispatch = w.Dispatch(
        lease="l", ns="a", job="j", attempt=1, digest="d" * 32, program="p", revision="r", timeout_ms=60_000
    )
    for _ in range(2):
        line.now_ms += 1_000
        assert [type(step) for step in line.tick()] == [s.Send], "a ping, which is not answered"
        line.receive(Ping(n=1))
    line.now_ms += 999
    assert line.receive(dispatch) == [s.Deliver(dispatch)]
    line.now_ms += 1
    assert [type(step) for step in line.receive(dispatch)] == [s.Close, s.Down]


def test_an_answer_proves_the_time_of_its_ping_and_not_its_own() -> None:
    line = Line().up()
    line.now_ms += 1_000
    (ping,) = line.tick()
    line.now_ms += 1_000
    line.receive(Ping(n=1))
    line.now_ms += 900
    line.receive(Ping(n=1))
    line.now_ms += 100
    line.answer(ping)
    dispatch = w.Dispatch(
        lease="l", ns="a", job="j", attempt=1, digest="d" * 32, program="p", revision="r", timeout_ms=60_000
    )
    line.now_ms += 999
    assert line.receive(dispatch) == [s.Deliver(dispatch)]
    line.now_ms += 1
    assert [type(step) for step in line.receive(dispatch)] == [s.Close, s.Down]


def test_a_ping_is_answered_with_its_number() -> None:
    assert Line().up().receive(Ping(n=7)) == [s.Send(Pong(n=7))]


def test_silence_ends_the_session_and_any_message_counts() -> None:
    line = Line().up()
    line.now_ms += 2_000
    assert line.receive(Pong()) == [s.Deliver(Pong())]
    line.now_ms += 2_999
    assert not [step for step in line.tick() if isinstance(step, s.Down)]
    line.now_ms += 1
    assert [type(step) for step in line.tick()] == [s.Close, s.Down]


def test_what_comes_after_too_long_a_silence_is_not_trusted() -> None:
    """The broker heard us last up to a ping before we heard it: it may have given us up, and our dispatch away."""
    line = Line().up()
    line.now_ms += 2_001
    assert [type(step) for step in line.receive(Pong())] == [s.Close, s.Down]


def test_the_broker_chooses_the_times() -> None:
    line = Line()
    line.until(s.Open)
    line.receive(msgspec.structs.replace(WELCOME, ping_ms=50, dead_ms=150))
    line.now_ms += 50
    assert [type(step) for step in line.tick()] == [s.Send]
    assert line.session.dead_ms == 150


def test_a_broker_that_knows_no_session_is_greeted_again_on_a_new_socket() -> None:
    line = Line(random=0.0).up()
    assert line.receive(error("no_session")) == [s.Close(), s.Down("no_session")]
    assert line.tick() == [s.Open("tcp://a:1", HELLO)]


def test_the_wrong_endpoint_is_left_for_the_next_address_and_tried_less_and_less_often() -> None:
    """It greets everybody; what a worker says first is refused."""
    line = Line("tcp://clients:1", "tcp://workers:1").up()
    wrong = error("wrong_endpoint")
    assert line.receive(wrong) == [s.Close(), s.Down(s.WRONG_ENDPOINT)]
    assert line.tick() == [s.Open("tcp://workers:1", HELLO)]
    alone = Line()
    pauses = []
    for _ in range(9):
        closed_ms = alone.now_ms
        alone.up()
        pauses.append(alone.now_ms - closed_ms)
        assert alone.receive(Pong(n=0)) == [s.Deliver(Pong(n=0))]
        alone.receive(wrong)
    assert pauses == [0, 200, 400, 800, 1_600, 3_200, 5_000, 5_000, 5_000]


def test_a_broker_that_takes_what_a_worker_says_ends_the_growth_of_the_pauses() -> None:
    line = Line().up()
    line.receive(error("wrong_endpoint"))
    line.up()
    line.receive(w.Synced(keep=[]))
    line.receive(error("wrong_endpoint"))
    closed_ms = line.now_ms
    line.up()
    assert line.now_ms - closed_ms == 200


def test_a_refused_hello_fails_the_attempt() -> None:
    line = Line()
    line.tick()
    assert line.receive(error("unsupported_version")) == [s.Close()]
    assert "unsupported_version" in line.session.last_failure


def test_messages_are_for_the_pool_only_while_the_session_is_up() -> None:
    line = Line()
    line.tick()
    assert line.receive(w.Drain(grace_ms=1)) == []
    line.receive(WELCOME)
    assert line.receive(w.Drain(grace_ms=1)) == [s.Deliver(w.Drain(grace_ms=1))]
    assert line.receive(error("not_ready")) == [s.Deliver(error("not_ready"))]
    assert line.receive(WELCOME) == []


def test_a_broken_connection_ends_the_session_without_waiting_for_silence() -> None:
    line = Line(random=0.0).up()
    steps = line.session.disconnected(line.now_ms, busy=True)
    assert steps == [s.Close(), s.Down("disconnected")]
    assert line.tick() == [s.Open("tcp://a:1", HELLO)]


def test_a_refused_connection_moves_on_only_where_there_is_another_address() -> None:
    line = Line("tcp://a:1")
    line.tick()
    assert line.session.disconnected(line.now_ms, busy=True) == []
    line = Line("tcp://a:1", "tcp://b:1")
    line.tick()
    assert line.session.disconnected(line.now_ms, busy=True) == [s.Close()]
    assert line.tick() == [s.Open("tcp://b:1", HELLO)]


def test_a_restart_opens_a_new_session_at_once() -> None:
    line = Line().up()
    assert line.session.restart(line.now_ms, "why") == [s.Close(), s.Down("why"), s.Open("tcp://a:1", HELLO)]
    assert line.receive(WELCOME)[1:] == [s.Up(WELCOME)]
