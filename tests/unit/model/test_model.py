"""Broker, pools and clients at once, over a wire that breaks, against everything that can go wrong among them.

The real cores and the real codec run in virtual time (`simulation`); what must always hold is checked at every message
(`broker_oracle`, `pool_oracle`, `client_oracle`, `ledger`), after every step and at the end (`books`). A failure shows
the last messages with their times. DSPYMQ_MODEL=long looks for much longer; DSPYMQ_MODEL=<n> runs n examples.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from dspymq.protocol import client_messages as c
from tests.unit.model.client_host import ClientHost
from tests.unit.model.executor import Executor, Plan
from tests.unit.model.pool_host import Pool, PoolHost
from tests.unit.model.simulation import Simulation

MODEL = os.environ.get("DSPYMQ_MODEL", "")
EXAMPLES = 4_000 if MODEL == "long" else int(MODEL or 90)

PICK = st.integers(0, 5)
WANTS = st.sampled_from(
    [[], [], ["chunks"], ["chunks"], ["accepted", "started"], ["started", "chunks"], ["accepted", "chunks", "tools"]]
)
WINDOWS = st.sampled_from([None, 1, 2, 6])


PAUSES = st.sampled_from([0, 0, 2, 10, 40, 150, 400])


def step(**given: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A rule that first lets some time pass."""

    def decorate(act: Callable[..., None]) -> Callable[..., None]:
        def stepped(self: Everything, pause: int, **chosen: Any) -> None:
            self.sim.run_for(pause)
            act(self, **chosen)

        stepped.__name__ = act.__name__
        return rule(pause=PAUSES, **given)(stepped)

    return decorate


