"""Everything at once, for a while: whatever is killed or frozen, every call has one end, and nothing is left over."""

import os
import random
import signal
import threading
import time
from collections import Counter

import pytest

from dspymq import Client
from dspymq.exceptions import DspymqError
from tests.faults.system import PROGRAMS
from tests.integration.test_done_restarts import Restartable
from tests.lm import ScriptedLM, expected_answer
from tests.processes import RunningPool, running_pool, wait_until

SECONDS = float(os.environ.get("CHAOS_SECONDS", "40"))
CALLERS = 12
ALLOWED = {"worker_lost", "poison", "client_gone"}
"""What a call may end with: it was in three processes that were killed under it, twice alone."""


class Callers:
    """Threads that call without a pause, each through a client of its own, half of them by streams."""

    def __init__(self, address: str) -> None:
        self._clients = [Client(address, name=f"caller-{n}", timeout_s=60) for n in range(CALLERS)]
        self._threads = [threading.Thread(target=self._run, args=(n,)) for n in range(CALLERS)]
        self._stop = threading.Event()
        self.ends: Counter[str] = Counter()
        self.problems: list[str] = []
        self.longest_s = 0.0

    def __enter__(self) -> "Callers":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(90)
        for client in self._clients:
            client.close()

    def _run(self, number: int) -> None:
        n = 0
        while not self._stop.is_set():
            n += 1
            began = time.monotonic()
            try:
                self._call(number, n)
            except DspymqError as error:
                self.ends[error.reason] += 1
            except Exception as error:
                self.problems.append(repr(error))
            self.longest_s = max(self.longest_s, time.monotonic() - began)

    def _call(self, number: int, n: int) -> None:
        program = ("qa", "sync_qa")[number // 2 % 2]
        text = f"#job=c{number}n{n} caller {number} call {n}"
        question = f"{text} #tokens=30 #chunk=9 #token_ms={n % 3} #delay_ms={n % 7 * 10}"
        job = self._clients[number].submit(program, {"question": question}, stream=number % 2 == 0)
        streamed = ""
        if number % 2 == 0:
            for chunk in job:
                streamed = chunk.text if chunk.reset else streamed + chunk.text
        answer = job.result(90).answer
        if answer != expected_answer("answer", text, tokens=30):
            self.problems.append(f"{text}: {answer}")
        if number % 2 == 0 and streamed != answer:
            self.problems.append(f"{text}: stream {streamed!r} is not {answer!r}")
        self.ends["ok"] += 1


@pytest.mark.soak
@pytest.mark.timeout(SECONDS + 150)
def test_every_call_has_one_right_end_whatever_is_killed_or_frozen() -> None:
    dice = random.Random(os.environ.get("CHAOS_SEED", "dspymq"))
    with ScriptedLM() as lm, Restartable() as brokers:
        assert brokers.broker is not None
        settings = {"targets": [PROGRAMS], "lm": lm, "processes": 2, "concurrency": 4}
        with (
            running_pool(brokers.broker, name="one", **settings) as one,
            running_pool(brokers.broker, name="two", **settings) as two,
            Client(brokers.clients, name="watcher") as watcher,
        ):
            with Callers(brokers.clients) as callers:
                faults = storm(dice, brokers, [one, two])
            print(f"faults={dict(faults)} ends={dict(callers.ends)} longest_s={callers.longest_s:.1f}")
            assert not callers.problems, callers.problems[:5]
            assert set(callers.ends) <= {"ok", *ALLOWED}, callers.ends
            assert callers.ends["ok"] > 100
            assert sum(callers.ends[reason] for reason in ALLOWED) < callers.ends["ok"] // 10
            for pool in (one, two):
                pool.wait_ready(2)
            wait_until(lambda: watcher.stats()["jobs"]["live"] == 0, 90.0, "the end of every job")
            lm.wait_idle()
            assert watcher.stats()["slots"]["default"]["used"] == 0


def storm(dice: random.Random, brokers: Restartable, pools: list[RunningPool]) -> Counter[str]:
    """One fault after the other; the pauses between them are part of the fault."""
    done: Counter[str] = Counter()
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        fault = dice.choice(["executor", "executor", "freeze_executor", "freeze_pool", "freeze_broker", "broker"])
        pool = dice.choice(pools)
        executors = [int(pid) for pid in children(pool)]
        if fault == "broker":
            brokers.kill()
            time.sleep(dice.uniform(0, 0.5))
            brokers.start()
        elif fault == "executor" and executors:
            kill(dice.choice(executors), signal.SIGKILL)
        elif fault == "freeze_executor" and executors:
            freeze(dice.choice(executors), dice.uniform(0.1, 1.5))
        elif fault == "freeze_pool":
            freeze(pool.pid, dice.choice([0.5, 4.0]))
        elif fault == "freeze_broker":
            assert brokers.broker is not None
            freeze(brokers.broker.pid, dice.choice([0.5, 4.0]))
        done[fault] += 1
        time.sleep(dice.uniform(0.2, 1.5))
    return done


def children(pool: RunningPool) -> list[int]:
    """Its executors, as the kernel sees them: forked from the one that was started by the pool."""
    return [pid for pid, command in pool.process.members().items() if pid != pool.pid and "forkserver" in command][1:]


def kill(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def freeze(pid: int, seconds: float) -> None:
    kill(pid, signal.SIGSTOP)
    time.sleep(seconds)
    kill(pid, signal.SIGCONT)
