"""What the parts of the pool's core share: settings, time, the outgoing effects, and the next time to look."""

import logging
from collections.abc import Callable

import msgspec

from dspymq.protocol.limits import Count, Limits, Positive
from dspymq.protocol.messages import Header
from dspymq.worker.supervisor.effects import Effect, Log, ToBroker, ToExecutor
from dspymq.worker.supervisor.lm_gate_steps import GateSettings


class PoolSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The numbers of a pool. Times are in milliseconds.

    `worker` is unique per supervisor start; `name` is for people. `grace_ms` bounds a drain, and how long a condemned
    executor may finish its other jobs. `cancel_grace_ms` is how long a job may take to end after its deadline.
    `stall_ms` is the silence after which an executor gets no jobs. With `patient` a pool whose programs cannot be
    loaded at its start waits for a reload, without it ends. An executor is replaced when it has ended
    `max_jobs_per_executor` jobs, lived `max_age_ms`, or has more than `max_rss_bytes` in RAM; one over `kill_rss_bytes`
    is killed. `lm_gates` are the settings of each LM profile's gate. `wall_offset_ms` plus the core's time is Unix
    time.
    """

    worker: str
    name: str
    processes: Positive = 1
    spawn: bool = False
    grace_ms: Count = 10_000
    cancel_grace_ms: Count = 5_000
    stall_ms: Positive = 5_000
    start_timeout_ms: Positive = 60_000
    patient: bool = False
    max_jobs_per_executor: Positive | None = None
    max_age_ms: Positive | None = None
    max_rss_bytes: Positive | None = None
    kill_rss_bytes: Positive | None = None
    lm_gates: dict[str, GateSettings] = {}
    wall_offset_ms: int = 0


class Alarm:
    """The earliest time at which something may be due: never late, sometimes for nothing."""

    __slots__ = ("at_ms",)

    def __init__(self) -> None:
        self.at_ms: int | None = None

    def set(self, due_ms: int | None) -> None:
        """Look again at this time, or earlier if that was asked for already."""
        if due_ms is not None and (self.at_ms is None or due_ms < self.at_ms):
            self.at_ms = due_ms


class Context:
    """Passed to every part of the core; nothing here decides. `random` gives numbers from 0 to 1."""

    def __init__(self, settings: PoolSettings, random: Callable[[], float]) -> None:
        self.settings = settings
        self.random = random
        self.now_ms = 0
        self.effects: list[Effect] = []
        self.alarm = Alarm()
        self.limits = Limits()
        self.closing = False
        """Set by a shutdown: nothing new is started."""

    def to_broker(self, message: Header, body: bytes = b"") -> None:
        """Send to the broker."""
        self.effects.append(ToBroker(message, body))

    def to_executor(self, executor: str, message: Header, body: bytes = b"") -> None:
        """Send to an executor."""
        self.effects.append(ToExecutor(executor, message, body))

    def info(self, text: str) -> None:
        """A line at INFO."""
        self.effects.append(Log(logging.INFO, text))

    def warning(self, text: str) -> None:
        """A line at WARNING."""
        self.effects.append(Log(logging.WARNING, text))

    def error(self, text: str) -> None:
        """A line at ERROR."""
        self.effects.append(Log(logging.ERROR, text))
