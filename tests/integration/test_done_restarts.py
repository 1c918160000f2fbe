"""Broker, pool and client in every order, and killed in the middle of calls: every call is answered."""

import contextlib
import itertools
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from dspymq import Client, exceptions
from dspymq.job import Job
from tests.faults.system import PATIENCE_S, PROGRAMS
from tests.integration.client_system import free_address
from tests.lm import ScriptedLM, expected_answer
from tests.processes import Process, RunningBroker, clean_environ, running, running_broker, running_pool, wait_until

LONG_S = 60.0


class Restartable:
    """A broker at fixed addresses that can be killed and started again; the last one is stopped with the block."""

    def __init__(self, adopt_ms: int = 1_500) -> None:
        self.clients, self.workers = free_address(), free_address()
        self._environ = {"DSPYMQ_BROKER_ADOPT_MS": str(adopt_ms)}
        self._stack = contextlib.ExitStack()
        self.broker: RunningBroker | None = None

    def __enter__(self) -> "Restartable":
        self.start()
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    def start(self) -> None:
        self.broker = self._stack.enter_context(
            running_broker(clients=self.clients, workers=self.workers, environ=self._environ)
        )

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        assert self.broker is not None
        self.broker.process.kill(number)
        self._stack.close()


@pytest.fixture
def lm() -> Iterator[ScriptedLM]:
    with ScriptedLM() as lm:
        yield lm


def pool_at(workers: str, lm: ScriptedLM, *arguments: str) -> contextlib.AbstractContextManager[Process]:
    """A pool that is not waited for."""
    command = ["worker", PROGRAMS, "--broker", workers, "--processes", "1", "--name", "pool", *arguments]
    return running("pool", command, clean_environ(lm))


@pytest.mark.parametrize("order", list(itertools.permutations(["broker", "pool", "client"])), ids="-".join)
def test_started_in_this_order_a_call_is_answered(order: tuple[str, ...], lm: ScriptedLM) -> None:
    """Each has tried, and found nobody, before the next one is started."""
    clients, workers = free_address(), free_address()
    with contextlib.ExitStack() as stack:
        job: Job | None = None
        for part in order:
            if part == "broker":
                stack.enter_context(running_broker(clients=clients, workers=workers))
            elif part == "pool":
                pool = stack.enter_context(pool_at(workers, lm))
                seen = "broker.up" if "broker" in order[: order.index(part)] else "broker.unreachable"
                wait_until(lambda seen=seen, pool=pool: seen in pool.stderr(), PATIENCE_S, seen)
            else:
                client = stack.enter_context(Client(clients))
                job = client.submit("qa", {"question": "who is first?"}, timeout_s=LONG_S)
                session = client._inner.driver.core.session
                wait_until(lambda s=session: s.live or s.last_failure, PATIENCE_S, "a connection, or none")
        assert job is not None
        assert job.result(LONG_S).answer == expected_answer("answer", "who is first?")


def ask_many(client: Client, count: int, label: str, extra: str = "") -> dict[str, Job]:
    """Calls that are open at once, by their question's text."""
    return {
        (text := f"{label} {n}"): client.submit("qa", {"question": f"{text} {extra}".strip()}, timeout_s=LONG_S)
        for n in range(count)
    }


def check(jobs: dict[str, Job]) -> list[int]:
    """Every job has its own answer; their attempts."""
    attempts = []
    for text, job in jobs.items():
        prediction = job.result(LONG_S)
        assert prediction.answer.split() == expected_answer("answer", text).split()
        attempts.append(prediction.attempt)
    return attempts


def test_a_pool_killed_and_restarted_in_the_middle_of_calls_loses_none(lm: ScriptedLM) -> None:
    with running_broker() as broker, Client(broker.clients) as client:
        lm.script(hang=True)
        with running_pool(broker, targets=[PROGRAMS], lm=lm, processes=2) as pool:
            jobs = ask_many(client, 40, "through a death")
            lm.wait_for(lambda: lm.open == 8)
            pool.process.kill()
        lm.wait_idle()
        lm.script(hang=False)
        with running_pool(broker, targets=[PROGRAMS], lm=lm, processes=2):
            attempts = check(jobs)
        # What was open at the death ran again, what had waited did not.
        assert sorted(attempts) == [1] * 32 + [2] * 8
        assert lm.requests == 48


def test_a_pool_killed_while_another_lives_hands_its_calls_over(lm: ScriptedLM) -> None:
    with (
        running_broker() as broker,
        Client(broker.clients) as client,
        running_pool(broker, targets=[PROGRAMS], lm=lm, name="stays"),
    ):
        lm.script(hang=True)
        with running_pool(broker, targets=[PROGRAMS], lm=lm, name="dies") as dies:
            jobs = ask_many(client, 8, "two pools")
            lm.wait_for(lambda: lm.open == 8)
            lm.script(hang=False)
            dies.process.kill()
        lm.wait_for(lambda: lm.open == 4)
        lm.release()
        assert sorted(check(jobs)) == [1] * 4 + [2] * 4
        assert lm.requests == 12


