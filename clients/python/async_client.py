"""`AsyncClient`: DSPy programs over a broker, for asyncio."""

import copy
import os
import random
import socket
import sys
from collections.abc import AsyncGenerator, AsyncIterable, Collection, Iterable, Mapping, Sequence
from types import EllipsisType, TracebackType
from typing import Any, Final, Literal, Self, Unpack, overload

from dspymq import options as opt
from dspymq.addresses import resolve
from dspymq.async_job import AsyncJob
from dspymq.core import DEFAULT_SLACK_MS, ClientCore, CoreConfig
from dspymq.driver import Driver
from dspymq.event_streams import AsyncEvents
from dspymq.events import OpenJob
from dspymq.exceptions import DspymqError
from dspymq.link import Transport, ZmqTransport
from dspymq.mapping import map_async
from dspymq.options import JobOptions, Options, Watch, to_ms
from dspymq.prediction import Prediction
from dspymq.protocol.ids import new_uuid7

REQUEST_TIMEOUT_S: Final = 10.0
DEFINE_TIMEOUT_S: Final = 60.0
"""A worker looks at the spec: it may be busy."""
DEADLINE_SLACK_S: Final = DEFAULT_SLACK_MS / 1_000


class AsyncClient:
    """A client for one asyncio event loop.

        async with AsyncClient() as client:
            prediction = await client.call("qa", question="What is ZeroMQ?")
            print(prediction.answer)

    `broker`: one address, several separated by commas, or a list, tried in order; default is the environment's
    DSPYMQ_BROKER, else tcp://127.0.0.1:5570. `name` is for logs and fairness. `timeout_s` and the other options are
    the defaults of its jobs (see `JobOptions`). It connects when first used, reconnects by itself, and sends what is
    open again: each job ends exactly once, with a Prediction or an error of `dspymq.exceptions`.

    `connect_timeout_s` bounds how long a job or request waits for a broker to be there at all, before
    BrokerUnreachable; None waits as long as its own timeout. Once sent, a job outlasts lost connections and broker
    restarts until its timeout. `transport` replaces ZeroMQ, for tests (`dspymq.testing`).

    An instance belongs to the loop that uses it first, and to the process that made it.
    """

    def __init__(
        self,
        broker: str | Sequence[str] | None = None,
        *,
        name: str | None = None,
        connect_timeout_s: float | None = None,
        deadline_slack_s: float = DEADLINE_SLACK_S,
        auth: str | None = None,
        transport: Transport | None = None,
        **options: Unpack[JobOptions],
    ) -> None:
        self._options = Options().changed(options)
        to_ms(self._options.timeout_s)
        config = CoreConfig(
            addresses=resolve(broker),
            name=name or default_name(),
            auth=auth,
            deadline_slack_ms=to_ms(deadline_slack_s, "deadline_slack_s"),
            connect_timeout_ms=None if connect_timeout_s is None else to_ms(connect_timeout_s, "connect_timeout_s"),
        )
        self.driver = Driver(ClientCore(config, random.random), transport or ZmqTransport())

    @property
    def addresses(self) -> tuple[str, ...]:
        """The broker addresses, in the order in which they are tried."""
        return self.driver.core.session.addresses

    @property
    def address(self) -> str:
        """The address in use, or tried last."""
        return self.driver.core.session.address

    @property
    def options(self) -> Options:
        """The defaults of this client's jobs."""
        return self._options

    def with_options(self, **options: Unpack[JobOptions]) -> Self:
        """This client, over the same connection, with other defaults for its jobs.

        Options are given here, never beside the inputs, so that no input name can collide with them:
        `client.with_options(timeout_s=5, profile="fast").call("qa", question=...)`.
        """
        view = copy.copy(self)
        view._options = self._options.changed(options)
        return view

    async def call(self, program: str, /, **inputs: Any) -> Prediction:
        """Run a program and wait for its outputs; cancelling the wait cancels the job.

        `program` is a name, or an inline signature such as "question -> answer". Raises DspymqError.
        """
        job = self.submit(program, inputs)
        try:
            return await job.result()
        finally:
            job.cancel()

    def stream(self, program: str, /, **inputs: Any) -> AsyncJob:
        """Run a program and iterate over its text as it is written; see AsyncJob."""
        return self.submit(program, inputs, stream=True)

    def submit(
        self,
        program: str,
        inputs: Mapping[str, Any] | None = None,
        *,
        stream: bool = False,
        watch: Collection[Watch] = (),
        job_id: str | None = None,
        resume: bool = False,
        **options: Unpack[JobOptions],
    ) -> AsyncJob:
        """Start a job and return at once.

        `stream` asks for its text, `watch` for news of where it stands. `job_id` (1 to 64 printable ASCII
        characters, a new UUIDv7 by default) names it: submitting the same content under the same id again, also from
        another process, joins the same job. `resume` says that another process may have done so before a restart of
        the broker; the job is then first looked for among the workers.

        Raises InvalidArgument or ResourceExhausted when it cannot be sent like this; everything else ends the job.
        """
        job, event = self.prepare(
            program, inputs or {}, stream=stream, watch=watch, job_id=job_id, resume=resume, options=options
        )
        self.driver.open(job, event)
        return job

    def attach(
        self, job_id: str, *, stream: bool = False, watch: Collection[Watch] = (), timeout_s: float | None = None
    ) -> AsyncJob:
        """Join a job that is somewhere at the broker, without its inputs; another client of it is superseded.

        `timeout_s` bounds the wait here and leaves the job alone.
        """
        job, event = self.prepare_attach(job_id, stream=stream, watch=watch, timeout_s=timeout_s)
        self.driver.open(job, event)
        return job

    @overload
    def map(
        self,
        program: str,
        inputs: Iterable[Mapping[str, Any]] | AsyncIterable[Mapping[str, Any]],
        *,
        concurrency: int = ...,
        return_exceptions: Literal[False] = ...,
    ) -> AsyncGenerator[Prediction, None]: ...

    @overload
    def map(
        self,
        program: str,
        inputs: Iterable[Mapping[str, Any]] | AsyncIterable[Mapping[str, Any]],
        *,
        concurrency: int = ...,
        return_exceptions: bool,
    ) -> AsyncGenerator[Prediction | DspymqError, None]: ...

    def map(
        self,
        program: str,
        inputs: Iterable[Mapping[str, Any]] | AsyncIterable[Mapping[str, Any]],
        *,
        concurrency: int = 16,
        return_exceptions: bool = False,
    ) -> AsyncGenerator[Any, None]:
        """The results for many inputs, in their order, with at most `concurrency` jobs in flight.

        `inputs` is read only as far as needed and may be endless. The first error is raised, or, with
        `return_exceptions`, stands in its place. When the iteration stops for whatever reason, what is in flight is
        cancelled (`async with contextlib.aclosing(...)` makes that happen at once on `break`).
        """
        return map_async(lambda one: self.submit(program, one), inputs, concurrency, return_exceptions)

    async def programs(self) -> list[dict[str, Any]]:
        """The programs that workers offer: name, revision, revisions, workers, description."""
        rows: list[dict[str, Any]] = (await self.request("programs.list"))["programs"]
        return rows

    async def program(self, name: str) -> dict[str, Any]:
        """One program, with its signature as its worker describes it. Raises NotFound."""
        found: dict[str, Any] = await self.request("programs.get", {"name": name})
        return found

    async def define(self, name: str, spec: str | Mapping[str, Any], *, timeout_s: float = DEFINE_TIMEOUT_S) -> str:
        """Give a program that is data a name at the broker; returns its revision, which is a hash of its content.

        `spec` is what an inline program may be (SPEC section 11.7); a text is its signature. From then on any client
        calls it by its name, and any pool that takes inline programs runs it. Defining the same again is free.
        Raises InvalidArgument, whose message names the place in the spec; Unavailable without such a pool.
        """
        params = {"name": name, "spec": {"signature": spec} if isinstance(spec, str) else dict(spec)}
        found = await self.request("programs.define", params, timeout_s=timeout_s)
        return str(found["revision"])

    async def undefine(self, name: str, revision: str) -> None:
        """Forget a revision that was defined. Raises NotFound; FailedPrecondition while an alias stands for it."""
        await self.request("programs.undefine", {"name": name, "revision": revision})

    async def alias(
        self, name: str, alias: str, revision: str | None, *, expect: str | EllipsisType | None = ...
    ) -> str | None:
        """Let `NAME@ALIAS` stand for this revision from now on (None: for none); returns what it stood for before.

        With `expect` only if it stood for that: else it raises FailedPrecondition `alias_moved`.
        """
        params = {"name": name, "alias": alias, "revision": revision}
        if expect is not ...:
            params["expect"] = expect
        before: str | None = (await self.request("programs.alias", params))["before"]
        return before

    async def workers(self) -> list[dict[str, Any]]:
        """The workers that the broker knows, their slots and what they do."""
        rows: list[dict[str, Any]] = (await self.request("workers.list"))["workers"]
        return rows

    async def stats(self) -> dict[str, Any]:
        """The broker's numbers."""
        found: dict[str, Any] = await self.request("stats.get")
        return found

    async def request(
        self, method: str, params: Mapping[str, Any] | None = None, *, timeout_s: float = REQUEST_TIMEOUT_S
    ) -> Any:
        """The broker's answer to any method (SPEC section 10). Raises DspymqError."""
        return await self.driver.ask(method, dict(params or {}), to_ms(timeout_s))

    async def subscribe(self, *kinds: str) -> AsyncEvents:
        """The broker's events from now on, of these kinds (`job.done`) or groups (`job`); none given: all.

        Iterate over it; it lives on over lost sessions (then an event has `gap`) until its `close()`. Returns when the
        broker has taken it. Raises DspymqError.
        """
        key = new_uuid7()
        events = AsyncEvents(self.driver, key)
        self.driver.subscribe(key, events, kinds)
        try:
            await events.ready()
        except BaseException:
            events.close()
            raise
        return events

    async def ping(self, *, timeout_s: float = REQUEST_TIMEOUT_S) -> float:
        """Seconds until the broker answered; connects if need be. Raises BrokerUnreachable, DeadlineExceeded."""
        return await self.driver.ping(to_ms(timeout_s))

    async def close(self) -> None:
        """Say bye and close the connection, of this client and its views; what is open fails with ClientClosed."""
        await self.driver.aclose()

    async def __aenter__(self) -> Self:
        self.driver.bind()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def prepare(
        self,
        program: str,
        inputs: Mapping[str, Any],
        *,
        stream: bool,
        watch: Collection[Watch],
        job_id: str | None,
        resume: bool,
        options: JobOptions,
    ) -> tuple[AsyncJob, OpenJob]:
        """A job that is not started, and the event that starts it; for `Client`, which does both on two threads."""
        chosen = self._options.changed(options)
        event = opt.submit_event(
            program,
            inputs,
            chosen,
            job_id=new_uuid7() if job_id is None else job_id,
            stream=stream,
            watch=watch,
            resume=resume,
        )
        return AsyncJob(self.driver, event.message.job, program, stream=stream, tools=chosen.tools), event

    def prepare_attach(
        self, job_id: str, *, stream: bool, watch: Collection[Watch], timeout_s: float | None
    ) -> tuple[AsyncJob, OpenJob]:
        """As `prepare`, for `attach`."""
        chosen = self._options if timeout_s is None else self._options.changed({"timeout_s": timeout_s})
        event = opt.attach_event(job_id, chosen, stream=stream, watch=watch)
        return AsyncJob(self.driver, job_id, "", stream=stream, tools=chosen.tools), event


def default_name() -> str:
    """A name for logs: program, process and host, as printable ASCII."""
    program = os.path.basename(sys.argv[0] if sys.argv else "") or "python"
    text = f"{program}-{os.getpid()}@{socket.gethostname()}"
    return "".join(char if " " <= char <= "~" else "?" for char in text)[:64]
