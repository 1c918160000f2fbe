"""Carries out cells of the matrix of faults: brings a job to its point, hits the victim, sees what becomes of it."""

from __future__ import annotations

import dataclasses
import os
import signal
import time
from collections.abc import Callable
from typing import Any, Final

import pytest

from tests.faults.matrix import Cell, Fault, Outcome, Point, Victim, once
from tests.faults.matrix_processes import DEAD_MS, PING_MS, go_on, kill_executor, pids_in, stop, unread_bytes
from tests.faults.matrix_system import CLIENTS, MatrixSystem
from tests.faults.matrix_table import CELLS, TABLE, is_quick
from tests.faults.system import PATIENCE_S
from tests.lm import expected_answer
from tests.processes import wait_until

PAUSE_S: Final = 0.1
SHORT_S: Final = (DEAD_MS - PING_MS) / 1000
"""A supervisor that stood still for longer takes itself for lost (R-3.16)."""
WORDS: Final = 40
LARGE_BYTES: Final = 12 * 1024 * 1024
"""More than the kernel takes of a socket that nobody reads."""
SMALL_BYTES: Final = 40_000
"""A whole result in a socket that is told from pings by its size."""
HALF_WAY_BYTES: Final = 20_000


DEADLINE_S: Final = 3.0
LONG_S: Final = 120.0


_IN_PIPE: Final = (Victim.EXECUTOR, Victim.JOB)
"""Their result is half-way between executor and supervisor; those of others on their way to the broker ..."""
_AT_CLIENT: Final = (Victim.CLIENT, Victim.JOB)
"""... or, half or whole, to the client."""


class TooSlow(Exception):
    """The machine was so slow that the fault was another one."""


@dataclasses.dataclass
class Scene:
    """A job at its point. `helpers` stand still so that it stays there, as the victim may, since `stopped_s`."""

    victim: int
    job: str = ""
    helpers: list[int] = dataclasses.field(default_factory=list)
    stopped_s: float | None = None
    streams: bool = False
    bytes: int = 0


def parameters(victim: Victim | None = None) -> list[Any]:
    """For pytest: the cells of this victim that are left to the soak, or without one those for every run."""
    cells = [cell for cell in CELLS if isinstance(cell.outcome, Outcome)]
    chosen = [
        cell for cell in cells if (is_quick(cell) if victim is None else cell.victim is victim and not is_quick(cell))
    ]
    # The pools of these are started in another way, and are not used for others.
    chosen.sort(key=lambda cell: cell.point is Point.BEFORE_READY)
    return [pytest.param(cell, id=cell.name) for cell in chosen]


def run(system: MatrixSystem, cell: Cell) -> None:
    """The whole cell. Raises AssertionError, or TimeoutError, when anything is not as the table says."""
    outcome = cell.outcome
    assert isinstance(outcome, Outcome), "only what stands for itself is tried"
    scene = _strike(system, cell)
    if scene.job:
        _check(system, scene, outcome)
    system.settle()
    fresh = system.submit()
    end = system.caller.wait_for(fresh, "end")
    expected = outcome if cell.point is Point.IDLE else once("")
    assert _seen(system, fresh, end) == (expected.code, expected.reason, expected.attempt, expected.requests)
    system.settle()
    wait_until(lambda: system.clients() == CLIENTS, PATIENCE_S, "the end of sessions")


def _strike(system: MatrixSystem, cell: Cell) -> Scene:
    """Bring a job to its point and hit the victim; begin again if the machine was too slow for that."""
    for slowness in (1, 3, 9):
        try:
            system.slowness = slowness
            scene = _ARRANGE[cell.point](system, cell)
            _hit(system, cell, scene)
        except TooSlow:
            system.let_go()
            if slowness == 9:
                raise
            system.settle()
        else:
            if _is_stopped(cell):
                system.lm.wait_disconnected(scene.job)
            system.let_go()
            return scene
    raise AssertionError("the last one returns or raises")