class Everything(RuleBasedStateMachine):
    """The rules are what users do and what goes wrong."""

    @initialize(seed=st.integers(0, 1 << 32), traffic=st.sampled_from([0, 1, 1, 2, 3]))
    def begin(self, seed: int, traffic: int) -> None:
        self.sim = Simulation(seed, traffic)

    # -- who --------------------------------------------------------------------------------------------------------

    def client(self, which: int) -> ClientHost:
        return self.sim.clients[which % len(self.sim.clients)]

    def host(self, which: int) -> PoolHost:
        return self.sim.pools[which % len(self.sim.pools)]

    def pool(self, which: int) -> Pool | None:
        return self.host(which).pool

    def executor(self, which: int) -> Executor | None:
        executors = [one for host in self.sim.pools if host.pool for one in host.pool.executors.values() if one.alive]
        busy = [one for one in executors if one.attempts]
        among = busy or executors
        return among[which % len(among)] if among else None

    # -- users ------------------------------------------------------------------------------------------------------

    @step(
        which=PICK,
        count=st.sampled_from([1, 1, 2, 5]),
        run_ms=st.sampled_from([5, 60, 400, 400, 1_500]),
        timeout_ms=st.sampled_from([600, 4_000, 7_000, 7_000]),
        end=st.sampled_from(["ok", "ok", "ok", "ok", "ok", "fail", "invalid", "hang", "die"]),
        stubborn=st.sampled_from([False, False, False, True]),
        want=WANTS,
        window=WINDOWS,
        redeliver=st.sampled_from([True, True, False]),
        keep=st.booleans(),
        priority=st.sampled_from([4, 4, 0, 9]),
        reads=st.sampled_from([True, True, False]),
    )
    def submit(
        self,
        which: int,
        count: int,
        run_ms: int,
        timeout_ms: int,
        end: str,
        stubborn: bool,
        want: list[str],
        window: int | None,
        redeliver: bool,
        keep: bool,
        priority: int,
        reads: bool,
    ) -> None:
        for _ in range(count):
            plan = Plan(
                run_ms=run_ms,
                pieces=8 if "chunks" in want else 0,
                tools=2 if "tools" in want else 0,
                end=end,
                stubborn=stubborn,
            )
            submit = c.Submit(
                job=self.sim.new_job(),
                program="q" if len(self.sim.jobs) % 3 == 0 else "p",
                timeout_ms=timeout_ms,
                want=want,  # type: ignore[arg-type]
                window=window,
                redeliver=redeliver,
                on_disconnect="keep" if keep else "cancel",
                priority=priority,
            )
            self.sim.submit(self.client(which), submit, plan, reads=reads)

    @precondition(lambda self: any(client.handles for client in self.sim.clients))
    @step(which=PICK, job=PICK)
    def cancel(self, which: int, job: int) -> None:
        client = self.client(which)
        handles = list(client.handles.values())
        if handles:
            client.cancel(handles[-1 - job % len(handles)])

    @precondition(lambda self: self.sim.jobs)
    @step(which=PICK, job=PICK, want=WANTS, window=WINDOWS)
    def attach(self, which: int, job: int, want: list[str], window: int | None) -> None:
        jobs = list(self.sim.jobs)
        self.sim.attach(self.client(which), jobs[-1 - job % len(jobs)], want, window)

    @step(which=PICK, resumes=st.booleans(), away_ms=st.sampled_from([0, 50, 3_000]))
    def client_crashes(self, which: int, resumes: bool, away_ms: int) -> None:
        client = self.client(which)
        client.crash()
        if resumes:
            self.sim.world.after(away_ms, self.sim.resume, client)
        else:
            client.lost.clear()

    @step(which=PICK)
    def client_closes(self, which: int) -> None:
        client = self.client(which)
        client.close()
        if client.closed:
            client.crash()
            client.lost.clear()

    @step(which=PICK, drain=st.booleans())
    def drain(self, which: int, drain: bool) -> None:
        pool = self.pool(which)
        if pool is not None:
            method = "workers.drain" if drain else "workers.undrain"
            more: dict[str, Any] = {"grace_ms": 300} if drain else {}
            self.client(which).ask(method, worker=pool.worker, **more)

    # -- what goes wrong --------------------------------------------------------------------------------------------

    @step(which=PICK, pools=st.booleans(), told=st.sampled_from([None, 0, 2, 300]), replays=st.booleans())
    def connection_breaks(self, which: int, pools: bool, told: int | None, replays: bool) -> None:
        pool = self.pool(which)
        socket = (pool.socket if pool else None) if pools else self.client(which).socket
        if socket is not None:
            socket.break_off(told_after_ms=told, replays=replays)

    @step(which=PICK, pools=st.booleans(), ms=st.sampled_from([100, 700, 1_600, 4_000]))
    def partition(self, which: int, pools: bool, ms: int) -> None:
        island = self.host(which).island if pools else self.client(which).island
        if not island.cut_off:
            self.sim.world.saw("---", f"partition of {'pool' if pools else 'client'} {which} for {ms} ms")
            island.cut()
            self.sim.world.after(ms, island.join)

    @step(
        away_ms=st.sampled_from([0, 5, 200, 1_500]),
        other=st.booleans(),
        older=st.booleans(),
        polite=st.sampled_from([False, False, True]),
    )
    def broker_restarts(self, away_ms: int, other: bool, older: bool, polite: bool) -> None:
        self.sim.restart_broker(away_ms=away_ms, other=other, older=older, polite=polite)

    @step(ms=st.sampled_from([200, 900, 2_500]))
    def broker_stops(self, ms: int) -> None:
        if self.sim.broker is not None:
            self.sim.broker.stall(ms)

    @step(which=PICK, ms=st.sampled_from([300, 1_000, 1_400, 3_000]))
    def supervisor_stops(self, which: int, ms: int) -> None:
        pool = self.pool(which)
        if pool is not None:
            pool.stop(ms)

    @step(which=PICK, ms=st.sampled_from([300, 4_000]))
    def client_stops(self, which: int, ms: int) -> None:
        self.client(which).stop(ms)

    @step(which=PICK, kill=st.booleans())
    def pool_restarts(self, which: int, kill: bool) -> None:
        pool = self.pool(which)
        if pool is not None and not kill:
            pool.shutdown()
        else:
            self.host(which).kill()

    @step(which=PICK, starts=st.sampled_from([0, 0, 2]))
    def executor_dies(self, which: int, starts: int) -> None:
        executor = self.executor(which)
        if executor is not None:
            self.host(which).failing_starts = starts
            executor.die(-9)

    @step(which=PICK, ms=st.sampled_from([400, 2_000, 5_000]))
    def executor_freezes(self, which: int, ms: int) -> None:
        executor = self.executor(which)
        if executor is not None:
            self.sim.world.saw(executor.name, f"executor stands still for {ms} ms")
            executor.freeze(ms)

    @step(which=PICK, reads=st.booleans())
    def client_reads(self, which: int, reads: bool) -> None:
        self.client(which).read(reads)

    # -- time -------------------------------------------------------------------------------------------------------

    @rule(ms=st.sampled_from([20, 150, 600, 1_500]))
    def time_passes(self, ms: int) -> None:
        self.sim.run_for(ms)

    def teardown(self) -> None:
        if hasattr(self, "sim") and not self.sim.world.explained:
            self.sim.heal()


Everything.TestCase.settings = settings(
    max_examples=EXAMPLES,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
TestEverything: Any = pytest.mark.timeout(3_600)(Everything.TestCase)
