"""Fork servers, one a generation of the programs: each imports them once, and forks executors that have them.

multiprocessing knows one fork server a process; here there are as many as there are generations alive, each with a
thread of its own that starts executors, so that one that is still importing holds up no other.
"""

import contextlib
import importlib.machinery
import multiprocessing
import multiprocessing.forkserver
import os
import queue
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

from dspymq.transport.log_lines import write_raw
from dspymq.worker.executor_spec import STDERR_VARIABLE

PRELOAD: Final = "dspymq.worker.executor.preload"

MAX_WORDS_BYTES: Final = 64 * 1024
MAX_WORDS_LINES: Final = 20
REAP_S: Final = 0.1
"""How long a fork server that hung up may take to be seen as ended."""


class LastWords:
    """What a process writes on stderr while it imports the programs, for the case that it does not survive that.

    A file in memory, which only this process keeps: the other opens it by its path. Without memfd there are no words.
    """

    def __init__(self) -> None:
        self._fd: int | None = None
        with contextlib.suppress(AttributeError, OSError):
            self._fd = os.memfd_create("dspymq-stderr", os.MFD_CLOEXEC)

    @contextlib.contextmanager
    def in_environment(self) -> Iterator[None]:
        """Who is started meanwhile writes there."""
        if self._fd is None:
            yield
            return
        os.environ[STDERR_VARIABLE] = f"/proc/{os.getpid()}/fd/{self._fd}"
        try:
            yield
        finally:
            os.environ.pop(STDERR_VARIABLE, None)

    def take(self) -> str:
        """The last lines, without those of the import machinery; they go to our own stderr, too."""
        if self._fd is None:
            return ""
        size = os.fstat(self._fd).st_size
        written = os.pread(self._fd, MAX_WORDS_BYTES, max(0, size - MAX_WORDS_BYTES))
        os.ftruncate(self._fd, 0)
        if written:
            write_raw(written)
        lines = [line.strip() for line in written.decode(errors="replace").splitlines()]
        told = [line for line in lines if line and "importlib" not in line and not line.startswith("Extension modules")]
        return " | ".join(line[:300] for line in told[-MAX_WORDS_LINES:])

    def close(self) -> None:
        """Forget them."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


class NamelessServer(multiprocessing.forkserver.ForkServer):
    """multiprocessing's, but that its socket has no name: a file would stay behind if this process is killed.

    Once it is closed it is not started again, by nobody who still waits for a process of it.
    """

    def __init__(self) -> None:
        super().__init__()
        self._socket: int | None = None
        self._closed = False

    def close(self) -> None:
        """It will not be started any more."""
        with _STARTING:
            self._closed = True

    def ensure_running(self) -> None:
        """Start it unless it runs; its socket is found by a descriptor from then on. Raises OSError if it is closed."""
        this: Any = self
        config = multiprocessing.current_process()._config  # type: ignore[attr-defined]
        with _STARTING, tempfile.TemporaryDirectory(prefix="dspymq-") as folder:
            if self._closed:
                raise OSError("the fork server was stopped")
            before, config["tempdir"] = config.get("tempdir"), folder
            try:
                super().ensure_running()
            finally:
                config["tempdir"] = before
            address = this._forkserver_address
            if address.startswith(folder):
                self.close_socket()
                self._socket = os.open(address, os.O_PATH)
                this._forkserver_address = f"/proc/self/fd/{self._socket}"

    def close_socket(self) -> None:
        """Nobody asks it any more."""
        if self._socket is not None:
            os.close(self._socket)
            self._socket = None


class ForkServer:
    """One of them. `ensure_running` belongs to the main thread: the kernel ends a process with the thread it is of."""

    def __init__(self) -> None:
        self._server: Any = NamelessServer()
        self._server.set_forkserver_preload([PRELOAD])
        self._words = LastWords()
        self._said = ""
        self._orders: queue.SimpleQueue[tuple[Any, Callable[..., None]] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def start(self, process: Any, done: Callable[[BaseException | None, int | None], None]) -> None:
        """Start this process, then call `done` in another thread, with what went wrong and the server's exit code.

        The first start waits until the programs are imported. Raises OSError if there can be no server.
        """
        with main_left_out(), self._words.in_environment():
            self._server.ensure_running()
        if self._thread is None:
            _let_threads_choose()
            self._thread = threading.Thread(target=self._run, name="starter", daemon=True)
            self._thread.start()
        self._orders.put((process, done))

    @property
    def pid(self) -> int | None:
        """Its process, until that was taken leave of."""
        pid: int | None = self._server._forkserver_pid
        return pid

    def last_words(self) -> str:
        """What it wrote before it died."""
        # Several starts fail with it, and only the first finds them.
        self._said = self._words.take() or self._said
        return self._said

    def stop(self) -> None:
        """End it now, whatever it does; its executors end with it."""
        self._orders.put(None)
        self._server.close()
        pid = self._server._forkserver_pid
        if pid is not None:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
            self._forget(blocking=True)
        self._words.close()

    def _run(self) -> None:
        _OF_THREAD.server = self._server
        while (order := self._orders.get()) is not None:
            self._carry_out(*order)
            # A process that has ended keeps its pipes as long as somebody knows it.
            del order

    def _carry_out(self, process: Any, done: Callable[[BaseException | None, int | None], None]) -> None:
        error: BaseException | None = None
        code: int | None = None
        try:
            with main_left_out():
                process.start()
        except Exception as problem:
            # Its frames know what was to be started, and with that its pipes.
            error = problem.with_traceback(None)
            code = self._forget(blocking=False)
        # A loop that was closed meanwhile has nobody who waits.
        with contextlib.suppress(RuntimeError):
            done(error, code)

    def _forget(self, *, blocking: bool) -> int | None:
        """Take leave of a server that has ended; its exit code, if it has."""
        server = self._server
        with server._lock:
            pid = server._forkserver_pid
            if pid is None:
                return None
            end_s = time.monotonic() + REAP_S
            while True:
                try:
                    reaped, status = os.waitpid(pid, 0 if blocking else os.WNOHANG)
                except ChildProcessError:
                    reaped, status = pid, 0
                if reaped:
                    break
                if time.monotonic() > end_s:
                    return None
                time.sleep(0.005)
            os.close(server._forkserver_alive_fd)
            server.close_socket()
            server._forkserver_pid = server._forkserver_alive_fd = server._forkserver_address = None
            return os.waitstatus_to_exitcode(status)


_OF_THREAD: Final = threading.local()
_STARTING: Final = threading.Lock()
_MAIN: Final = threading.Lock()
_main_users = 0


def _let_threads_choose() -> None:
    """Processes that a thread of a ForkServer starts come from that; all others from multiprocessing's own."""
    module: Any = multiprocessing.forkserver
    default = module.connect_to_new_process
    if getattr(default, "is_ours", False):
        return

    def connect(fds: Any) -> Any:
        server = getattr(_OF_THREAD, "server", None)
        return default(fds) if server is None else server.connect_to_new_process(fds)

    connect.is_ours = True  # type: ignore[attr-defined]
    module.connect_to_new_process = connect


@contextlib.contextmanager
def main_left_out() -> Iterator[None]:
    """Keep multiprocessing from running the supervisor's script again in every executor.

    The script of a console command has no spec, so multiprocessing would import it, and with it the CLI and zmq. A
    spec whose name ends in `.__main__` tells it that there is nothing to run.
    """
    global _main_users
    module = sys.modules["__main__"]
    with _MAIN:
        left_out = _main_users > 0 or getattr(module, "__spec__", None) is None
        if left_out:
            _main_users += 1
            module.__spec__ = importlib.machinery.ModuleSpec("dspymq.__main__", None)
    try:
        yield
    finally:
        if left_out:
            with _MAIN:
                _main_users -= 1
                if not _main_users:
                    module.__spec__ = None
