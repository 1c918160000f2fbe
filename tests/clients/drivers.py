"""Conformance drivers of all clients, as users of a real broker: each is told what to submit, and says what came.

docs/conformance-drivers.md is their contract.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

from tests.lm import expected_answer
from tests.processes import ROOT, clean_environ

PATIENCE_S = 90.0


class DrivenClient:
    """A driver that keeps `at_once` calls open until it is told to stop.

    `ledger` has, for each call that was made, every outcome that was reported for it.
    """

    def __init__(self, name: str, command: Sequence[str], address: str, at_once: int = 3) -> None:
        self.name = name
        self.ledger: dict[str, list[dict[str, Any]]] = {}
        self.problems: list[str] = []
        self._numbers = itertools.count()
        self._at_once = at_once
        self._stopping = threading.Event()
        self._changed = threading.Condition()
        environ = clean_environ(extra={"DSPYMQ_BROKERS": address, "LC_ALL": "C.UTF-8"})
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            command, cwd=ROOT, env=environ, stdin=pipe, stdout=pipe, text=True, start_new_session=True
        )
        self._reader = threading.Thread(target=self._read, name=f"driver-{name}")
        self._reader.start()

    def open(self) -> int:
        """Calls that have no outcome yet."""
        return sum(not outcomes for outcomes in self.ledger.values())

    def finish(self) -> None:
        """Submit nothing more, wait for what is open, and end the process."""
        self._stopping.set()
        with self._changed:
            self._changed.wait_for(lambda: self.open() == 0 or self._process.poll() is not None, PATIENCE_S)
        # What is said twice would come now.
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self.problems.append("it does not end when its stdin does")
            self.kill()
        self._reader.join(10)

    def kill(self) -> None:
        """End it by force."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, 9)
        self._process.wait(10)

    def check(self) -> int:
        """How many calls were answered. Raises AssertionError unless each was, rightly and once."""
        assert not self.problems, (self.name, self.problems[:3])
        for call, outcomes in self.ledger.items():
            assert len(outcomes) == 1, f"{self.name}: {call} has {len(outcomes)} outcomes: {outcomes}"
            outcome = outcomes[0]
            assert outcome["code"] == "OK", f"{self.name}: {call}: {outcome}"
            assert outcome["outputs"] == {"answer": expected_answer("answer", self._question(call))}, outcome
        return len(self.ledger)

    def _question(self, call: str) -> str:
        number = int(call.rpartition("-")[2])
        return f"#job={call} #delay_ms={number % 9 * 40}"

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            try:
                self._heard(json.loads(line))
            except Exception as problem:
                self.problems.append(f"{problem!r} at {line[:200]!r}")

    def _heard(self, said: dict[str, Any]) -> None:
        if "problem" in said:
            self.problems.append(said["problem"])
        elif said.get("ready"):
            for _ in range(self._at_once):
                self._submit()
        elif "outcome" in said:
            outcome = said["outcome"]
            with self._changed:
                self.ledger[outcome["call"]].append(outcome)
                self._changed.notify_all()
            if not self._stopping.is_set():
                self._submit()

    def _submit(self) -> None:
        call = f"{self.name}-{next(self._numbers)}"
        with self._changed:
            self.ledger[call] = []
        told = {"tell": "submit", "call": call, "program": "qa", "inputs": {"question": self._question(call)}}
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({**told, "timeout_ms": 60_000}) + "\n")
        self._process.stdin.flush()


@contextlib.contextmanager
def driven(clients: Sequence[DrivenClient]) -> Iterator[Sequence[DrivenClient]]:
    """Let them call while the block runs; then all of their calls must end."""
    try:
        yield clients
        for client in clients:
            client.finish()
    finally:
        for client in clients:
            client.kill()


def wait_for_calls(clients: Sequence[DrivenClient], each: int, timeout_s: float = PATIENCE_S) -> None:
    """Wait until every client has so many answers. Raises TimeoutError that says who has not."""
    end = time.monotonic() + timeout_s
    while slow := [one.name for one in clients if len(one.ledger) - one.open() < each]:
        if time.monotonic() > end:
            raise TimeoutError(f"fewer than {each} answers in {timeout_s} s: {slow}")
        time.sleep(0.05)
