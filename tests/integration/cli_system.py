"""The `dspymq` command as a process, against a real broker and pool."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.processes import ROOT, clean_environ, dspymq_command

PROGRAMS = '''
import dspy


class Fails(dspy.Module):
    """Raises."""

    def forward(self, text: str):
        raise ValueError(f"no good: {text}")


class Typed(dspy.Module):
    """Gives back what it got, and its type."""

    async def aforward(self, text: str, n: int = 0, tags: list[str] | None = None, data: bytes = b""):
        return dspy.Prediction(seen=repr((text, n, tags, data)))


qa = dspy.Predict("question -> answer")
person = dspy.Predict("text -> name, age: int, cities: list[str]")
fails = Fails()
typed = Typed()
'''


@dataclass(frozen=True)
class Done:
    """A command that has ended; `seconds` is how long it took."""

    code: int
    out: str
    err: str
    seconds: float

    @property
    def json(self) -> Any:
        """Its stdout, one document."""
        return json.loads(self.out)

    @property
    def lines(self) -> list[Any]:
        """Its stdout, a document a line."""
        return [json.loads(line) for line in self.out.splitlines()]


class Shell:
    """Runs `dspymq ...` with DSPYMQ_BROKER set to `broker`."""

    def __init__(self, broker: str) -> None:
        self.environ = clean_environ(extra={"DSPYMQ_BROKER": broker})

    def __call__(self, *arguments: str, given: str = "", environ: Mapping[str, str] | None = None) -> Done:
        """Run to the end, with `given` as standard input."""
        began = time.monotonic()
        done = subprocess.run(
            dspymq_command(*arguments),
            env={**self.environ, **(environ or {})},
            cwd=ROOT,
            input=given,
            capture_output=True,
            text=True,
            timeout=50,
        )
        return Done(done.returncode, done.stdout, done.stderr, time.monotonic() - began)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Run it beside the test."""
        return subprocess.Popen(
            dspymq_command(*arguments),
            env=self.environ,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


def write_programs(folder: Path, name: str = "cli_programs") -> str:
    """Put PROGRAMS there as a module; its name."""
    (folder / f"{name}.py").write_text(PROGRAMS)
    return name
