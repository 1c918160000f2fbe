"""A worker pool on an asyncio loop: carries events to `core.PoolCore` and its effects to the world."""

import asyncio
import logging
import os
import random
import signal
import time
from collections import deque
from typing import Any, Final

from dspymq.protocol.ids import new_uuid7
from dspymq.protocol.messages import Hello, Welcome
from dspymq.transport.log_lines import writes_json
from dspymq.worker.config import WorkerConfig
from dspymq.worker.executor_spec import VARIABLE, ExecutorSpec
from dspymq.worker.supervisor import effects as ef
from dspymq.worker.supervisor import events as ev
from dspymq.worker.supervisor.broker_link import BrokerLink
from dspymq.worker.supervisor.context import PoolSettings
from dspymq.worker.supervisor.core import EXIT_DRAINED, EXIT_FORCED, PoolCore
from dspymq.worker.supervisor.lm_gates import gate_settings
from dspymq.worker.supervisor.local_lm import LocalLmKeeper
from dspymq.worker.supervisor.outside import Outside
from dspymq.worker.supervisor.processes import Processes
from dspymq.worker.supervisor.watching import Watching

log = logging.getLogger("dspymq.worker.pool")

FEATURES: Final = ["chunks", "tools"]
"""What this worker does beyond running jobs; `hello.features`."""

LOOK_MS: Final = 500
"""Time is looked at this often, so that a stop of the whole process shows."""

EXIT_GRACE_S: Final = 2.0
LINGER_MS: Final = 500


def clock_ms() -> int:
    """Milliseconds since boot, the time in which a machine was suspended included: a broker did not sleep then."""
    if hasattr(time, "CLOCK_BOOTTIME"):
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000
    return time.monotonic_ns() // 1_000_000


