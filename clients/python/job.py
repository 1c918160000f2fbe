"""`Job`: one job as its submitter sees it, from any thread."""

import threading
from collections.abc import Callable, Iterator, Mapping

from dspymq.async_job import AsyncJob, JobStatus, run_callbacks
from dspymq.chunks import Chunk
from dspymq.exceptions import DspymqError
from dspymq.loop_thread import LoopThread
from dspymq.prediction import Prediction
from dspymq.protocol.client_messages import Progress


class Job:
    """A submitted job: AsyncJob for code without an event loop.

    A job that was submitted with `stream=True` can be iterated once, for its text as it is written:

        for chunk in job:
            if chunk.reset:
                clear_all_fields()
            show(chunk.field, chunk.text)

    The iteration ends with the job and raises its error, if it has one. `chunk.reset` says that all text before it
    is void (see Chunk); whoever only wants the text as it stands looks at `job.text`, where that is done already.
    """

    def __init__(self, inner: AsyncJob, thread: LoopThread, keeps: object = None) -> None:
        self._inner = inner
        self._thread = thread
        # A client that nobody else holds is not closed under its open jobs.
        self._keeps = keeps
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self._callbacks: list[Callable[[], None]] = []
        inner.add_done_callback(self._end)

    def __repr__(self) -> str:
        return f"<Job {self.id} {self.program!r} {self.status}>"

    @property
    def id(self) -> str:
        """The job's id."""
        return self._inner.id

    @property
    def program(self) -> str:
        """The program's name or inline signature; empty for a job that was attached to."""
        return self._inner.program

    @property
    def status(self) -> JobStatus:
        """Where it stands, as far as it was said: submit with `watch=[...]` to hear of it."""
        return self._inner.status

    @property
    def attempt(self) -> int:
        """The attempt heard of last; 0 before any."""
        return self._inner.attempt

    @property
    def worker(self) -> str | None:
        """Who runs it (with `watch=["started"]`)."""
        return self._inner.worker

    @property
    def missing(self) -> tuple[str, ...]:
        """What no worker offers now, so that it waits (with `watch=["accepted"]`)."""
        return self._inner.missing

    @property
    def progress(self) -> Progress | None:
        """How far it is (with `watch=["progress"]`)."""
        return self._inner.progress

    @property
    def text(self) -> Mapping[str, str]:
        """The text so far, by output field, of a job that streams."""
        return self._inner.text

    def done(self) -> bool:
        """Whether it has ended, in whatever way."""
        return self._ended.is_set()

    def exception(self) -> DspymqError | None:
        """The error it ended with; None when it went well or has not ended."""
        return self._inner.exception()

    def cancel(self) -> None:
        """Stop it; idempotent, and without effect on a job that is done. It ends as its result says, soon."""
        if not self._ended.is_set():
            try:
                self._thread.call(self._inner.cancel)
            except RuntimeError:
                # The client was closed meanwhile, which ended the job.
                return

    def result(self, timeout_s: float | None = None) -> Prediction:
        """Wait for its end. Raises its error, or TimeoutError after `timeout_s` (the job goes on)."""
        if not self._ended.is_set():
            if self._thread.is_current():
                raise RuntimeError("this would wait for its own thread; use another thread, or AsyncClient")
            if not self._ended.wait(timeout_s):
                raise TimeoutError(f"job {self.id} is not done after {timeout_s} s; it goes on")
        return self._inner.outcome()

    def outcome(self) -> Prediction:
        """The Prediction of a job that is done. Raises its error, or RuntimeError when it is not done."""
        return self._inner.outcome()

    def add_done_callback(self, callback: Callable[[], None]) -> None:
        """Call this once the job has ended, on the client's thread (so: briefly); at once if it has ended."""
        with self._lock:
            if not self._ended.is_set():
                self._callbacks.append(callback)
                return
        callback()

    def __iter__(self) -> Iterator[Chunk]:
        while chunks := self._thread.run(self._inner.next_chunks()):
            yield from chunks

    def _end(self) -> None:
        with self._lock:
            self._ended.set()
            callbacks, self._callbacks = self._callbacks, []
        run_callbacks(callbacks)