def _is_stopped(cell: Cell) -> bool:
    """Whether its request at the LM is closed, and not answered any more."""
    outcome = cell.outcome
    return isinstance(outcome, Outcome) and outcome.code != "OK" and cell.point in (Point.RUNNING, Point.STREAMING)


def _seen(system: MatrixSystem, job: str, end: dict[str, Any]) -> tuple[str, str, int, int]:
    """How it ended for its client, and at the LM."""
    attempt = end["attempt"]
    if end["code"] != "OK":
        # A client is not told the attempt of an error.
        attempt = wait_until(lambda: system.ends(job), PATIENCE_S, "the event of its end")[0]["attempt"]
    return end["code"], end["reason"], attempt, system.lm.job(job).requests


def _check(system: MatrixSystem, scene: Scene, outcome: Outcome) -> None:
    job = scene.job
    end = system.caller.wait_for(job, "end")
    assert _seen(system, job, end) == (outcome.code, outcome.reason, outcome.attempt, outcome.requests), end
    assert len(system.ends(job)) <= 1
    # A program that was begun without reaching its LM would be no better.
    assert len(pids_in(system.mark(job))) == outcome.requests
    if outcome.code == "OK":
        words = WORDS if scene.streams else None
        assert end["answer"] == expected_answer("answer", system.inputs(job)["question"], tokens=words)
        assert end["size"] == scene.bytes
        if scene.streams:
            assert end["streamed"] == end["answer"]


def _options(system: MatrixSystem, cell: Cell) -> dict[str, Any]:
    timeout_s = DEADLINE_S * system.slowness if cell.fault is Fault.DEADLINE else LONG_S
    return {"redeliver": cell.redeliver, "timeout_s": timeout_s}


# -- points -----------------------------------------------------------------------------------------------------------


def _before_ready(system: MatrixSystem, cell: Cell) -> Scene:
    victim = cell.victim
    system.pools.end()
    system.gate.shut()
    # In the usual way one process imports for all; each for itself is the only way in which an executor imports.
    system.pools.start(spawn=victim is Victim.EXECUTOR)
    importing = system.gate.wait_there()
    job = system.submit(**_options(system, cell))
    system.wait_state(job, "queued")
    return Scene(importing if victim is Victim.EXECUTOR else _pid_of(system, victim), job)


def _idle(system: MatrixSystem, cell: Cell) -> Scene:
    victim = cell.victim
    return Scene(system.pool.executor_pids()[0] if victim is Victim.EXECUTOR else _pid_of(system, victim))


def _dispatched(system: MatrixSystem, cell: Cell) -> Scene:
    victim = cell.victim
    if victim is Victim.SUPERVISOR:
        stop(system.pool.pid)
        stopped_s = time.monotonic()
        job = system.submit(**_options(system, cell))
        system.wait_state(job, "dispatched")
        return Scene(system.pool.pid, job, stopped_s=stopped_s)
    executor = system.pool.executor_pids()[0]
    stop(executor)
    job = system.submit(**_options(system, cell))
    system.wait_state(job, "dispatched")
    # The next one goes to the other executor: once it is answered, the first one is in its executor's pipe.
    beside = system.submit()
    system.caller.wait_for(beside, "end")
    if system.caller.has_ended(job):
        raise TooSlow("the executor was taken for stalled before the job came")
    assert not system.mark(job).exists()
    if victim is Victim.EXECUTOR:
        return Scene(executor, job)
    return Scene(_pid_of(system, victim), job, helpers=[executor])


def _running(system: MatrixSystem, cell: Cell) -> Scene:
    victim = cell.victim
    job = system.submit("#hang #fail_first=1", **_options(system, cell))
    system.lm.wait_open(job)
    return Scene(_pid_of(system, victim, job), job)


