"""The system that the matrix of faults is carried out on, and how it is seen to be whole."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

from dspymq import Client
from dspymq.exceptions import DspymqError
from dspymq.protocol import new_uuid7
from tests.faults.matrix_processes import EXECUTORS, START_S, Brokers, Caller, Gate, Pools, go_on
from tests.faults.system import PATIENCE_S
from tests.lm import ScriptedLM
from tests.processes import RunningPool, wait_until

CLIENTS = 3
"""The caller, the watcher, and the one that looks after the pool."""


class MatrixSystem:
    """Broker, pool, LM, a client process, and a watcher that is not hit."""

    def __init__(self, lm: ScriptedLM, brokers: Brokers, pools: Pools, gate: Gate, watcher: Client, room: Path) -> None:
        self.lm = lm
        self.brokers = brokers
        self.pools = pools
        self.gate = gate
        self.watcher = watcher
        self.caller = Caller(brokers.clients)
        self.slowness = 1
        """How much more time than usual a deadline is to leave."""
        self._room = room
        self._processes = 0
        self._asked: dict[str, dict[str, Any]] = {}
        self._ends: list[dict[str, Any]] = []
        self._events = watcher.subscribe("job.done")
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    @property
    def pool(self) -> RunningPool:
        """The present pool."""
        return self.pools.pool

    def mark(self, job: str) -> Path:
        """Where the job's program notes its processes."""
        return self._room / job

    def submit(
        self,
        script: str = "",
        *,
        program: str = "asks",
        stream: bool = False,
        redeliver: bool = True,
        on_disconnect: str = "cancel",
        timeout_s: float = 120.0,
        **inputs: Any,
    ) -> str:
        """Have the client submit a job, with these directives for its first request; its id, and its name at the LM."""
        job = new_uuid7()
        asked = {"job": job, "program": program, "inputs": self.inputs(job, script, **inputs)}
        options = {"stream": stream, "redeliver": redeliver, "on_disconnect": on_disconnect}
        options["timeout_s"] = timeout_s
        self._asked[job] = {**asked, "options": options}
        self.caller.submit(**self._asked[job])
        return job

    def ask_again(self, job: str) -> None:
        """Have the present client ask for a job that another has submitted."""
        asked = self._asked[job]
        self.caller.submit(**{**asked, "options": {**asked["options"], "resume": True}})

    def ends(self, job: str) -> list[dict[str, Any]]:
        """What the broker's events said of the end of a job."""
        return [event for event in self._ends if event["job"] == job]

    def inputs(self, job: str, script: str = "", **inputs: Any) -> dict[str, Any]:
        """The same inputs for the same job."""
        return {"question": f"#job={job} {script} tell".strip(), "mark": str(self.mark(job)), **inputs}

    def row_of(self, job: str) -> dict[str, Any]:
        """What the broker knows of a job; {} if nothing."""
        with contextlib.suppress(DspymqError):
            found: dict[str, Any] = self.watcher.request("jobs.get", {"job": job}, timeout_s=PATIENCE_S)
            return found
        return {}

    def wait_state(self, job: str, *states: str) -> None:
        """Wait until the broker has the job in one of these states."""
        wait_until(lambda: self.row_of(job).get("state") in states, PATIENCE_S, f"{job} {' or '.join(states)}")

    def clients(self) -> int:
        """The sessions of clients."""
        return int(self.watcher.stats()["clients"])

    def is_broker_missed(self) -> bool:
        """Whether pool and watcher have given it up. (It is not asked.)"""
        log = self.pool.process.stderr()
        gave_up = log.rfind("broker.down") > log.rfind("broker.up")
        return gave_up and not self.watcher._inner.driver.core.session.live

    def let_go(self) -> None:
        """Nothing stands still any more, and nobody waits at the gate or at the LM."""
        for pid in (self.brokers.pid, self.caller.pid, *self.pool.process.members()):
            go_on(pid)
        self.gate.open()
        self.lm.release()

    def new_caller(self) -> None:
        """The client process that was killed is followed by another."""
        self.caller.end()
        self.caller = Caller(self.brokers.clients)

    def settle(self) -> None:
        """Wait until all is whole: one pool whose executors take jobs, nothing held, nothing left over."""
        problems = [""]

        def is_whole() -> bool:
            try:
                problems[0] = self._problem()
            except DspymqError as error:
                # The broker is not there yet.
                problems[0] = str(error)
            return not problems[0]

        try:
            wait_until(is_whole, START_S, "a whole system")
        except TimeoutError as error:
            error.add_note(f"not whole: {problems[0]}")
            raise

    def _problem(self) -> str:
        """Why this is not the system as it was in the beginning; empty if it is."""
        workers, executors, stats = self.watcher.workers(), self.pool.executors(), self.watcher.stats()
        members = self.pool.process.members()
        whole = (
            len(workers) == 1
            and self.pool.row().get("state") == "ready"
            and [one["state"] for one in executors] == ["ready"] * EXECUTORS
            and all(one["pid"] in members for one in executors)
        )
        if not whole:
            return f"workers: {workers}"
        if stats["jobs"]["live"] or stats["slots"]["default"]["used"] or self.lm.open:
            return f"jobs: {stats['jobs']}, slots: {stats['slots']}, requests: {self.lm.open}"
        # Started in the usual way, it has as many processes as at first.
        self._processes = self._processes or len(members)
        if not self.pools.spawns and len(members) != self._processes:
            return f"processes: {members}"
        return ""

    def close(self) -> None:
        """End the client process."""
        self.caller.end()
        self._events.close()
        self._listener.join(PATIENCE_S)

    def _listen(self) -> None:
        for event in self._events:
            self._ends.append(event.details)


@contextlib.contextmanager
def running_matrix(room: Path) -> Iterator[MatrixSystem]:
    """Run one while the block runs; `room` is a directory for marks."""
    with contextlib.ExitStack() as stack:
        lm = stack.enter_context(ScriptedLM())
        brokers = Brokers()
        stack.enter_context(brokers)
        gate = stack.enter_context(contextlib.closing(Gate(room / "gate")))
        pools = stack.enter_context(contextlib.closing(Pools(brokers, lm, gate)))
        pools.start()
        watcher = stack.enter_context(Client(brokers.clients, name="watcher"))
        system = stack.enter_context(contextlib.closing(MatrixSystem(lm, brokers, pools, gate, watcher, room)))
        system.settle()
        yield system


class Keeper:
    """Keeps a system for the next test, unless a test failed with it."""

    def __init__(self, room: Path) -> None:
        self.slowness = 1
        """How much more time than usual a deadline is to leave."""
        self._room = room
        self._stack = contextlib.ExitStack()
        self._system: MatrixSystem | None = None

    @contextlib.contextmanager
    def system(self) -> Iterator[MatrixSystem]:
        """The system, whole."""
        if self._system is None:
            self._system = self._stack.enter_context(running_matrix(self._room))
        try:
            yield self._system
        except BaseException as error:
            error.add_note(f"-- stderr of the pool:\n{self._system.pool.process.stderr()[-6_000:]}")
            self._system = None
            with contextlib.suppress(Exception):
                self._stack.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
