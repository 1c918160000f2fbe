"""The driver of the Python client: `dspymq conformance client -- python -m examples.conformance.python_client`.

docs/conformance-drivers.md is the contract. Each thing that is told is done in a thread of its own if it may wait.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import sys
import threading
from collections.abc import Callable
from typing import Any

import dspymq
from dspymq.job import Job

SUPPORTS = ["call", "options", "stream", "read", "attach", "cancel", "tools", "ask", "failover", "resume", "close"]

_output = threading.Lock()


def say(**line: Any) -> None:
    """Write a line for the kit."""
    with _output:
        print(json.dumps(line), flush=True)


def failed(call: str, error: dspymq.DspymqError) -> None:
    """A call has not ended well."""
    code = error.code or type(error).default_code
    say(outcome={"call": call, "code": str(code), "reason": error.reason, "message": str(error)})


def tools() -> dict[str, Callable[..., Any]]:
    """What a job may offer."""
    counter = itertools.count(1)

    def add(a: int, b: int) -> int:
        return a + b

    def count() -> int:
        return next(counter)

    def broken() -> int:
        raise RuntimeError("broken")

    return {"add": add, "count": count, "broken": broken}


class Driver:
    """One client, and its calls by the kit's names for them."""

    def __init__(self, brokers: list[str]) -> None:
        self._client = dspymq.Client(brokers, name="under-test")
        self._jobs: dict[str, Job] = {}
        self._tools = tools()

    def do(self, told: dict[str, Any]) -> None:
        """What one line says."""
        call = told.get("call", "")
        match told["tell"]:
            case "submit":
                self._submit(call, told)
            case "attach":
                self._jobs[call] = self._client.attach(told["job"])
                self._start(self._end, call)
            case "cancel":
                self._jobs[call].cancel()
            case "read":
                self._start(self._read_one, call)
            case "ask":
                self._start(self._ask, call, told["method"], told.get("params"))
            case "close":
                self._start(self._client.close)
            case other:
                say(problem=f"cannot {other}")

    def _start(self, function: Callable[..., None], *arguments: Any) -> None:
        threading.Thread(target=function, args=arguments, daemon=True).start()

    def _submit(self, call: str, told: dict[str, Any]) -> None:
        options = dict(told.get("options", {}))
        if "timeout_ms" in told:
            options["timeout_s"] = told["timeout_ms"] / 1000
        if "window" in told:
            options["window"] = told["window"]
        if "tools" in told:
            options["tools"] = [self._tools[name] for name in told["tools"]]
        streams = told.get("stream", False)
        self._jobs[call] = self._client.submit(told["program"], told["inputs"], stream=streams, **options)
        # With a window nothing is read but by `read`.
        self._start(self._read_all if streams and "window" not in told else self._end, call)

    def _text(self, call: str) -> None:
        say(text={"call": call, "fields": dict(self._jobs[call].text)})

    def _read_one(self, call: str) -> None:
        next(iter(self._jobs[call]), None)
        self._text(call)

    def _read_all(self, call: str) -> None:
        try:
            for _ in self._jobs[call]:
                self._text(call)
        except dspymq.DspymqError:
            pass  # so ends the call, too
        self._end(call)
        self._text(call)

    def _end(self, call: str) -> None:
        try:
            prediction = self._jobs[call].result()
        except dspymq.DspymqError as error:
            failed(call, error)
        else:
            say(outcome={"call": call, "code": "OK", "outputs": prediction.outputs, "attempt": prediction.attempt})

    def _ask(self, call: str, method: str, params: dict[str, Any] | None) -> None:
        try:
            result = self._client.request(method, params)
        except dspymq.DspymqError as error:
            failed(call, error)
        else:
            say(outcome={"call": call, "code": "OK", "result": result})


def main() -> None:
    """Do what stdin says until it ends."""
    logging.disable(logging.CRITICAL)
    driver = Driver(os.environ["DSPYMQ_BROKERS"].split(","))
    say(ready=True, supports=SUPPORTS)
    for line in sys.stdin:
        driver.do(json.loads(line))
    # Threads may still wait for calls that no longer matter.
    os._exit(0)


if __name__ == "__main__":
    main()