class Pool:
    """One pool. `run` in a task of the main thread's loop; `shutdown` and `stop_now` end it."""

    def __init__(self, config: WorkerConfig) -> None:
        self.config = config
        self.worker_id = new_uuid7()
        now_ms = clock_ms()
        self._core = PoolCore(self._settings(now_ms), random.random)
        self._events: deque[ev.Event] = deque()
        self._handling = False
        self._restart_due = False
        self._last_ms = now_ms
        self._timer: asyncio.TimerHandle | None = None
        self._timer_ms = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._local_lm = LocalLmKeeper()
        self._outside = Outside(config.health, self._core.not_ready, lambda: self._core.has_started)

    async def run(self) -> int:
        """Run until drained or stopped; the exit code (see `core`)."""
        self._loop = asyncio.get_running_loop()
        self._exit: asyncio.Future[int] = self._loop.create_future()
        self._set_environment()
        self._processes = Processes(self)
        processes = self._processes
        self._watching = Watching(
            self.config, self._handle, processes.pids, lambda: self._core.source_dirs, processes.children
        )
        config = self.config
        await self._outside.start()
        hello = Hello(name=config.name, lang="python", features=FEATURES)
        self._last_ms = clock_ms()
        self._link = BrokerLink(config.brokers, hello, self, clock_ms, random.random)
        log.info(
            "pool.start worker=%s name=%s brokers=%s processes=%s concurrency=%s health=%s",
            self.worker_id,
            config.name,
            ",".join(config.brokers),
            config.processes,
            config.concurrency,
            self._outside.address or "none",
        )
        code = EXIT_FORCED
        try:
            self._handle(ev.Start())
            self._on_timer()
            self._watching.start()
            code = await self._exit
        finally:
            await self._close(forced=code != EXIT_DRAINED)
        return code

    def shutdown(self) -> None:
        """Finish or give back what is held, within the grace, then end."""
        self._handle(ev.Shutdown())

    def reload(self, why: str) -> None:
        """Import the programs anew, and change over to them if they can be used."""
        self._handle(ev.Reload(why))

    def stop_now(self) -> None:
        """End at once."""
        self._handle(ev.StopNow())

    # -- what the broker link and the processes report --------------------------------------------------------------

    def session_up(self, welcome: Welcome) -> None:
        """A broker welcomed us."""
        self._handle(ev.SessionUp(welcome))

    def session_down(self) -> None:
        """That session is over."""
        self._handle(ev.SessionDown())

    def broker_message(self, message: Any, body: bytes) -> None:
        """The broker said something."""
        self._handle(ev.FromBroker(message, body))

    def congested(self, *, blocked: bool) -> None:
        """The broker's socket takes nothing more, or again."""
        self._handle(ev.Congested(blocked))

    def is_busy(self) -> bool:
        """Whether a broker is missed."""
        return self._core.busy

    def executor_started(self, executor: str, pid: int) -> None:
        """A process exists."""
        self._handle(ev.ExecutorStarted(executor, pid))

    def executor_message(self, executor: str, message: Any, body: bytes) -> None:
        """An executor said something."""
        self._handle(ev.FromExecutor(executor, message, body))

    def executor_gone(self, executor: str, exit_code: int | None, last_words: str) -> None:
        """A process ended."""
        self._handle(ev.ExecutorGone(executor, exit_code, last_words))

    # -- inside -----------------------------------------------------------------------------------------------------

    def _settings(self, now_ms: int) -> PoolSettings:
        config = self.config
        return PoolSettings(
            worker=self.worker_id,
            name=config.name,
            processes=config.processes,
            spawn=config.start_method == "spawn",
            grace_ms=config.grace_ms,
            cancel_grace_ms=config.cancel_grace_ms,
            stall_ms=config.stall_ms,
            start_timeout_ms=config.start_timeout_ms,
            patient=config.reload,
            max_jobs_per_executor=config.max_jobs_per_executor,
            max_age_ms=config.max_age_ms,
            max_rss_bytes=config.max_rss_bytes,
            kill_rss_bytes=config.kill_rss_bytes,
            lm_gates=gate_settings(config.executor_profiles()),
            wall_offset_ms=time.time_ns() // 1_000_000 - now_ms,
        )

    def _set_environment(self) -> None:
        config = self.config
        spec = ExecutorSpec(
            targets=config.targets,
            paths=config.paths,
            cwd=config.cwd or os.getcwd(),
            profiles=config.executor_profiles(),
            concurrency=config.concurrency,
            lanes=config.lanes,
            beat_ms=config.beat_ms,
            max_body_bytes=config.max_body_bytes,
            fresh=config.reload,
            parent_pid=os.getpid(),
            log_level=config.log_level,
            log_json=writes_json(),
        )
        os.environ[VARIABLE] = spec.to_json()
        # Else DSPy's price table is fetched over the network, by a thread that would keep the fork server from forking.
        os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "true")

    def _handle(self, event: ev.Event) -> None:
        """Let the core decide, and do it. What an effect makes happen at once is handled after all effects before."""
        self._notice_stall()
        self._events.append(event)
        if self._handling:
            return
        self._handling = True
        try:
            while self._events:
                self._carry_out(self._events.popleft())
        finally:
            self._handling = False
        self._arm()

    def _carry_out(self, event: ev.Event) -> None:
        try:
            for effect in self._core.handle(event, self._last_ms):
                self._do(effect)
        except Exception:
            # A fault of ours in one event: the other jobs of the pool are worth more than a clean end.
            log.exception("pool.fault event=%s", type(event).__name__)

    def _notice_stall(self) -> None:
        now_ms = clock_ms()
        gap_ms = now_ms - self._last_ms
        self._last_ms = now_ms
        if gap_ms > self._link.stall_ms:
            log.warning("pool.own_stall stopped_ms=%s", gap_ms)
            # Before whatever woke us: a dispatch that waited may run elsewhere by now.
            self._events.append(ev.OwnStall())
            if not self._restart_due:
                self._restart_due = True
                self._loop.call_soon(self._restart)

    def _restart(self) -> None:
        self._restart_due = False
        if not self._exit.done():
            self._link.restart("own stall")
            self._arm()

    def _do(self, effect: ef.Effect) -> None:
        match effect:
            case ef.ToBroker(message, body):
                self._link.send(message, body)
            case ef.ToExecutor(executor, message, body):
                self._processes.send(executor, message, body)
            case ef.StartExecutor(executor, spawn, generation):
                self._processes.start(executor, spawn=spawn, generation=generation)
            case ef.EndGeneration(generation):
                self._processes.end_generation(generation)
            case ef.KillExecutor(executor):
                self._processes.kill(executor)
            case ef.AskLocalLm(executor, rid, again):
                task = self._loop.create_task(self._ask_local_lm(executor, rid, again))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            case ef.Log(level, text):
                log.log(level, text)
            case ef.Exit(code):
                if not self._exit.done():
                    self._exit.set_result(code)

    def _arm(self) -> None:
        due_ms = min(self._last_ms + LOOK_MS, self._link.next_ms())
        core_ms = self._core.next_ms()
        if core_ms is not None:
            due_ms = min(due_ms, core_ms)
        if self._timer is not None:
            if self._timer_ms <= due_ms:
                return
            self._timer.cancel()
        self._timer_ms = due_ms
        self._timer = self._loop.call_later(max(0, due_ms - self._last_ms) / 1000, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        if self._exit.done():
            return
        self._handle(ev.Tick())
        if not self._exit.done() and not self._restart_due:
            self._link.tick(self._last_ms)
            self._arm()

    async def _ask_local_lm(self, executor: str, rid: str, again: bool) -> None:
        try:
            answer = ev.LocalLmAnswer(executor, rid, await self._local_lm.url(again=again))
        except Exception as error:
            problem = str(error) or type(error).__name__
            log.warning("local_lm.failed executor=%s error=%r", executor, error)
            answer = ev.LocalLmAnswer(executor, rid, None, problem)
        self._handle(answer)

    async def _close(self, *, forced: bool) -> None:
        if self._timer is not None:
            self._timer.cancel()
        for task in self._tasks:
            task.cancel()
        self._watching.stop()
        await self._outside.stop()
        self._link.close(LINGER_MS)
        await self._processes.stop(0 if forced else EXIT_GRACE_S)
        await self._local_lm.stop()
        os.environ.pop(VARIABLE, None)


def has_terminal() -> bool:
    """Whether this process has a controlling terminal that is still there."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True


def run_pool(config: WorkerConfig) -> int:
    """Run a pool until it is drained or stopped; returns the exit code of the process.

    The first SIGTERM or SIGINT drains within `grace_ms`, the second stops at once. SIGHUP imports the programs anew;
    if it comes because the terminal is gone, it drains. Call it from the main thread.
    """
    return asyncio.run(_run(config))


async def _run(config: WorkerConfig) -> int:
    pool = Pool(config)
    loop = asyncio.get_running_loop()

    def on_signal(number: signal.Signals) -> None:
        log.info("pool.signal signal=%s again=%s", number.name, asked[0])
        if asked[0]:
            pool.stop_now()
        else:
            asked[0] = True
            pool.shutdown()

    asked = [False]
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    had_terminal = has_terminal()

    def on_hangup() -> None:
        if had_terminal and not has_terminal():
            on_signal(signal.SIGHUP)
        else:
            pool.reload("SIGHUP")

    loop.add_signal_handler(signal.SIGHUP, on_hangup)
    return await pool.run()
