"""Clients in all languages at once, while executors and the broker are killed: no answer is lost or doubled."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest

from dspymq import Client
from tests.clients.drivers import DrivenClient, driven, wait_for_calls
from tests.clients.languages import commands
from tests.faults.system import PROGRAMS
from tests.integration.test_done_restarts import Restartable
from tests.lm import ScriptedLM
from tests.processes import RunningPool, running_pool, wait_until

SECONDS = float(os.environ.get("MIXED_SECONDS", "120"))
BROKER_DIES_S = 15.0
CONCURRENCY = 6


def kill_executor(dice: random.Random, pool: RunningPool) -> bool:
    """SIGKILL one at random; False if there is none just now.

    Not one that runs a job alone: the job would be taken for what ends its process, and twice is poison.
    """
    pids = sorted(one["pid"] for one in pool.executors() if one["state"] == "ready" and one["pid"])
    if not pids:
        return False
    try:
        os.kill(dice.choice(pids), signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.soak
@pytest.mark.timeout(SECONDS + 300)
def test_all_clients_at_once_while_executors_and_the_broker_are_killed(tmp_path: Path) -> None:
    """By a ledger of each client, and that of the LM: every call once, and no more requests than attempts."""
    dice = random.Random(os.environ.get("MIXED_SEED", "dspymq"))
    with ScriptedLM() as lm, Restartable() as brokers:
        assert brokers.broker is not None
        settings = {"targets": [PROGRAMS], "lm": lm, "processes": 3, "concurrency": CONCURRENCY}
        with running_pool(brokers.broker, **settings) as pool, Client(brokers.clients, name="watcher") as watcher:
            made = commands(tmp_path)
            clients = [DrivenClient(name, command, brokers.clients) for name, command in made.items()]
            killed = deaths = 0
            with driven(clients):
                wait_for_calls(clients, 1)
                end, next_death = time.monotonic() + SECONDS, time.monotonic() + BROKER_DIES_S
                while time.monotonic() < end:
                    killed += kill_executor(dice, pool)
                    if time.monotonic() > next_death:
                        brokers.kill()
                        time.sleep(dice.uniform(0, 1))
                        brokers.start()
                        deaths += 1
                        next_death += BROKER_DIES_S
                    time.sleep(dice.uniform(0.5, 1.5))
            answered = {client.name: client.check() for client in clients}
            attempts = {
                call: outcomes[0].get("attempt") for client in clients for call, outcomes in client.ledger.items()
            }
            requests = {call: lm.job(call).requests for call in attempts}
            print(f"killed={killed} broker_deaths={deaths} answered={answered} requests={sum(requests.values())}")
            for call, attempt in attempts.items():
                # Another broker counts attempts from 1: what an executor's end cost under the one before is not seen.
                assert 1 <= requests[call] <= (attempt or killed) + deaths, f"{call}: {attempt=}, {requests[call]}"
            assert sum(requests.values()) <= len(requests) + killed * CONCURRENCY + deaths
            assert min(answered.values()) > SECONDS / 2, answered
            pool.wait_ready(3)
            wait_until(lambda: watcher.stats()["jobs"]["live"] == 0, 30.0, "the end of every job")
