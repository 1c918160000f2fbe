"""One run: everything is started, the storm goes over it, everything is healed, and the books are balanced."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import pytest

from dspymq import Client
from dspymq.exceptions import DspymqError
from tests.chaos import leftovers, plan
from tests.chaos.callers import Caller
from tests.chaos.faults import Hand
from tests.chaos.ledger import Ledger, check_events
from tests.chaos.requests import Requests
from tests.chaos.services import System
from tests.chaos.timeline import Timeline
from tests.clients.languages import COMMANDS
from tests.processes import wait_until

FULL: Final = ("read", "tools")
"""What clients can beyond those of clients/minimal."""
CLIENTS: Final = (
    ("sync", "python", 4),
    ("async", "python", 6),
    ("sync2", "python", 3),
    ("async2", "python", 3),
    ("elixir", "elixir", 4),
    ("node", "node", 4),
    ("c", "c", 2),
    ("ruby", "ruby", 2),
    ("perl", "perl", 2),
    ("php", "php", 2),
    ("java", "java", 2),
)
"""Name, language, and calls at once of each."""

END_S: Final = 170.0
"""How long what is open may take to end, when nothing is done to the system any more."""
HEALED_S: Final = 60.0
WARM_UP: Final = 40


@dataclasses.dataclass
class Report:
    """What a run has to show. `problems` is empty if all is well."""

    seed: int
    minutes: float
    figures: dict[str, Any]
    problems: list[str]

    def as_json(self) -> dict[str, Any]:
        """All of it."""
        return dataclasses.asdict(self)


class Events:
    """What the broker says of its jobs, life by life: a client that follows it over all of them."""

    def __init__(self, address: str) -> None:
        self.seen: list[tuple[float, str, dict[str, Any], bool]] = []
        self._client = Client(address, name="events")
        self._events = self._client.subscribe()
        self._thread = threading.Thread(target=self._read, name="events", daemon=True)
        self._thread.start()

    def _read(self) -> None:
        with contextlib.suppress(DspymqError):
            for event in self._events:
                self.seen.append((event.at_ms / 1000, event.kind, event.details, event.gap))

    def lives(self, starts_s: Sequence[float]) -> list[list[tuple[str, dict[str, Any]]]]:
        """(kind, details) by the broker that said it; `starts_s` is when each started (Unix time)."""
        found: list[list[tuple[str, dict[str, Any]]]] = [[] for _ in starts_s]
        for at_s, kind, details, _ in self.seen:
            found[max(0, sum(start <= at_s for start in starts_s) - 1)].append((kind, details))
        return found

    def close(self) -> None:
        """Follow no more."""
        self._events.close()
        self._thread.join(10)
        self._client.close()


class Run:
    """`languages` are those of the clients; those whose toolchain is missing are left out. `say` tells of each fault.

    `out` gets, if something is wrong or `keep` is set, all that is needed to see why.
    """

    def __init__(
        self, seed: int, minutes: float, out: Path, say: Callable[[str], None], languages: Sequence[str] = ()
    ) -> None:
        self._seed = seed
        self._minutes = minutes
        self._out = out
        self._said = say
        self._languages = languages
        self._timeline = Timeline()
        self._problems: list[str] = []
        self._callers: list[Caller] = []
        self._began_s = time.monotonic()

    def run(self) -> Report:
        """All of it; nothing is raised for what is wrong with the product, it is in the report."""
        system = System(self._out / "scratch")
        commands = self._commands()
        faults = plan.faults(self._seed, self._minutes, [name for name, _, _ in CLIENTS if name in commands])
        with system.run():
            before = self._before(system)
            events = Events(system.addresses(0))
            for number, (name, language, at_once) in enumerate(client for client in CLIENTS if client[0] in commands):
                can = FULL if language in ("python", "elixir", "node") else ()
                jobs = plan.jobs(self._seed, name, can)
                caller = Caller(
                    name,
                    language,
                    commands[name],
                    system.addresses(number),
                    jobs,
                    at_once=at_once,
                    knows_ids=language == "python",
                )
                self._callers.append(caller)
            try:
                with self._noting("the storm"):
                    self._storm(system, [faults["servers"], faults["clients"]])
                with self._noting("the healing"):
                    self._heal(system)
                self._books(system, events)
                figures = self._after(system, before, events)
            finally:
                for caller in self._callers:
                    caller.close()
                events.close()
                self._keep(system, events, faults)
        if left := leftovers.temporary(system):
            self._problems.append(f"temporary files are left: {left[:10]}")
        figures["faults"] = dict(sorted(Counter(fault.kind for hand in faults.values() for fault in hand).items()))
        figures["left_out"] = [name for name, _, _ in CLIENTS if name not in commands]
        (self._out / "problems.txt").write_text("\n".join(self._problems))
        return Report(self._seed, self._minutes, figures, self._problems)

    def _say(self, text: str) -> None:
        self._said(f"{time.monotonic() - self._began_s:6.1f} s  {text}")

    @contextlib.contextmanager
    def _noting(self, what: str) -> Iterator[None]:
        try:
            yield
        except Exception as problem:
            self._problems.append(f"{what}: {problem!r} {'; '.join(getattr(problem, '__notes__', ()))}")

    def _commands(self) -> dict[str, list[str]]:
        """By client; a language that cannot be started here is left out, unless it has to be there."""
        found = {}
        for name, language, _ in CLIENTS:
            if self._languages and language not in self._languages:
                continue
            if language == "python":
                found[name] = [sys.executable, "-m", "tests.chaos.python_caller", name.rstrip("2")]
                continue
            try:
                found[name] = COMMANDS[language](self._out / "build")
            except pytest.skip.Exception as reason:
                self._say(f"without {name}: {reason}")
        return found

    def _before(self, system: System) -> leftovers.Taken:
        """What the system takes once it has worked."""
        ask = system.watcher.with_options(timeout_s=60).submit
        jobs = [ask("qa", {"question": f"#job=warm{n} #delay_ms=300"}) for n in range(WARM_UP)]
        for job in jobs:
            job.result(60)
        wait_until(lambda: system.watcher.stats()["jobs"]["live"] == 0, HEALED_S, "the end of the first jobs")
        return leftovers.take_stock(system)

    def _storm(self, system: System, faults: Sequence[Sequence[plan.Fault]]) -> None:
        for caller in self._callers:
            caller.start()
        for caller in self._callers:
            caller.wait_for_calls(1)
        hands = [Hand(each, system, self._callers, self._timeline, self._say) for each in faults if each]
        for hand in hands:
            hand.start()
        for hand in hands:
            hand.join()
            self._problems += hand.problems
        self._say("the storm is over")

    def _heal(self, system: System) -> None:
        """Nothing is done any more: every call ends, and everything becomes as it was."""
        for caller in self._callers:
            caller.stop_calling()
        until_s = time.monotonic() + END_S
        for row in system.watcher.workers():
            system.watcher.request("workers.undrain", {"worker": row["worker"]})
        for caller in self._callers:
            caller.finish(until_s)
            self._problems += [f"{caller.name}: {problem}" for problem in caller.problems]
        self._say("every call has ended, or has had its time")
        system.wait_ready()
        wait_until(lambda: system.watcher.stats()["jobs"]["live"] == 0, HEALED_S, "the end of every job")
        for lm in system.lms.values():
            lm.wait_idle(HEALED_S)
        slots = system.watcher.stats()["slots"]
        self._problems += [f"slots are taken: {slots}" for lane in slots.values() if lane["used"]]

    def _books(self, system: System, events: Events) -> None:
        for service in system.services:
            self._timeline.read_log(service.name, service.all_log())
        ledger = self._ledger = Ledger(self._callers, Requests(system.lms), system.effects, self._timeline)
        self._problems += ledger.problems()
        starts_s = system.broker.starts_s
        self._problems += check_events(events.lives(starts_s), ledger.calls)

    def _after(self, system: System, before: leftovers.Taken, events: Events) -> dict[str, Any]:
        """The figures; a problem for each thing that there is more of than before, when it has had time to go."""
        events.close()
        after = before

        def is_as_before() -> bool:
            nonlocal after
            with contextlib.suppress(OSError):
                after = leftovers.take_stock(system)
                return not list(leftovers.more(before, after))
            return False

        with contextlib.suppress(TimeoutError):
            wait_until(is_as_before, HEALED_S, "everything back where it was")
        self._problems += leftovers.more(before, after)
        figures = self._ledger.figures()
        kinds = Counter(kind for _, kind, _, _ in events.seen)
        figures["events"] = {kind: kinds[kind] for kind in sorted(kinds)}
        figures["lives"] = {one.name: one.lives for one in [*system.services, *self._callers]}
        figures["before"], figures["after"] = (_numbers(taken) for taken in (before, after))
        figures["took_s"] = round(time.monotonic() - self._began_s, 1)
        return figures

    def _keep(self, system: System, events: Events, faults: dict[str, list[plan.Fault]]) -> None:
        """Write down what happened."""
        self._out.mkdir(parents=True, exist_ok=True)
        _write(self._out / "plan.jsonl", [dataclasses.asdict(fault) for hand in faults.values() for fault in hand])
        _write(self._out / "timeline.jsonl", self._timeline.rows())
        _write(self._out / "events.jsonl", events.seen)
        calls = [call for caller in self._callers for call in caller.calls.values()]
        asked = Requests(system.lms)
        rows = [
            {
                "call": call.job.call,
                "kind": call.job.kind,
                "life": call.life,
                "began_s": round(call.began_s - self._timeline.began_s, 3),
                "ended_s": call.ended_s and round(call.ended_s - self._timeline.began_s, 3),
                "lost": call.lost,
                "outcomes": str(call.outcomes)[:1_000],
                "asked": [(round(at_s - self._timeline.began_s, 3), pool) for at_s, pool in asked.of(call.job.call)],
                "lm": str(asked.count(call.job.call)),
            }
            for call in calls
        ]
        _write(self._out / "calls.jsonl", rows)
        for service in system.services:
            (self._out / f"{service.name}.log").write_text(service.all_log())


def _numbers(taken: leftovers.Taken) -> dict[str, Any]:
    found = dataclasses.asdict(taken)
    del found["shared"], found["links"]
    found["mib"] = {name: round(mib, 1) for name, mib in taken.mib.items()}
    return found


def _write(path: Path, rows: Sequence[Any]) -> None:
    path.write_text("".join(json.dumps(row, default=str) + "\n" for row in rows))


def repeat(seed: int, minutes: float) -> str:
    """The command that does the same again."""
    return f"make chaos SEED={seed} MINUTES={minutes:g}"
