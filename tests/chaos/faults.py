"""The hands: each does the faults of its list, one after the other, and waits only as long as a fault itself lasts."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from dspymq.exceptions import DspymqError
from tests.chaos.callers import Caller
from tests.chaos.plan import Fault
from tests.chaos.services import Service, System, executors, fork_servers, send
from tests.chaos.timeline import Entry, Timeline
from tests.faults.network import Proxy
from tests.processes import START_S, RunningPool, wait_until

KILL: Final = signal.SIGKILL
DRAIN_GRACE_MS: Final = 1_000
ASK_S: Final = 3.0


class Hand(threading.Thread):
    """Does its faults. What goes wrong with that is in `problems`: it is nobody's fault but the product's."""

    def __init__(
        self,
        faults: Sequence[Fault],
        system: System,
        callers: Sequence[Caller],
        timeline: Timeline,
        say: Callable[[str], None],
    ) -> None:
        super().__init__(name=f"hand-{faults[0].hand}", daemon=True)
        self.problems: list[str] = []
        self._faults = faults
        self._system = system
        self._callers = {caller.name: caller for caller in callers}
        self._timeline = timeline
        self._say = say

    def run(self) -> None:
        """All of its faults, with the pauses between them."""
        for fault in self._faults:
            time.sleep(fault.pause_s)
            self._say(str(fault))
            try:
                with self._timeline.entry(fault.kind, fault.target) as entry:
                    self._do(fault, entry)
            except Exception as problem:
                self.problems.append(f"{fault}: {problem!r} {'; '.join(getattr(problem, '__notes__', ()))}")
            for service in self._system.services:
                if fault.hand == "servers" and not service.is_alive():
                    code = service.process.process.returncode
                    self.problems.append(f"after {fault}: the {service.name} ended by itself, with {code}")
                    service.end(KILL)
                    service.start()

    def _do(self, fault: Fault, entry: Entry) -> None:
        system = self._system
        match fault.kind:
            case "kill_broker":
                self._restart(KILL, fault.lasts_s, system.broker)
            case "stop_broker":
                self._restart(signal.SIGTERM, fault.lasts_s, system.broker)
            case "freeze_broker" | "stall_broker":
                self._freeze([system.broker.pid], fault.lasts_s)
            case "kill_broker_and_pool":
                self._restart(KILL, fault.lasts_s, system.broker, system.pools[fault.target])
            case "cut_pool" | "cut_off_pool":
                self._cut(system.pool_line, fault)
            case "reset_pool":
                system.pool_line.reset()
            case "cut_clients" | "cut_off_clients":
                self._cut(system.client_line, fault)
            case "reset_clients":
                system.client_line.reset()
            case _ if fault.target in system.pools:
                self._do_to_pool(fault, system.pools[fault.target], entry)
            case _:
                self._do_to_client(fault, self._callers[fault.target])

    def _do_to_pool(self, fault: Fault, pool: Service[RunningPool], entry: Entry) -> None:
        match fault.kind:
            case "kill_executor":
                self._to_one(executors(pool.pid), fault, entry, lambda pid: send(pid, KILL))
            case "freeze_executor" | "stall_executor":
                self._to_one(executors(pool.pid), fault, entry, lambda pid: self._freeze([pid], fault.lasts_s))
            case "kill_fork_server":
                self._to_one(fork_servers(pool.pid), fault, entry, lambda pid: send(pid, KILL))
            case "kill_pool":
                self._restart(KILL, fault.lasts_s, pool)
            case "stop_pool":
                self._restart(signal.SIGTERM, fault.lasts_s, pool)
            case "freeze_pool" | "lose_pool":
                self._freeze([pool.pid], fault.lasts_s)
            case "drain":
                self._drain(pool.name, fault.lasts_s, entry)
            case "rolling_restart":
                self._hang_up(pool)
            case "reload":
                entry.detail = f"version {self._system.write_version(pool.name)}"
                self._hang_up(pool)
            case other:
                raise ValueError(other)

    def _hang_up(self, pool: Service[RunningPool]) -> None:
        """SIGHUP, as a service manager sends it: not before the process has said that it is there."""
        wait_until(lambda: "pool.start " in pool.process.stderr(), START_S, "the pool's start")
        send(pool.pid, signal.SIGHUP)

    def _do_to_client(self, fault: Fault, caller: Caller) -> None:
        match fault.kind:
            case "kill_client":
                caller.kill()
                time.sleep(fault.lasts_s)
                caller.start()
            case "freeze_client" | "lose_client":
                caller.signal(signal.SIGSTOP)
                try:
                    time.sleep(fault.lasts_s)
                finally:
                    caller.signal(signal.SIGCONT)
            case other:
                raise ValueError(other)

    def _restart(self, number: signal.Signals, away_s: float, *services: Service) -> None:  # type: ignore[type-arg]
        """End them, and start them again after a while."""
        with contextlib.ExitStack() as stack:
            for service in reversed(services):
                stack.callback(service.start)
            stack.callback(time.sleep, away_s)
            for service in services:
                stack.callback(service.end, number)

    def _freeze(self, pids: Sequence[int], seconds: float) -> None:
        for pid in pids:
            send(pid, signal.SIGSTOP)
        try:
            time.sleep(seconds)
        finally:
            for pid in pids:
                send(pid, signal.SIGCONT)

    def _cut(self, line: Proxy, fault: Fault) -> None:
        """Nothing passes in one direction, or in both."""
        line.hold(*([line.up], [line.down], [])[int(fault.pick * 3)])
        try:
            time.sleep(fault.lasts_s)
        finally:
            line.heal()

    def _to_one(self, pids: Sequence[int], fault: Fault, entry: Entry, do: Callable[[int], None]) -> None:
        """To the one of these processes that the plan picked; none may be there just now."""
        if pids:
            pid = pids[int(fault.pick * len(pids))]
            entry.detail = f"pid {pid} of {len(pids)}"
            do(pid)

    def _drain(self, name: str, seconds: float, entry: Entry) -> None:
        """Drained, and back again. There may be no broker, or no such worker, at either time."""
        with self._asking(entry):
            worker = next((row["worker"] for row in self._workers() if row["name"] == name), None)
            if worker is None:
                entry.detail = "it is not there"
                return
            self._ask("workers.drain", worker, grace_ms=DRAIN_GRACE_MS)
        time.sleep(seconds)
        with self._asking(entry):
            self._ask("workers.undrain", worker)

    @contextlib.contextmanager
    def _asking(self, entry: Entry) -> Iterator[None]:
        try:
            yield
        except DspymqError as error:
            entry.detail = str(error)

    def _workers(self) -> list[dict[str, str]]:
        found: list[dict[str, str]] = self._system.watcher.request("workers.list", timeout_s=ASK_S)["workers"]
        return found

    def _ask(self, method: str, worker: str, **params: int) -> None:
        self._system.watcher.request(method, {"worker": worker, **params}, timeout_s=ASK_S)