def test_a_broker_killed_and_restarted_answers_every_call(lm: ScriptedLM) -> None:
    """Three times, with calls open, queued, and made while there is no broker; the same pool and clients all along.

    The pool outlived every broker, so no call costs a second one at the LM.
    """
    with (
        Restartable() as brokers,
        Client(brokers.clients, name="one") as one,
        Client(brokers.clients, name="two") as two,
    ):
        assert brokers.broker is not None
        lm.script(hang=True)
        with running_pool(brokers.broker, targets=[PROGRAMS], lm=lm, processes=2) as pool:
            executors = sorted(pool.executor_pids())
            jobs = ask_many(one, 20, "first of one") | ask_many(two, 20, "first of two")
            lm.wait_for(lambda: lm.open == 8)
            for round_number in range(3):
                brokers.kill()
                jobs |= ask_many(one, 5, f"between {round_number}")
                brokers.start()
                jobs |= ask_many(two, 5, f"after {round_number}")
                # Everybody is back when the eight calls at the LM, and all others, are known again.
                count = len(jobs)
                wait_until(lambda count=count: adopted(one) == 8 and live(one) == count, 20.0, "adoption")
            lm.script(hang=False)
            lm.release()
            assert set(check(jobs)) == {1}
            assert len(jobs) == 70
            assert lm.requests == 70
            assert sorted(pool.executor_pids()) == executors


def adopted(client: Client) -> int:
    return int(client.stats()["counts"].get("adopted", 0))


def live(client: Client) -> int:
    return int(client.stats()["jobs"]["live"])


def test_a_broker_stopped_in_order_and_restarted_answers_every_call(lm: ScriptedLM) -> None:
    with Restartable() as brokers, Client(brokers.clients) as client, pool_at(brokers.workers, lm):
        client.call("qa", question="ready?")
        jobs = ask_many(client, 30, "in order", "#delay_ms=200")
        lm.wait_for(lambda: lm.open > 0)
        brokers.kill(signal.SIGTERM)
        brokers.start()
        check(jobs)


def test_broker_and_pool_killed_together_lose_no_call(lm: ScriptedLM) -> None:
    with Restartable() as brokers, Client(brokers.clients) as client:
        lm.script(hang=True)
        with pool_at(brokers.workers, lm) as pool:
            jobs = ask_many(client, 20, "all at once")
            lm.wait_for(lambda: lm.open > 0, PATIENCE_S)
            pool.kill()
            brokers.kill()
        lm.script(hang=False)
        brokers.start()
        with pool_at(brokers.workers, lm):
            check(jobs)


def test_a_deadline_and_a_cancel_hold_while_there_is_no_broker(lm: ScriptedLM) -> None:
    with Restartable() as brokers, Client(brokers.clients) as client, pool_at(brokers.workers, lm):
        client.call("qa", question="ready?")
        lm.script(hang=True)
        late, cancelled, patient = (
            client.submit("qa", {"question": f"#job=d{n}"}, timeout_s=s) for n, s in enumerate((2, 60, 60))
        )
        lm.wait_for(lambda: lm.open == 3)
        brokers.kill()
        cancelled.cancel()
        with pytest.raises(exceptions.DeadlineExceeded):
            late.result(6)
        # The pool keeps time, too: what is too late for its client is closed at the LM.
        lm.wait_disconnected("d0")
        brokers.start()
        with pytest.raises(exceptions.Cancelled):
            cancelled.result(PATIENCE_S)
        lm.wait_disconnected("d1")
        lm.release()
        assert patient.result(PATIENCE_S).attempt == 1
        assert [lm.job(f"d{n}").requests for n in range(3)] == [1, 1, 1]


def test_calls_from_many_threads_go_on_through_restarts_of_everything(lm: ScriptedLM) -> None:
    """Not one of the callers sees an error, and none gets another's answer."""
    with Restartable() as brokers, Client(brokers.clients) as client:
        problems: list[str] = []
        counts = [0] * 8
        stop = threading.Event()

        def call(caller: int) -> None:
            patient = client.with_options(timeout_s=LONG_S)
            while not stop.is_set():
                question = f"caller {caller} call {counts[caller]}"
                try:
                    answer = patient.call("qa", question=question).answer
                    if answer != expected_answer("answer", question):
                        problems.append(f"{question}: {answer}")
                except Exception as error:
                    problems.append(f"{question}: {error!r}")
                counts[caller] += 1

        def wait_for_progress() -> None:
            before = list(counts)
            wait_until(
                lambda: all(n > b + 2 for n, b in zip(counts, before, strict=True)), LONG_S, "calls of everybody"
            )

        actions: list[Callable[[], None]] = [brokers.kill, brokers.start]
        with pool_at(brokers.workers, lm):
            threads = [threading.Thread(target=call, args=(n,)) for n in range(8)]
            for thread in threads:
                thread.start()
            try:
                for _ in range(2):
                    wait_for_progress()
                    for action in actions:
                        action()
                wait_for_progress()
            finally:
                stop.set()
                for thread in threads:
                    thread.join(LONG_S)
        assert not problems, problems[:5]


def test_a_pool_at_the_clients_endpoint_goes_on_to_the_next_address_and_says_so_once(lm: ScriptedLM) -> None:
    with running_broker() as broker, Client(broker.clients, name="caller") as client:
        command = ["worker", PROGRAMS, "--broker", broker.clients, "--broker", broker.workers, "--processes", "1"]
        with running("pool", command, clean_environ(lm)) as pool:
            assert client.call("qa", question="there?").answer == expected_answer("answer", "there?")
            told = [line for line in pool.stderr().splitlines() if "clients connect here, not workers" in line]
            assert len(told) == 1