def _streaming(system: MatrixSystem, cell: Cell) -> Scene:
    victim = cell.victim
    job = system.submit(f"#hang_after=20 #fail_first=1 #tokens={WORDS} #chunk=4", stream=True, **_options(system, cell))
    system.caller.wait_for(job, "text")
    system.lm.wait_for(lambda: system.lm.job(job).pieces >= 20)
    return Scene(_pid_of(system, victim, job), job, streams=True)


def _answering(system: MatrixSystem, cell: Cell) -> Scene:
    victim = cell.victim
    job, scene = _with_size(system, cell, LARGE_BYTES)
    if victim in _IN_PIPE:
        scene.helpers = [system.pool.pid]
        stop(system.pool.pid)
        system.lm.release(job)
        wait_until(system.mark(f"{job}.half_way").exists, PATIENCE_S, "half a result in the pipe")
        if victim is Victim.JOB:
            # Its supervisor is to be told that it is over.
            (executor,) = pids_in(system.mark(job))
            stop(executor)
            go_on(system.pool.pid)
            scene.helpers = [executor]
        return scene
    _stop_reader(system, scene, victim)
    system.lm.release(job)
    _wait_unread(system, victim)
    return scene


def _unacked(system: MatrixSystem, cell: Cell) -> Scene:
    victim = cell.victim
    job, scene = _with_size(system, cell, SMALL_BYTES)
    _stop_reader(system, scene, victim)
    system.lm.release(job)
    _wait_unread(system, victim)
    return scene


def _with_size(system: MatrixSystem, cell: Cell, size: int) -> tuple[str, Scene]:
    tells = cell.victim in _IN_PIPE and size == LARGE_BYTES
    job = system.submit("#hang #fail_first=1", program="large", size=size, tells=tells, **_options(system, cell))
    system.lm.wait_open(job)
    return job, Scene(_pid_of(system, cell.victim, job), job, bytes=size)


def _stop_reader(system: MatrixSystem, scene: Scene, victim: Victim) -> None:
    """The one that the result goes to."""
    reader = system.caller.pid if victim in _AT_CLIENT else system.brokers.pid
    stop(reader)
    if reader == scene.victim:
        scene.stopped_s = time.monotonic()
    else:
        scene.helpers = [reader]


def _wait_unread(system: MatrixSystem, victim: Victim) -> None:
    def is_there() -> bool:
        if victim in _AT_CLIENT:
            found, missed = unread_bytes(remote=system.brokers.clients), system.clients() < CLIENTS
        else:
            found, missed = unread_bytes(local=system.brokers.workers), system.is_broker_missed()
        if missed and found < HALF_WAY_BYTES:
            raise TooSlow("the reader was missed before the result came")
        return found >= HALF_WAY_BYTES

    wait_until(is_there, PATIENCE_S, "a result that is not read")


_ARRANGE: Final[dict[Point, Callable[[MatrixSystem, Cell], Scene]]] = {
    Point.BEFORE_READY: _before_ready,
    Point.IDLE: _idle,
    Point.DISPATCHED: _dispatched,
    Point.RUNNING: _running,
    Point.STREAMING: _streaming,
    Point.ANSWERING: _answering,
    Point.UNACKED: _unacked,
}


def _pid_of(system: MatrixSystem, victim: Victim, job: str = "") -> int:
    match victim:
        case Victim.EXECUTOR:
            return wait_until(lambda: pids_in(system.mark(job)), PATIENCE_S, "its start")[-1]
        case Victim.SUPERVISOR:
            return system.pool.pid
        case Victim.BROKER:
            return system.brokers.pid
        case Victim.CLIENT:
            return system.caller.pid
        case Victim.JOB:
            return 0


# -- faults -----------------------------------------------------------------------------------------------------------


