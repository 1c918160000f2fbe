"""`Client`: DSPy programs over a broker, for code without an event loop."""

import atexit
import contextlib
import copy
import os
import threading
import weakref
from collections.abc import Callable, Collection, Coroutine, Generator, Iterable, Mapping, Sequence
from types import EllipsisType, TracebackType
from typing import Any, Literal, Self, TypeVar, Unpack, overload

from dspymq.async_client import DEADLINE_SLACK_S, DEFINE_TIMEOUT_S, REQUEST_TIMEOUT_S, AsyncClient
from dspymq.driver import check_fork
from dspymq.event_streams import Events
from dspymq.exceptions import ClientClosed, DspymqError
from dspymq.job import Job
from dspymq.link import Transport
from dspymq.loop_thread import LoopThread
from dspymq.mapping import map_sync
from dspymq.options import JobOptions, Options, Watch
from dspymq.prediction import Prediction

T = TypeVar("T")


class Client:
    """A client for any thread: AsyncClient on an event loop in a thread of its own.

        with Client() as client:
            prediction = client.call("qa", question="What is ZeroMQ?")
            print(prediction.answer)

    Arguments and behaviour are AsyncClient's. One instance may be used by many threads at once, in a notebook, and
    beside any event loop (where it blocks; use AsyncClient there). It is closed when it and its jobs are
    garbage-collected, and when the interpreter ends. After a fork each process needs its own: using the parent's
    raises FailedPrecondition `forked`.
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
        self._inner = AsyncClient(
            broker,
            name=name,
            connect_timeout_s=connect_timeout_s,
            deadline_slack_s=deadline_slack_s,
            auth=auth,
            transport=transport,
            **options,
        )
        self._shared = _Shared(self._inner)

    @property
    def addresses(self) -> tuple[str, ...]:
        """The broker addresses, in the order in which they are tried."""
        return self._inner.addresses

    @property
    def address(self) -> str:
        """The address in use, or tried last."""
        return self._inner.address

    @property
    def options(self) -> Options:
        """The defaults of this client's jobs."""
        return self._inner.options

    def with_options(self, **options: Unpack[JobOptions]) -> Self:
        """This client, over the same connection, with other defaults for its jobs; see AsyncClient.with_options."""
        view = copy.copy(self)
        view._inner = self._inner.with_options(**options)
        return view

    def call(self, program: str, /, **inputs: Any) -> Prediction:
        """Run a program and wait for its outputs; interrupting the wait cancels the job.

        `program` is a name, or an inline signature such as "question -> answer". Raises DspymqError.
        """
        job = self.submit(program, inputs)
        try:
            return job.result()
        finally:
            job.cancel()

    def stream(self, program: str, /, **inputs: Any) -> Job:
        """Run a program and iterate over its text as it is written; see Job."""
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
    ) -> Job:
        """Start a job and return at once; see AsyncClient.submit.

        Raises InvalidArgument or ResourceExhausted when it cannot be sent like this; everything else ends the job.
        """
        inner, event = self._inner.prepare(
            program, inputs or {}, stream=stream, watch=watch, job_id=job_id, resume=resume, options=options
        )
        job = Job(inner, self._shared.thread, keeps=self._shared)
        self._shared.call(self._inner.driver.open, inner, event)
        return job

    def attach(
        self, job_id: str, *, stream: bool = False, watch: Collection[Watch] = (), timeout_s: float | None = None
    ) -> Job:
        """Join a job that is somewhere at the broker, without its inputs; see AsyncClient.attach."""
        inner, event = self._inner.prepare_attach(job_id, stream=stream, watch=watch, timeout_s=timeout_s)
        job = Job(inner, self._shared.thread, keeps=self._shared)
        self._shared.call(self._inner.driver.open, inner, event)
        return job

    @overload
    def map(
        self,
        program: str,
        inputs: Iterable[Mapping[str, Any]],
        *,
        concurrency: int = ...,
        return_exceptions: Literal[False] = ...,
    ) -> Generator[Prediction, None, None]: ...

    @overload
    def map(
        self,
        program: str,
        inputs: Iterable[Mapping[str, Any]],
        *,
        concurrency: int = ...,
        return_exceptions: bool,
    ) -> Generator[Prediction | DspymqError, None, None]: ...

    def map(
        self,
        program: str,
        inputs: Iterable[Mapping[str, Any]],
        *,
        concurrency: int = 16,
        return_exceptions: bool = False,
    ) -> Generator[Any, None, None]:
        """The results for many inputs, in their order, with at most `concurrency` jobs in flight.

        `inputs` is read on the caller's thread, only as far as needed, and may be endless. The first error is
        raised, or, with `return_exceptions`, stands in its place. When the iteration stops for whatever reason, what
        is in flight is cancelled.
        """
        return map_sync(lambda one: self.submit(program, one), inputs, concurrency, return_exceptions)

    def programs(self) -> list[dict[str, Any]]:
        """The programs that workers offer: name, revision, revisions, workers, description."""
        return self._shared.run(self._inner.programs)

    def program(self, name: str) -> dict[str, Any]:
        """One program, with its signature as its worker describes it. Raises NotFound."""
        return self._shared.run(lambda: self._inner.program(name))

    def define(self, name: str, spec: str | Mapping[str, Any], *, timeout_s: float = DEFINE_TIMEOUT_S) -> str:
        """Give a program that is data a name at the broker; returns its revision, which is a hash of its content.

        `spec` is what an inline program may be (SPEC section 11.7); a text is its signature. From then on any client
        calls it by its name, and any pool that takes inline programs runs it. Defining the same again is free.
        Raises InvalidArgument, whose message names the place in the spec; Unavailable without such a pool.
        """
        return self._shared.run(lambda: self._inner.define(name, spec, timeout_s=timeout_s))

    def undefine(self, name: str, revision: str) -> None:
        """Forget a revision that was defined. Raises NotFound; FailedPrecondition while an alias stands for it."""
        self._shared.run(lambda: self._inner.undefine(name, revision))

    def alias(
        self, name: str, alias: str, revision: str | None, *, expect: str | EllipsisType | None = ...
    ) -> str | None:
        """Let `NAME@ALIAS` stand for this revision from now on (None: for none); returns what it stood for before.

        With `expect` only if it stood for that: else it raises FailedPrecondition `alias_moved`.
        """
        return self._shared.run(lambda: self._inner.alias(name, alias, revision, expect=expect))

    def workers(self) -> list[dict[str, Any]]:
        """The workers that the broker knows, their slots and what they do."""
        return self._shared.run(self._inner.workers)

    def stats(self) -> dict[str, Any]:
        """The broker's numbers."""
        return self._shared.run(self._inner.stats)

    def request(
        self, method: str, params: Mapping[str, Any] | None = None, *, timeout_s: float = REQUEST_TIMEOUT_S
    ) -> Any:
        """The broker's answer to any method (SPEC section 10). Raises DspymqError."""
        return self._shared.run(lambda: self._inner.request(method, params, timeout_s=timeout_s))

    def subscribe(self, *kinds: str) -> Events:
        """The broker's events from now on, of these kinds (`job.done`) or groups (`job`); none given: all.

        Iterate over it; it lives on over lost sessions (then an event has `gap`) until its `close()`. Returns when the
        broker has taken it. Raises DspymqError.
        """
        inner = self._shared.run(lambda: self._inner.subscribe(*kinds))
        return Events(inner, self._shared.run, self._shared.call)

    def ping(self, *, timeout_s: float = REQUEST_TIMEOUT_S) -> float:
        """Seconds until the broker answered; connects if need be. Raises BrokerUnreachable, DeadlineExceeded."""
        return self._shared.run(lambda: self._inner.ping(timeout_s=timeout_s))

    def close(self) -> None:
        """Say bye and close the connection, of this client and its views; what is open fails with ClientClosed."""
        self._shared.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Shared:
    """What a client, its views and its jobs have in common: the thread, and its end."""

    def __init__(self, inner: AsyncClient) -> None:
        self.thread = LoopThread("dspymq-client")
        self._inner = inner
        self._pid = inner.driver.pid
        self._closed = False
        # Nothing is given to the loop after its end was.
        self._lock = threading.Lock()
        self._collected = weakref.finalize(self, _end_soon, inner, self.thread, self._pid)
        self._collected.atexit = False
        _at_exit.add(self)

    def run(self, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """The result of the coroutine that `make()` gives."""
        with self._lock:
            self._check()
            future = self.thread.start(make())
        return self.thread.wait(future)

    def call(self, callback: Callable[..., object], *args: Any) -> None:
        """Call this on the client's loop."""
        with self._lock:
            self._check()
            self.thread.call(callback, *args)

    def close(self) -> None:
        """Close, and wait until that is done. Idempotent."""
        check_fork(self._pid)
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self._collected.detach()
        if self.thread.is_current():
            _end_soon(self._inner, self.thread, self._pid)
            return
        with contextlib.suppress(Exception):
            self.thread.wait(self.thread.start(self._inner.close()))
        self.thread.stop()

    def _check(self) -> None:
        check_fork(self._pid)
        if self._closed:
            raise ClientClosed("the client is closed")


_at_exit: weakref.WeakSet[_Shared] = weakref.WeakSet()
"""The clients to close when the interpreter ends, so that brokers hear a goodbye and the last acks."""


def _close_all() -> None:
    for shared in list(_at_exit):
        with contextlib.suppress(DspymqError):
            shared.close()


atexit.register(_close_all)


def _end_soon(inner: AsyncClient, thread: LoopThread, pid: int) -> None:
    """Close without waiting: a garbage collector may run anywhere, also where waiting would be a deadlock."""
    if os.getpid() != pid:
        # The thread and the sockets belong to the parent.
        return

    def close() -> None:
        task = thread.loop.create_task(inner.close())
        task.add_done_callback(lambda _: thread.loop.stop())

    with contextlib.suppress(RuntimeError):
        thread.call(close)
