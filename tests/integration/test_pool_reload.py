"""Reloads of real pools under calls: every call is answered, by the old version or by the new one."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pytest

from dspymq import Client
from dspymq.exceptions import DspymqError
from tests.faults.reload_programs import BROKEN, good
from tests.processes import (
    RunningBroker,
    RunningPool,
    is_alive,
    running_broker,
    running_pool,
    session_members,
    wait_until,
)

pytestmark = pytest.mark.timeout(180)
PATIENCE_S = 60.0


class Callers:
    """Threads that call `say` all the while; not one call may fail, nor, with `once`, be run twice."""

    def __init__(self, broker: RunningBroker, threads: int = 6, *, once: bool = True) -> None:
        self._once = once
        self.versions: list[tuple[float, str]] = []
        self.problems: list[str] = []
        self.attempts: set[int] = set()
        self._broker = broker
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._call, args=(n,)) for n in range(threads)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(PATIENCE_S)
        assert not self.problems, self.problems[:5]
        assert self.attempts == {1} or not self._once, "no call was run twice"

    def latest(self) -> str:
        """The version that answered last."""
        return self.versions[-1][1] if self.versions else ""

    def _call(self, number: int) -> None:
        with Client(self._broker.clients, name=f"caller-{number}", timeout_s=30) as client:
            count = 0
            while not self._stop.is_set():
                count += 1
                try:
                    prediction = client.call("say", ms=(0, 5, 40, 300)[(number + count) % 4])
                except DspymqError as error:
                    self.problems.append(f"{time.monotonic():.3f} {error!r}")
                else:
                    self.versions.append((time.monotonic(), prediction.version))
                    self.attempts.add(prediction.attempt)


@pytest.fixture(scope="module")
def broker() -> Iterator[RunningBroker]:
    with running_broker() as made:
        yield made


def app(tmp_path: Path, text: str, name: str = "app.py") -> None:
    """Write a version of the programs, at once."""
    new = tmp_path / f"{name}.new"
    new.write_text(text)
    new.replace(tmp_path / name)


def problems(pool: RunningPool) -> dict[str, str]:
    return {one["id"]: one["problem"] for one in pool.executors() if one.get("problem")}


def pool_of(broker: RunningBroker, tmp_path: Path, *arguments: str, **options: Any) -> Any:
    return running_pool(broker, *arguments, targets=options.pop("targets", ["app"]), cwd=tmp_path, **options)


def test_no_call_fails_over_many_reloads_and_a_broken_one(broker: RunningBroker, tmp_path: Path) -> None:
    app(tmp_path, good("v0"))
    with pool_of(broker, tmp_path, processes=2, concurrency=4) as pool, Callers(broker) as callers:
        for n in range(1, 5):
            wait_until(lambda n=n: callers.latest() == f"v{n - 1}", PATIENCE_S, f"v{n - 1}")
            if n == 3:
                app(tmp_path, BROKEN)
                os.kill(pool.pid, signal.SIGHUP)
                wait_until(lambda: problems(pool), PATIENCE_S, "the problem in status")
                assert "no index here" in problems(pool)["reload"]
                assert "app.py, line 4" in problems(pool)["reload"]
                pool.wait_ready(2)
                assert callers.latest() == "v2"
            old = set(pool.executor_pids())
            app(tmp_path, good(f"v{n}"))
            os.kill(pool.pid, signal.SIGHUP)
            wait_until(lambda n=n: callers.latest() == f"v{n}", PATIENCE_S, f"v{n}")
            wait_until(lambda old=old: not old & set(pool.executor_pids()), PATIENCE_S, "the end of the old ones")
            assert problems(pool) == {}
        pool.wait_ready(2)
        print(f"{len(callers.versions)} calls over 4 reloads and a broken one")
        log = pool.process.stderr()
        assert sum("no index here" in line and "pool.problem " in line for line in log.splitlines()) == 1
        # One fork server and its executors are left, beside the supervisor and its resource tracker.
        wait_until(lambda: len(session_members(pool.pid)) <= 5, 10.0, "the end of the old fork servers")


def test_files_are_watched_and_a_broken_version_is_tried_again_at_the_next_change(
    broker: RunningBroker, tmp_path: Path
) -> None:
    app(tmp_path, good("one"))
    with pool_of(broker, tmp_path, "--reload", processes=1, name="watched") as pool, Callers(broker, 2) as callers:
        wait_until(lambda: callers.latest() == "one", PATIENCE_S, "one")
        app(tmp_path, BROKEN)
        wait_until(lambda: "line 4" in problems(pool).get("reload", ""), PATIENCE_S, "the problem")
        assert callers.latest() == "one"
        app(tmp_path, good("two"))
        wait_until(lambda: callers.latest() == "two", PATIENCE_S, "two")
        # A module that was not there before, and the same size as another version of it.
        app(tmp_path, "WORD = 'abc'\n", "helper.py")
        app(tmp_path, "from helper import WORD\n" + good("three").replace("VERSION = 'three'", "VERSION = WORD"))
        wait_until(lambda: callers.latest() == "abc", PATIENCE_S, "abc")
        app(tmp_path, "WORD = 'xyz'\n", "helper.py")
        wait_until(lambda: callers.latest() == "xyz", PATIENCE_S, "xyz")
        assert problems(pool) == {}
        began_s = time.monotonic()
        app(tmp_path, "WORD = 'end'\n", "helper.py")
        wait_until(lambda: callers.latest() == "end", PATIENCE_S, "end")
        print(f"from an edit to its first answer: {time.monotonic() - began_s:.2f} s")


def test_a_rolling_restart_replaces_every_process_and_fails_no_call(broker: RunningBroker, tmp_path: Path) -> None:
    """The same programs, the same revisions: new processes."""
    app(tmp_path, good("same"))
    with pool_of(broker, tmp_path, processes=2) as pool, Callers(broker) as callers:
        wait_until(lambda: len(callers.versions) > 10, PATIENCE_S, "calls")
        before = set(pool.executor_pids())
        os.kill(pool.pid, signal.SIGHUP)
        wait_until(lambda: not before & set(pool.executor_pids()), PATIENCE_S, "new processes")
        pool.wait_ready(2)
        count = len(callers.versions)
        wait_until(lambda: len(callers.versions) > count + 10, PATIENCE_S, "more calls")
        wait_until(lambda: not any(is_alive(pid) for pid in before), 10.0, "the end of the old processes")


def test_recycling_by_jobs_fails_no_call(broker: RunningBroker, tmp_path: Path) -> None:
    app(tmp_path, good("same"))
    with pool_of(broker, tmp_path, "--max-jobs-per-executor", "20", processes=2) as pool, Callers(broker) as callers:
        seen: set[int] = set()

        def many() -> bool:
            seen.update(pool.executor_pids())
            return len(seen) >= 8

        wait_until(many, PATIENCE_S, "eight processes")
        row = pool.row()
        assert row["slots"]["default"] >= 8
        assert callers.versions
        assert "executor.retiring" in pool.process.stderr()


def test_the_memory_of_executors_is_shown_and_a_large_one_is_replaced(broker: RunningBroker, tmp_path: Path) -> None:
    app(tmp_path, good("same"))
    with pool_of(broker, tmp_path, "--max-rss", "350M", processes=1) as pool, Callers(broker, 2):
        first = pool.executor_pids()[0]
        wait_until(lambda: pool.executors()[0].get("private_bytes"), PATIENCE_S, "its memory")
        row = pool.executors()[0]
        assert row["shared_bytes"] > 20 << 20
        print(f"idle: private {row['private_bytes'] >> 20} MiB, shared {row['shared_bytes'] >> 20} MiB")
        with Client(broker.clients) as client:
            assert client.call("grow", mib=300).pid == first
            wait_until(lambda: first not in pool.executor_pids(), PATIENCE_S, "its replacement")
            assert client.call("say").pid != first


def test_a_program_that_takes_all_memory_is_killed_and_convicted(broker: RunningBroker, tmp_path: Path) -> None:
    app(tmp_path, good("same"))
    limits = ("--max-rss", "350M", "--kill-rss", "600M")
    with pool_of(broker, tmp_path, *limits, processes=1) as pool, Client(broker.clients) as client:
        first = pool.executor_pids()[0]
        with pytest.raises(DspymqError) as caught:
            client.with_options(timeout_s=60).call("grow", mib=20_000)
        assert caught.value.reason == "poison"
        assert not is_alive(first)
        assert client.call("say").version == "same"
        assert "over_kill_rss" in pool.process.stderr()


def test_a_broken_program_takes_only_itself_out(broker: RunningBroker, tmp_path: Path) -> None:
    app(tmp_path, good("fine") + "\n\ndef broken() -> dspy.Module:\n    raise KeyError('no such prompt')\n")
    app(tmp_path, BROKEN, "other.py")
    with pool_of(broker, tmp_path, targets=["app", "other"], name="half") as pool, Client(broker.clients) as client:
        assert client.call("say").version == "fine"
        found = problems(pool)
        assert "no such prompt" in found["app:broken"]
        assert "other.py, line 4" in found["other"]
        log = pool.process.stderr().splitlines()
        assert sum("no such prompt" in line and "pool.problem" in line for line in log) == 1


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_a_pool_that_keeps_dying_at_its_start_says_why_once_and_recovers(
    broker: RunningBroker, tmp_path: Path, method: str
) -> None:
    app(tmp_path, "import os\nimport signal\nprint('the model file is missing', flush=True)\n"
        "os.write(2, b'cannot open weights.bin\\n')\nos.kill(os.getpid(), signal.SIGSEGV)\n")  # fmt: skip
    with pool_of(broker, tmp_path, "--start-method", method, wait=False, name=method) as pool:
        wait_until(lambda: "cannot open weights.bin" in problems(pool).get("start", ""), PATIENCE_S, "the problem")
        assert pool.row()["state"] == "syncing"
        if method == "forkserver":
            assert "app.py" in problems(pool)["start"], "where it crashed"
            assert "-11" in problems(pool)["start"]
        with Client(broker.clients) as client:
            job = client.submit("say", {}, timeout_s=PATIENCE_S)
            app(tmp_path, good("mended"))
            assert job.result(PATIENCE_S).version == "mended"
        wait_until(lambda: not problems(pool), PATIENCE_S, "its end")
        lines = [line for line in pool.process.stderr().splitlines() if "pool.problem " in line]
        assert len(lines) == 1, lines


def test_a_reload_of_a_pool_that_spawns_fails_no_call(broker: RunningBroker, tmp_path: Path) -> None:
    app(tmp_path, good("a"))
    with pool_of(broker, tmp_path, "--start-method", "spawn", processes=2) as pool:
        with Callers(broker, 3) as callers:
            wait_until(lambda: callers.latest() == "a", PATIENCE_S, "a")
            app(tmp_path, good("bb"))
            os.kill(pool.pid, signal.SIGHUP)
            wait_until(lambda: callers.latest() == "bb", PATIENCE_S, "bb")
        pool.wait_ready(2)
        with Callers(broker, 3, once=False) as callers:
            # Nobody asks for a reload, and the replacement of one that dies imports what is there by then.
            app(tmp_path, good("ccc"))
            os.kill(next(row["pid"] for row in pool.executors() if row["state"] == "ready"), signal.SIGKILL)
            wait_until(lambda: callers.latest() == "ccc", PATIENCE_S, "ccc")
        pool.wait_ready(2)


def test_an_import_that_never_ends_holds_up_nobody(broker: RunningBroker, tmp_path: Path) -> None:
    """Neither the calls, nor the replacement of an executor that dies meanwhile, nor the next version."""
    app(tmp_path, good("a"))
    with pool_of(broker, tmp_path, processes=1) as pool, Client(broker.clients, timeout_s=30) as client:
        assert client.call("say").version == "a"
        app(tmp_path, "import os, time\nopen('hangs', 'w').write(str(os.getpid()))\ntime.sleep(600)\n")
        os.kill(pool.pid, signal.SIGHUP)
        hangs = tmp_path / "hangs"
        wait_until(lambda: hangs.exists() and hangs.read_text(), PATIENCE_S, "its import")
        (pid,) = [row["pid"] for row in pool.executors() if row["state"] == "ready"]
        os.kill(pid, signal.SIGKILL)
        assert client.call("say").version == "a"
        app(tmp_path, good("b"))
        os.kill(pool.pid, signal.SIGHUP)
        wait_until(lambda: client.call("say").version == "b", PATIENCE_S, "b")
        wait_until(lambda: not is_alive(int(hangs.read_text())), 10.0, "the end of the one that hung")
        pool.wait_ready(1)


def test_executors_killed_during_reloads_cost_attempts_and_no_call(broker: RunningBroker, tmp_path: Path) -> None:
    app(tmp_path, good("v0"))
    with pool_of(broker, tmp_path, processes=2) as pool:
        with Callers(broker, once=False) as callers:
            for n in range(1, 4):
                wait_until(lambda n=n: callers.latest() == f"v{n - 1}", PATIENCE_S, f"v{n - 1}")
                app(tmp_path, good(f"v{n}"))
                os.kill(pool.pid, signal.SIGHUP)
                end = time.monotonic() + PATIENCE_S
                while callers.latest() != f"v{n}" and time.monotonic() < end:
                    for pid in pool.executor_pids()[:1]:
                        with contextlib.suppress(ProcessLookupError):
                            os.kill(pid, signal.SIGKILL)
                    time.sleep(0.5)
                    if "reload" in problems(pool):
                        # Three of the new version died before it served: somebody asks again.
                        os.kill(pool.pid, signal.SIGHUP)
        assert max(callers.attempts) > 1
        pool.wait_ready(2)


def test_a_long_call_ends_where_it_began(broker: RunningBroker, tmp_path: Path) -> None:
    """Two versions later, in the process that it began in, in its first attempt."""
    app(tmp_path, good("v0"))
    with pool_of(broker, tmp_path, processes=1) as pool, Client(broker.clients, timeout_s=60) as client:
        job = client.submit("say", {"ms": 8_000}, watch=["started"])
        wait_until(lambda: job.worker, 10.0, "its start")
        assert job.worker is not None
        pid = pool.pid_of(job.worker)
        for version in ("v1", "v2"):
            app(tmp_path, good(version))
            os.kill(pool.pid, signal.SIGHUP)
            wait_until(lambda version=version: client.call("say").version == version, PATIENCE_S, version)
        assert not job.done()
        assert pid in pool.executor_pids()
        prediction = job.result(PATIENCE_S)
        assert (prediction.version, prediction.pid, prediction.attempt) == ("v0", pid, 1)
        wait_until(lambda: not is_alive(pid), 10.0, "its end")


def test_a_stop_in_the_middle_of_a_reload_leaves_nothing(broker: RunningBroker, tmp_path: Path) -> None:
    app(tmp_path, good("v0"))
    with pool_of(broker, tmp_path, processes=1) as pool, Client(broker.clients, timeout_s=60) as client:
        job = client.submit("say", {"ms": 1_500}, watch=["started"])
        wait_until(lambda: job.worker, 10.0, "its start")
        app(tmp_path, "import time\nopen('hangs', 'w').write('x')\ntime.sleep(600)\n")
        os.kill(pool.pid, signal.SIGHUP)
        wait_until((tmp_path / "hangs").exists, PATIENCE_S, "its import")
        os.kill(pool.pid, signal.SIGTERM)
        assert job.result(PATIENCE_S).attempt == 1
        assert pool.process.process.wait(20) == 0
        # That nothing is left of its session is asserted when the block ends.
