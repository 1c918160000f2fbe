"""A machine that sleeps, and a clock that jumps: neither ends a call, nor begins one twice.

A laptop that is suspended stops all processes at one moment, and lets them go on in any order. What is done here by
signals differs in one thing: CLOCK_MONOTONIC goes on, and by it everybody is dead, orphaned and forgotten long since.
"""

from __future__ import annotations

import ast
import contextlib
import datetime
import json
import os
import random
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.system import PROGRAMS
from tests.lm import ScriptedLM, expected_answer
from tests.processes import (
    ROOT,
    Process,
    RunningBroker,
    RunningPool,
    clean_environ,
    running_broker,
    running_command,
    running_pool,
    wait_until,
)

QUICK = {
    "DSPYMQ_BROKER_WORKER_PING_MS": "300",
    "DSPYMQ_BROKER_CLIENT_PING_MS": "300",
    "DSPYMQ_BROKER_ORPHAN_MS": "1500",
    "DSPYMQ_BROKER_ADOPT_MS": "1500",
}
"""A peer is dead after 0.9 s, its jobs are given up after 1.5 s."""

SLEEP_S = 2.5
DAY_S = 86_400
CALLS = 6


class Machine:
    """A broker, a pool and a client, each in processes of its own; the LM is elsewhere."""

    def __init__(self, broker: RunningBroker, pool: RunningPool, caller: Process, lm: ScriptedLM) -> None:
        self.broker = broker
        self.pool = pool
        self.caller = caller
        self.lm = lm

    def sleep(self, order: random.Random, seconds: float = SLEEP_S) -> list[int]:
        """Stop everything, and let it go on one by one, in an order and at times of chance."""
        pids = [pid for one in (self.broker.process, self.pool.process, self.caller) for pid in one.members()]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        time.sleep(seconds)
        order.shuffle(pids)
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
            time.sleep(order.choice((0, 0, 0.05, 0.2)))
        return pids

    def answers(self) -> list[dict[str, object]]:
        """What the client got."""
        assert self.caller.process.stdout is not None
        return [json.loads(line) for line in self.caller.process.stdout.read().splitlines()]


@contextlib.contextmanager
def machine(extra: dict[str, str] | None = None, broker_environ: dict[str, str] | None = None) -> Iterator[Machine]:
    with (
        ScriptedLM() as lm,
        running_broker(environ={**(broker_environ or {}), **(extra or {})}) as broker,
        running_pool(broker, targets=[PROGRAMS], lm=lm, processes=2, concurrency=CALLS // 2, environ=extra) as pool,
        running_command(
            "caller",
            [sys.executable, "-m", "tests.faults.suspend_caller", broker.clients, str(CALLS), "call"],
            clean_environ(extra=extra),
            ROOT,
        ) as caller,
    ):
        assert caller.first_line() == "open"
        for n in range(CALLS):
            lm.wait_open(f"call{n}")
        yield Machine(broker, pool, caller, lm)


def assert_answered_once(made: Machine) -> None:
    answers = made.answers()
    assert [one["question"] for one in answers] == [f"#job=call{n} #hang" for n in range(CALLS)]
    for one in answers:
        assert one.get("answer") == expected_answer("answer", str(one["question"])), one
    assert {n: made.lm.job(f"call{n}").requests for n in range(CALLS)} == dict.fromkeys(range(CALLS), 1)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.timeout(150)
def test_all_stopped_together_longer_than_everybodys_death(seed: int) -> None:
    """Their LM has answered half of the calls meanwhile. Each call has one answer, and one request at its LM."""
    with machine(broker_environ=QUICK) as made:
        order = random.Random(seed)
        for n in range(0, CALLS, 2):
            made.lm.script(f"call{n}", hang=False)
        for n in range(0, CALLS, 2):
            made.lm.release(f"call{n}")
        made.sleep(order)
        time.sleep(order.random())
        made.sleep(order, seconds=1.2)
        made.lm.release()
        wait_until(lambda: made.caller.process.poll() is not None, 60.0, "the end of the client")
        assert_answered_once(made)


JUMPS = """
import datetime, os, time
_real = {name: getattr(time, name) for name in ("time", "time_ns")}
def _offset_s():
    try:
        return int(open(os.environ["JUMPS_BY"]).read() or 0)
    except (OSError, ValueError):
        return 0
time.time = lambda: _real["time"]() + _offset_s()
time.time_ns = lambda: _real["time_ns"]() + _offset_s() * 10**9
"""


@pytest.mark.soak
@pytest.mark.timeout(150)
def test_the_wall_clock_may_jump(tmp_path: Path) -> None:
    """By a day, forward and back, under open calls and between them, for broker, pool, executors and client."""
    (tmp_path / "sitecustomize.py").write_text(JUMPS)
    offset = tmp_path / "offset"
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    environ = {"PYTHONPATH": path, "JUMPS_BY": str(offset), "DSPYMQ_LOG_LEVEL": "debug"}
    with machine(environ) as made:
        for seconds in (-DAY_S, 0, DAY_S):
            offset.write_text(str(seconds))
            # Everybody has looked at it since.
            time.sleep(1.5)
            assert made.caller.process.poll() is None
        made.lm.release()
        wait_until(lambda: made.caller.process.poll() is not None, 60.0, "the end of the client")
        assert_answered_once(made)
        lines = [json.loads(line) for line in made.broker.process.stderr().splitlines()]
        ends = [line["time"] for line in lines if line.get("event") == "job.done"]
        tomorrow = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=DAY_S)
        assert {end[:13] for end in ends} <= {
            (tomorrow - datetime.timedelta(minutes=minutes)).isoformat()[:13] for minutes in (0, 5)
        }, "it did jump"
        assert len(ends) == CALLS
        assert not [line for line in lines if line.get("event") == "worker.lost"]


WALL = {
    ("protocol/ids.py", "time.time_ns"): "ids begin with the time at which they were made",
    ("worker/supervisor/pool.py", "time.time_ns"): "shown to people: when executors were started",
    ("transport/log_lines.py", "datetime.fromtimestamp"): "log lines",
}
"""Where the wall clock is read, and what for."""


def test_nothing_is_decided_by_the_wall_clock() -> None:
    found = set()
    for folder in ("broker", "worker", "clients/python", "transport", "protocol"):
        for file in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(file.read_text("utf-8"))):
                if isinstance(node, ast.Attribute):
                    name = f"{ast.unparse(node.value).split('.')[-1]}.{node.attr}"
                    if name in {
                        "time.time",
                        "time.time_ns",
                        "datetime.now",
                        "datetime.utcnow",
                        "datetime.fromtimestamp",
                    }:
                        found.add((str(file.relative_to(ROOT)), name))
    assert found <= set(WALL), f"a clock that may jump is read in {found - set(WALL)}"
