"""One call from the command line: inputs by the program's types, the job, signals, and what is printed."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import signal
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from dspymq.async_client import AsyncClient
from dspymq.cli.call_output import JsonOutput, TextOutput
from dspymq.cli.connection import connected
from dspymq.cli.exit_codes import ExitCode
from dspymq.cli.inputs import read_pairs
from dspymq.cli.kinds import Kinds, kinds_of_schema, kinds_of_signature
from dspymq.exceptions import Cancelled, DspymqError, NotFound

if TYPE_CHECKING:
    from dspymq.async_job import AsyncJob

CANCEL_WAIT_S: Final = 2.0
"""How long a cancelled job may take to say that it ended, before the command goes anyway."""

PATIENCE_S: Final = 0.5
"""How long a job waits for a worker before that is worth a line."""

_EXIT_BY_SIGNAL: Final = {signal.SIGINT: ExitCode.INTERRUPTED, signal.SIGTERM: ExitCode.TERMINATED}


@dataclasses.dataclass(frozen=True, kw_only=True)
class CallRequest:
    """What was asked for. `given` are inputs from a file, `pairs` those of the command line, which go over them."""

    program: str
    pairs: Sequence[str]
    given: Mapping[str, Any]
    options: Mapping[str, Any]
    stream: bool
    as_json: bool


def run_call(request: CallRequest, brokers: Sequence[str]) -> int:
    """Run it and print what comes out. Returns the exit code; raises DspymqError and click.UsageError."""
    return asyncio.run(_Call(request, brokers).run())


class _Call:
    def __init__(self, request: CallRequest, brokers: Sequence[str]) -> None:
        self._request = request
        self._brokers = brokers
        self._output = JsonOutput() if request.as_json else TextOutput()
        self._job: AsyncJob | None = None
        self._task: asyncio.Task[int] | None = None
        self._stopped_by: signal.Signals | None = None

    async def run(self) -> int:
        """The call as a task of its own, so that a signal can end the wait for it at any point."""
        loop = asyncio.get_running_loop()
        for number in _EXIT_BY_SIGNAL:
            loop.add_signal_handler(number, self._stop, number)
        self._task = asyncio.create_task(self._run())
        try:
            code = await self._task
        except (asyncio.CancelledError, Cancelled):
            if self._stopped_by is None:
                raise
            self._output.interrupted()
            return _EXIT_BY_SIGNAL[self._stopped_by]
        # An answer that was faster than the cancel was printed; whoever sent the signal wanted an end all the same.
        return code if self._stopped_by is None else _EXIT_BY_SIGNAL[self._stopped_by]

    def _stop(self, number: signal.Signals) -> None:
        """The first signal cancels the job and waits a moment for its end, a second one does not wait."""
        is_first = self._stopped_by is None
        self._stopped_by = self._stopped_by or number
        if self._task is None:
            return
        if is_first and self._job is not None:
            self._job.cancel()
            asyncio.get_running_loop().call_later(CANCEL_WAIT_S, self._task.cancel)
        else:
            self._task.cancel()

    async def _run(self) -> int:
        request = self._request
        async with connected(self._brokers) as client:
            kinds = await _input_kinds(client, request.program)
            inputs = {**request.given, **read_pairs(request.pairs, kinds)}
            job = self._job = client.submit(
                request.program,
                inputs,
                stream=request.stream,
                watch=["accepted"],
                **request.options,
            )
            notice = asyncio.create_task(self._tell_waiting(job))
            try:
                if request.stream:
                    async for chunk in job:
                        self._output.chunk(chunk)
                self._output.result(await job.result(), job.text)
            except DspymqError:
                self._output.failed()
                raise
            finally:
                notice.cancel()
                job.cancel()
        return ExitCode.OK

    async def _tell_waiting(self, job: AsyncJob) -> None:
        await asyncio.sleep(PATIENCE_S)
        if job.missing and not job.done():
            self._output.waiting(job.missing, self._request.program)


async def _input_kinds(client: AsyncClient, program: str) -> dict[str, Kinds] | None:
    """The kinds of the program's inputs; None when nobody tells, or it is not known yet."""
    if "->" in program:
        return kinds_of_signature(program)
    with contextlib.suppress(NotFound):
        return kinds_of_schema((await client.program(program)).get("inputs"))
    return None
