"""What a supervisor tells its executors at their start, through the environment. No dspy import."""

from collections.abc import Mapping
from typing import Final

import msgspec

from dspymq.worker.profiles import LMProfile

VARIABLE: Final = "DSPYMQ_EXECUTOR_SPEC"
"""The environment variable that carries the spec as JSON, LM keys included: it is our own child's environment."""

STDERR_VARIABLE: Final = "DSPYMQ_EXECUTOR_STDERR"
"""A file that gets what is written on stderr while the programs are imported, so that it outlives the process."""


class ExecutorSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One generation of executors.

    `targets` are MODULE or MODULE:NAME; `paths` go to the front of sys.path, and `cwd` (None: unchanged) is entered,
    before they are imported. `parent_pid` is the process that starts the fork server, or the executors themselves
    when they are spawned: they end with it (0: not checked). With `fresh` no bytecode of the programs is written: its
    check, a second and a size, may miss an edit. `beat_ms` is the interval of `ping` on the pipe.
    `concurrency` slots are of the lane `default`, those in `lanes` are further ones. With `log_json` its
    lines are JSON, as the supervisor's.
    """

    targets: list[str] = []
    paths: list[str] = []
    cwd: str | None = None
    profiles: list[LMProfile] = []
    concurrency: int = 16
    lanes: dict[str, int] = {}
    beat_ms: int = 1000
    max_body_bytes: int = 16 * 1024 * 1024
    fresh: bool = False
    parent_pid: int = 0
    log_level: str = "WARNING"
    log_json: bool = False

    @property
    def slots(self) -> dict[str, int]:
        """The jobs that one executor takes at once, by lane."""
        return {"default": self.concurrency, **self.lanes}

    def to_json(self) -> str:
        """The value of the variable."""
        return msgspec.json.encode(self).decode()


def from_environment(environ: Mapping[str, str]) -> ExecutorSpec | None:
    """The spec in this environment, or None. Raises msgspec.ValidationError or DecodeError for a broken one."""
    text = environ.get(VARIABLE)
    return msgspec.json.decode(text, type=ExecutorSpec) if text else None
