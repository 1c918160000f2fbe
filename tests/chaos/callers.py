"""The clients: each goes through its list of jobs over one or more lives of its process, and notes what came."""

from __future__ import annotations

import dataclasses
import heapq
import itertools
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from tests.chaos.kinds import Job
from tests.clients.drivers import Driver
from tests.processes import wait_until

READY_S: Final = 60.0
READ_EVERY_S: Final = 0.15


@dataclasses.dataclass
class Call:
    """One job as its client sees it. Times are time.monotonic() seconds; `lost`: its client's process was killed."""

    job: Job
    client: str
    life: int
    began_s: float
    ended_s: float | None = None
    lost: bool = False
    outcomes: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    text: dict[str, str] | None = None

    @property
    def end(self) -> str:
        """How it ended, as "CODE reason"; empty if that is not known."""
        if not self.outcomes:
            return ""
        outcome = self.outcomes[0]
        return outcome["code"] if outcome["code"] == "OK" else f"{outcome['code']} {outcome.get('reason') or ''}"

    @property
    def outputs(self) -> dict[str, Any]:
        """Its outputs, if it ended well."""
        return dict(self.outcomes[0].get("outputs") or {}) if self.outcomes else {}


class Teller:
    """Tells a driver one thing after the other, each not before its time; on a thread of its own."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._lines: list[tuple[float, int, Callable[[], dict[str, Any] | None]]] = []
        self._order = itertools.count()
        self._changed = threading.Condition()
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name=f"teller-{driver.name}", daemon=True)
        self._thread.start()

    def tell(self, line: Callable[[], dict[str, Any] | None], after_s: float = 0.0) -> None:
        """Have this told after so long; nothing, if it is None by then."""
        with self._changed:
            heapq.heappush(self._lines, (time.monotonic() + after_s, next(self._order), line))
            self._changed.notify()

    def stop(self) -> None:
        """Tell nothing more."""
        with self._changed:
            self._stopped = True
            self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._stopped and (not self._lines or self._lines[0][0] > time.monotonic()):
                    self._changed.wait(max(0.0, self._lines[0][0] - time.monotonic()) if self._lines else None)
                if self._stopped:
                    return
                make = heapq.heappop(self._lines)[2]
            line = make()
            if line is not None:
                self._driver.tell(line)


class Caller:
    """One client with `at_once` calls open until it is told to stop, or its process is killed and started again.

    With `resumes`, a new process joins those calls of the last one that outlive their client; `knows_ids` says that a
    call's name is its job's id. The calls of all lives are in `calls`, by name.
    """

    def __init__(
        self,
        name: str,
        language: str,
        command: Sequence[str],
        address: str,
        jobs: Iterator[Job],
        *,
        at_once: int,
        knows_ids: bool = False,
    ) -> None:
        self.name = name
        self.language = language
        self.knows_ids = knows_ids
        self.calls: dict[str, Call] = {}
        self.problems: list[str] = []
        self.lives = 0
        self._command = command
        self._address = address
        self._jobs = jobs
        self._at_once = at_once
        self._changed = threading.Condition()
        self._stopping = False
        self._resume: list[Job] = []
        self._driver: Driver | None = None
        self._teller: Teller | None = None

    def start(self) -> None:
        """A new life."""
        with self._changed:
            self.lives += 1
            driver = self._driver = Driver(f"{self.name}.{self.lives}", self._command, self._address, self._heard)
            self._teller = Teller(driver)

    def kill(self) -> None:
        """SIGKILL; the calls that are open are lost."""
        assert self._driver is not None
        assert self._teller is not None
        self._teller.stop()
        self._driver.kill()
        self.problems += self._driver.problems
        with self._changed:
            for call in self.calls.values():
                if not call.outcomes and not call.lost:
                    call.lost, call.ended_s = True, time.monotonic()
                    if call.job.keeps and self.knows_ids:
                        self._resume.append(call.job)
            self._changed.notify_all()

    def signal(self, number: signal.Signals) -> None:
        """Send its process a signal."""
        assert self._driver is not None
        self._driver.signal(number)

    def wait_for_calls(self, count: int) -> None:
        """Wait until so many calls have ended. Raises TimeoutError."""
        ended = lambda: sum(bool(call.outcomes) for call in self.calls.copy().values()) >= count  # noqa: E731
        wait_until(ended, READY_S, f"{count} ends of {self.name}")

    def stop_calling(self) -> None:
        """Submit nothing more."""
        self._stopping = True

    def finish(self, until_s: float) -> None:
        """Wait for what is open until then, and end the process."""
        driver = self._driver
        assert driver is not None
        assert self._teller is not None
        while self.open() and driver.is_alive() and time.monotonic() < until_s:
            with self._changed:
                self._changed.wait_for(lambda: not self.open(), 1.0)
        if not driver.is_alive():
            self.problems.append("its process ended by itself")
        self.problems += [f"{name} has no end" for name in self.open()]
        self._teller.stop()
        self._driver.finish()
        self.problems += self._driver.problems
        self._driver = None

    def close(self) -> None:
        """End it, whatever it does."""
        if self._driver is not None and self._teller is not None:
            self._teller.stop()
            self._driver.kill()

    def open(self) -> list[str]:
        """The names of its calls that have no outcome, and are not lost."""
        return [name for name, call in self.calls.items() if not call.outcomes and not call.lost]

    def _heard(self, said: dict[str, Any]) -> None:
        """A line of the driver, on the thread that reads them."""
        with self._changed:
            pass  # `start` is over
        if "problem" in said:
            self.problems.append(said["problem"])
        elif said.get("ready"):
            resumed, self._resume = self._resume, []
            for job in resumed:
                self._submit(job, resume=True)
            for _ in range(self._at_once - len(resumed)):
                self._submit(next(self._jobs))
        elif "text" in said:
            self.calls[said["text"]["call"]].text = said["text"]["fields"]
        elif "outcome" in said:
            self._ended(said["outcome"])

    def _ended(self, outcome: dict[str, Any]) -> None:
        with self._changed:
            call = self.calls[outcome["call"]]
            call.outcomes.append(outcome)
            call.ended_s = call.ended_s or time.monotonic()
            self._changed.notify_all()
        if not self._stopping and len(call.outcomes) == 1:
            self._submit(next(self._jobs))

    def _submit(self, job: Job, *, resume: bool = False) -> None:
        assert self._teller is not None
        with self._changed:
            if resume:
                call = self.calls[job.call]
                call.lost, call.ended_s, call.life = False, None, self.lives
            else:
                call = self.calls[job.call] = Call(job, self.name, self.lives, time.monotonic())
        self._teller.tell(lambda: {**job.told(), **({"resume": True} if resume else {})})
        life = self.lives
        if job.cancel_after_ms is not None:
            self._teller.tell(lambda: self._if_open(call, life, "cancel"), job.cancel_after_ms / 1000)
        if job.window is not None:
            self._read_on(call, life, self._teller)

    def _if_open(self, call: Call, life: int, tell: str) -> dict[str, Any] | None:
        is_open = not call.outcomes and self.lives == life
        return {"tell": tell, "call": call.job.call} if is_open else None

    def _read_on(self, call: Call, life: int, teller: Teller) -> None:
        def read() -> dict[str, Any] | None:
            line = self._if_open(call, life, "read")
            if line is not None:
                teller.tell(read, READ_EVERY_S)
            return line

        teller.tell(read, READ_EVERY_S)
