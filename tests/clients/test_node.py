"""clients/node: its own tests, its client under a real pool, its worker beside one, restarts, the kit, its README."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dspymq import Client, exceptions
from tests.clients.node_tools import DIST, NODE, build, node_worker, run_tests, running_node
from tests.lm import ScriptedLM
from tests.processes import (
    RunningBroker,
    clean_environ,
    dspymq_command,
    running_broker,
    running_pool,
    session_members,
    wait_until,
)

PYTHON_PROGRAMS = "tests.conformance.vector_programs"
TEXT = "Once upon a time there was a queue that never grew."
PROCESSES = {"processes": 2, "slots": {"default": 4}, "graceMs": 1_000, "cancelGraceMs": 1_000, "stallMs": 1_000}


@pytest.fixture(scope="module", autouse=True)
def built() -> None:
    build()


def is_ready(client: Client, executors: int, name: str = "node") -> bool:
    """Whether the broker knows the Node worker with so many executors that take jobs."""
    rows = [row for row in client.workers() if row["name"] == name and row["state"] == "ready"]
    return any(sum(one["state"] == "ready" for one in row["executors"]) == executors for row in rows)


def wait_ready(client: Client, executors: int, name: str = "node") -> None:
    wait_until(lambda: is_ready(client, executors, name), 30, "the Node worker")


@pytest.mark.timeout(240)
def test_its_own_tests() -> None:
    run_tests("tests/unit", timeout_s=60)


@pytest.mark.timeout(240)
def test_the_client_under_a_real_broker_and_pool() -> None:
    with (
        ScriptedLM() as lm,
        running_broker() as broker,
        running_pool(broker, targets=[PYTHON_PROGRAMS], lm=lm, concurrency=16),
    ):
        run_tests("tests/integration", {"DSPYMQ_TEST_CLIENTS": broker.clients})


class System:
    """A broker, the Python pool, the Node worker with two processes, and a Python client."""

    def __init__(self, broker: RunningBroker, client: Client) -> None:
        self.broker = broker
        self.client = client


@pytest.fixture(scope="module")
def system(built: None) -> Iterator[System]:
    with (
        ScriptedLM() as lm,
        running_broker() as broker,
        running_pool(broker, targets=["tests.integration.tool_programs"], lm=lm),
        node_worker([broker], **PROCESSES),
        Client(broker.clients, timeout_s=30) as client,
    ):
        wait_ready(client, 2)
        yield System(broker, client)


def test_the_worker_beside_a_python_pool(system: System) -> None:
    client = system.client
    assert client.call("node_echo", value={"a": [1, None, "é"]}).value == {"a": [1, None, "é"]}
    assert "answer" in client.call("question -> answer", question="Who runs inline programs?")
    described = client.program("echo")
    assert described["inputs"]["properties"] == {"text": {"type": "string"}}
    assert described["description"] == "Gives back its text."
    with ThreadPoolExecutor(8) as threads:
        pids = {answer.pid for answer in threads.map(lambda n: client.call("node_echo", value=n), range(40))}
    assert len(pids) == 2


def test_the_worker_streams(system: System) -> None:
    job = system.client.stream("story", text=TEXT)
    chunks = list(job)
    assert "".join(chunk.text for chunk in chunks) == TEXT
    assert len(chunks) >= 10
    assert job.result().answer == TEXT


def test_the_worker_calls_tools_of_a_python_client(system: System) -> None:
    def add(a: int, b: int) -> int:
        return a + b

    client = system.client.with_options(tools=[add])
    assert client.call("consult", tool="add", args={"a": 2, "b": 3}, times=2)["values"] == [5, 5]
    assert client.call("consult", tool="add", args={"a": "x"}, times=1)["values"] == ["failed"]


def test_the_worker_reports_progress_and_usage(system: System) -> None:
    job = system.client.submit("steps", {"to": 3}, watch=["started", "progress"])
    assert job.result().to == 3
    assert (job.worker or "").startswith("node/")
    assert job.progress is not None
    assert job.progress.total == 3
    with pytest.raises(exceptions.ProgramError, match="no more") as failed:
        system.client.call("used")
    assert failed.value.details == {"type": "RangeError"}
    assert failed.value.usage is not None
    model = failed.value.usage.models["small"]
    assert (failed.value.usage.calls, model.input_tokens, model.output_tokens, model.cost) == (2, 8, 3, 0.5)


def test_the_worker_refuses_inputs_that_do_not_fit(system: System) -> None:
    with pytest.raises(exceptions.InvalidArgument) as failed:
        system.client.call("echo", text=7, size=1)
    assert set(failed.value.fields) == {"text", "size"}


def test_the_worker_stops_jobs(system: System) -> None:
    job = system.client.submit("nap", {"ms": 60_000}, watch=["started"])
    wait_until(lambda: job.status == "running", what="the nap")
    job.cancel()
    with pytest.raises(exceptions.Cancelled):
        job.result(10)
    with pytest.raises(exceptions.DeadlineExceeded):
        system.client.with_options(timeout_s=0.3).call("nap", ms=60_000)


def test_a_job_that_ends_its_process_is_isolated_and_then_given_up(system: System) -> None:
    """Twice alone in a process that died: poison (R-6.25). Its neighbours run again, to their end."""
    with system.client.subscribe("job.requeued") as requeued:
        neighbours = [system.client.submit("nap", {"ms": 1_500}, watch=["started"]) for _ in range(4)]
        for neighbour in neighbours:
            wait_until(lambda one=neighbour: one.status == "running", what="a neighbour")  # type: ignore[misc]
        with pytest.raises(exceptions.Aborted) as failed:
            system.client.call("die", ms=50)
        assert failed.value.reason == "poison"
        attempts = [neighbour.result(20).attempt for neighbour in neighbours]
    assert set(attempts) <= {1, 2}
    assert requeued is not None
    wait_ready(system.client, 2)


def test_a_job_that_ignores_its_cancel_costs_its_process(system: System) -> None:
    before = {one["pid"] for row in system.client.workers() for one in row["executors"] if row["name"] == "node"}
    job = system.client.submit("stubborn", {"ms": 60_000}, watch=["started"])
    wait_until(lambda: job.status == "running", what="the job")
    job.cancel()
    with pytest.raises(exceptions.Cancelled):
        job.result(20)

    def replaced() -> bool:
        rows = [row for row in system.client.workers() if row["name"] == "node"]
        executors = {one["pid"] for row in rows for one in row["executors"] if one["state"] == "ready"}
        return len(executors) == 2 and executors != before

    wait_until(replaced, 20, "another process")


def test_a_program_that_holds_its_process_holds_nobody_else(system: System) -> None:
    """A process whose loop does not run gets no jobs after a while; the worker itself goes on answering its broker."""
    client = system.client
    wait_until(lambda: is_ready(client, 2), 20, "both processes")
    job = client.submit("spin", {"ms": 6_000}, watch=["started"])

    def is_stalled() -> bool:
        rows = [row for row in client.workers() if row["name"] == "node"]
        return any(one["state"] == "stalled" for row in rows for one in row["executors"])

    wait_until(is_stalled, 5, "the stall")
    for n in range(20):
        assert client.with_options(timeout_s=3).call("node_echo", value=n).value == n
    assert not job.done()
    assert job.result(20).attempt == 1


def test_jobs_in_the_workers_own_process() -> None:
    with (
        running_broker() as broker,
        node_worker([broker], slots={"default": 3}) as worker,
        Client(broker.clients, timeout_s=20) as client,
    ):
        wait_ready(client, 1)
        assert client.call("node_echo", value=1).pid == worker.pid
        assert "".join(chunk.text for chunk in client.stream("story", text=TEXT)) == TEXT
        job = client.submit("nap", {"ms": 60_000}, watch=["started"])
        wait_until(lambda: job.status == "running", what="the nap")
        job.cancel()
        with pytest.raises(exceptions.Cancelled):
            job.result(10)
        assert worker.stop() == 0


@pytest.mark.parametrize("processes", [0, 2])
def test_sigterm_lets_jobs_end_and_gives_back_the_rest(processes: int, tmp_path: Path) -> None:
    """The second worker is drained until both jobs run at the first: its drain ends with the job that comes then."""
    options = {"processes": processes, "slots": {"default": 4}, "graceMs": 1_000}
    marks = tmp_path / "marks"
    with (
        running_broker() as broker,
        node_worker([broker], **options) as first,
        node_worker([broker], **{**options, "name": "node-2"}),
        Client(broker.clients, timeout_s=40) as client,
    ):
        wait_ready(client, max(1, processes))
        wait_ready(client, max(1, processes), "node-2")
        second = next(row["worker"] for row in client.workers() if row["name"] == "node-2")
        client.request("workers.drain", {"worker": second})
        short = client.submit("mark", {"path": str(marks), "ms": 500}, watch=["started"])
        long = client.submit("mark", {"path": str(marks), "ms": 4_000}, watch=["started"])
        wait_until(lambda: long.status == "running" and short.status in ("running", "done"), what="both jobs")
        client.request("workers.undrain", {"worker": second})
        assert first.stop() == 0
        first.assert_nothing_left()
        assert short.result(10).attempt == 1
        assert long.result(30).attempt == 2
    assert len(marks.read_text().splitlines()) == 3


def test_a_worker_that_was_killed_leaves_nothing() -> None:
    """Not even a process whose program never yields."""
    with (
        running_broker() as broker,
        Client(broker.clients, timeout_s=30) as client,
        node_worker([broker], **PROCESSES) as worker,
    ):
        wait_ready(client, 2)
        job = client.submit("spin", {"ms": 60_000}, watch=["started"])
        wait_until(lambda: job.status == "running", what="the job")
        worker.kill(signal.SIGKILL)
        wait_until(lambda: not session_members(worker.pid), 5, "the end of its processes")


@pytest.mark.parametrize("processes", [0, 2])
def test_what_runs_while_the_broker_is_killed_goes_on(processes: int, tmp_path: Path) -> None:
    """The restarted broker adopts the attempt: the program was started once, its result reaches the client."""
    marks = tmp_path / "marks"
    with (
        running_broker() as broker,
        Client(broker.clients, timeout_s=30) as client,
        node_worker([broker], processes=processes, slots={"default": 4}),
    ):
        wait_ready(client, max(1, processes))
        job = client.submit("mark", {"path": str(marks), "ms": 2_500}, watch=["started"])
        finished = client.submit("mark", {"path": str(marks), "ms": 300}, watch=["started"])
        wait_until(lambda: job.status == finished.status == "running", what="both jobs")
        broker.process.kill()
        time.sleep(1.0)  # `finished` ends while no broker is there
        with running_broker(clients=broker.clients, workers=broker.workers):
            assert job.result(20).attempt == 1
            assert finished.result(20).attempt == 1
    assert len(marks.read_text().splitlines()) == 2


@pytest.mark.timeout(180)
def test_a_broker_that_is_killed_and_restarted_under_load() -> None:
    """A Node client, a Node worker and a Python pool; the broker is killed three times. Each call has its answer."""
    total = 3_000
    with (
        ScriptedLM() as lm,
        running_broker() as broker,
        node_worker([broker], **PROCESSES),
        running_pool(broker, targets=[PYTHON_PROGRAMS], lm=lm, concurrency=8),
        running_node("tests/load.js", broker.clients, str(total)) as load,
        contextlib.ExitStack() as restarted,
    ):
        assert json.loads(load.first_line()) == {"started": True}
        process = broker.process
        for _ in range(3):
            assert json.loads(load.first_line())["answered"] < total, "the calls were over before the broker was killed"
            process.kill()
            process = restarted.enter_context(running_broker(clients=broker.clients, workers=broker.workers)).process
        lines = [json.loads(line) for line in load.process.stdout or ()]
        assert lines[-1] == {"answered": total, "wrong": [], "failed": 0}
        assert load.process.wait(10) == 0


@pytest.mark.timeout(120)
@pytest.mark.parametrize(("role", "left_out"), [("client", 0), ("worker", 2)])
def test_the_conformance_kit(role: str, left_out: int) -> None:
    """Its worker takes no programs as data."""
    command = dspymq_command("conformance", role, "--", "node", str(DIST / "conformance" / f"{role}.js"))
    done = subprocess.run(command, env=clean_environ(), capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stdout[-6_000:] + done.stderr[-2_000:]
    assert f" 0 fail, {left_out} not supported" in done.stdout


def test_the_six_things() -> None:
    with ScriptedLM() as lm, running_broker() as broker, running_pool(broker, lm=lm, targets=["examples.programs"]):
        lm.script(tools=("weather",), args={"weather": {"city": "Oslo"}}, answer={"answer": "No umbrella."})
        command = ["node", str(DIST / "examples" / "six-things.js"), broker.clients]
        done = subprocess.run(command, env=clean_environ(), capture_output=True, text=True, timeout=50)
    assert done.returncode == 0, done.stderr
    assert "call: No umbrella. { 'openai/scripted'" in done.stdout
    assert "extraction: " in done.stdout
    assert "stream: " in done.stdout
    assert "cancel: " in done.stdout
    assert "tool: No umbrella." in done.stdout
    assert "errors: { " in done.stdout
    assert "review: " in done.stdout


def test_the_example_worker() -> None:
    with (
        running_broker() as broker,
        Client(broker.clients, timeout_s=20) as client,
        running_node("examples/worker.js", broker.workers) as worker,
    ):
        wait_ready(client, 1, "plain-functions")
        assert client.call("slugify", title="Plain Functions, too").slug == "plain-functions-too"
        job = client.stream("count", to=3)
        assert "".join(chunk.text for chunk in job) == "1 2 3 "
        assert worker.stop() == 0


def test_the_snippets_of_the_readme_are_those_that_run() -> None:
    """Each block of TypeScript in the README stands, line by line, in an example or a test that is compiled and run."""
    folders = [NODE / "examples", NODE / "tests"]
    sources = [_lines(path.read_text("utf-8")) for folder in folders for path in folder.rglob("*.ts")]
    blocks = re.findall(r"^```ts\n(.*?)^```$", (NODE / "README.md").read_text("utf-8"), re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 6
    for block in blocks:
        wanted = _lines(block)
        assert any(_holds(source, wanted) for source in sources), f"in no example:\n{block}"


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


def _holds(lines: list[str], wanted: list[str]) -> bool:
    return any(lines[at : at + len(wanted)] == wanted for at in range(len(lines) - len(wanted) + 1))