def _hit(system: MatrixSystem, cell: Cell, scene: Scene) -> None:
    if cell.fault is Fault.KILL:
        _KILL[cell.victim](system, cell, scene)
        return
    if cell.victim is Victim.JOB:
        _stop_job(system, cell, scene)
        return
    is_missed = _missing(system, cell, scene)
    stop(scene.victim)
    began_s = time.monotonic() if scene.stopped_s is None else scene.stopped_s
    if cell.fault is Fault.PAUSE and scene.stopped_s is None:
        time.sleep(PAUSE_S)
    _let_helpers_go(scene)
    if cell.fault is Fault.FREEZE:
        wait_until(is_missed, PATIENCE_S, f"somebody who misses the {cell.victim}")
    go_on(scene.victim)
    if cell.fault is Fault.PAUSE and _would_matter(cell) and time.monotonic() - began_s > SHORT_S:
        raise TooSlow("it may have been missed")


def _would_matter(cell: Cell) -> bool:
    """Whether a longer pause would change the outcome."""
    outcomes = [TABLE[cell.victim][fault][cell.point] for fault in (Fault.PAUSE, Fault.FREEZE)]
    return len({one.text() for one in outcomes if isinstance(one, Outcome)}) > 1


def _let_helpers_go(scene: Scene) -> None:
    for pid in scene.helpers:
        go_on(pid)


def _missing(system: MatrixSystem, cell: Cell, scene: Scene) -> Callable[[], bool]:
    """Whether somebody has noticed that the victim stands still."""
    match cell.victim:
        case Victim.EXECUTOR:
            return lambda: "stalled" in [one["state"] for one in system.pool.executors() if one["pid"] == scene.victim]
        case Victim.SUPERVISOR if cell.point is Point.BEFORE_READY:
            # The broker has a session without a worker, of which it tells nobody.
            end_s = time.monotonic() + 2 * DEAD_MS / 1000
            return lambda: time.monotonic() > end_s
        case Victim.SUPERVISOR:
            return lambda: not system.pool.row()
        case Victim.BROKER:
            return system.is_broker_missed
        case _:
            return lambda: system.clients() < CLIENTS


def _stop_job(system: MatrixSystem, cell: Cell, scene: Scene) -> None:
    """Everything holds the job where it is until the broker stops it."""
    if cell.fault is Fault.CANCEL:
        system.watcher.request("jobs.cancel", {"job": scene.job})
    elif system.row_of(scene.job).get("state") in (None, "cancelling", "done"):
        raise TooSlow("its deadline came before it was there")
    # The client may have acknowledged its end at once, which is then forgotten.
    wait_until(lambda: system.row_of(scene.job).get("state", "done") in ("cancelling", "done"), PATIENCE_S, "its stop")
    if cell.point is Point.BEFORE_READY:
        system.caller.wait_for(scene.job, "end")
    _let_helpers_go(scene)


def _kill_executor(_: MatrixSystem, __: Cell, scene: Scene) -> None:
    kill_executor(scene.victim)
    _let_helpers_go(scene)


def _kill_supervisor(system: MatrixSystem, _: Cell, scene: Scene) -> None:
    os.kill(scene.victim, signal.SIGKILL)
    _let_helpers_go(scene)
    system.pools.end(signal.SIGKILL)
    system.pools.start()


def _kill_broker(system: MatrixSystem, _: Cell, scene: Scene) -> None:
    system.brokers.kill()
    _let_helpers_go(scene)
    system.brokers.start()


def _kill_client(system: MatrixSystem, _: Cell, scene: Scene) -> None:
    """Then another client asks for the same job."""
    os.kill(scene.victim, signal.SIGKILL)
    if scene.job:
        # Until then the job stays where it is: its helpers and its LM hold it.
        system.wait_state(scene.job, "cancelling", "done")
        _let_helpers_go(scene)
        system.wait_state(scene.job, "done")
    wait_until(lambda: system.clients() < CLIENTS, PATIENCE_S, "the end of its session")
    system.new_caller()
    if scene.job:
        system.ask_again(scene.job)


_KILL: Final = {
    Victim.EXECUTOR: _kill_executor,
    Victim.SUPERVISOR: _kill_supervisor,
    Victim.BROKER: _kill_broker,
    Victim.CLIENT: _kill_client,
}
