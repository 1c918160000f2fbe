"""`dspymq broker` and `dspymq worker` as processes: signals, exit codes, what they say."""

import json
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from dspymq import Client
from dspymq.cli.exit_codes import ExitCode
from tests.integration.cli_system import Shell, write_programs
from tests.lm import ScriptedLM
from tests.processes import ANY_PORT, clean_environ, dspymq_command, is_alive, running_broker, running_pool, wait_until


@pytest.fixture
def shell() -> Shell:
    return Shell("tcp://127.0.0.1:1")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_broker_says_where_it_listens_and_stops_when_told(number: signal.Signals) -> None:
    with running_broker() as broker:
        with Client(broker.clients, connect_timeout_s=5) as client:
            assert client.ping() < 5
        assert broker.process.kill(number) == 0
        lines = [json.loads(line) for line in broker.process.stderr().splitlines()]
    assert [line["event"] for line in lines if "event" in line] == ["broker_started"]
    assert lines[-1]["message"] == "broker_stopped"
    assert lines[0]["fields"]["clients"] == broker.clients


def test_a_port_that_is_taken_is_one_line(shell: Shell) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = shell("broker", "--clients", f"tcp://127.0.0.1:{port}", "--workers", ANY_PORT)
    assert done.code == ExitCode.FAILURE
    assert done.err.splitlines()[-1].startswith("error: cannot listen on ")
    assert str(port) in done.err
    assert "Traceback" not in done.err


def test_a_broker_reads_its_file_its_variables_and_its_arguments(tmp_path: Path, shell: Shell) -> None:
    config = tmp_path / "dspymq.toml"
    config.write_text('[broker]\nclients = "tcp://127.0.0.1:*"\nworkers = "tcp://0.0.0.0:1"\ngrace_ms = 1\n')
    refused = shell("broker", "--config", str(config))
    assert refused.code == ExitCode.USAGE
    assert "--insecure" in refused.err
    with running_broker(environ={"DSPYMQ_CONFIG": str(config)}) as broker:
        assert broker.workers.startswith("tcp://127.0.0.1:")
    config.write_text('[broker]\nclient = "x"\n')
    assert "did you mean `clients`?" in shell("broker", "--config", str(config)).err


def test_a_broker_dies_with_the_parent_that_it_was_told_of() -> None:
    script = (
        "import subprocess, sys, os, time\n"
        f"child = subprocess.Popen([*{dspymq_command('broker')!r}, '--clients', '{ANY_PORT}', '--workers', "
        f"'{ANY_PORT}', '--json', '--parent', str(os.getpid())], stdout=subprocess.PIPE, text=True)\n"
        "print(child.stdout.readline(), end='', flush=True)\n"
        "time.sleep(60)\n"
    )
    parent = subprocess.Popen(
        [dspymq_command()[0], "-c", script],
        env=clean_environ(),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert parent.stdout is not None
    pid = json.loads(parent.stdout.readline())["pid"]
    assert is_alive(pid)
    parent.kill()
    parent.wait(10)
    parent.stdout.close()
    wait_until(lambda: not is_alive(pid), 5, "the end of the broker")


def test_a_worker_whose_programs_cannot_be_loaded_says_which(shell: Shell, tmp_path: Path) -> None:
    done = shell("worker", "no_such_module", "--broker", "tcp://127.0.0.1:1", "--processes", "1")
    assert done.code == ExitCode.REFUSED
    assert "no_such_module" in done.err
    assert "Traceback" not in done.err


def test_a_worker_finds_programs_in_its_directory_and_drains_on_sigterm(tmp_path: Path) -> None:
    target = write_programs(tmp_path)
    with (
        ScriptedLM() as lm,
        running_broker() as broker,
        running_pool(broker, "--grace", "8", targets=[f"{target}:qa"], lm=lm, cwd=tmp_path) as pool,
        Client(broker.clients) as client,
    ):
        assert {row["name"] for row in client.programs()} == {"_define", "_inline", "qa"}
        job = client.submit("qa", {"question": "x #hang #job=drain"})
        lm.wait_open("drain")
        pool.process.process.send_signal(signal.SIGTERM)
        wait_until(lambda: pool.row().get("state") == "draining", 5, "the drain")
        lm.release("drain")
        assert job.result(10).answer.startswith("answer: x")
        assert pool.process.process.wait(10) == 0
        assert lm.job("drain").requests == 1


def test_a_workers_settings_come_from_arguments_over_variables_over_the_file(tmp_path: Path) -> None:
    config = tmp_path / "dspymq.toml"
    config.write_text('[worker]\nprocesses = 3\nconcurrency = 5\nname = "from-file"\n')
    environ = {"DSPYMQ_CONFIG": str(config), "DSPYMQ_WORKER_CONCURRENCY": "9", "DSPYMQ_WORKER_PROCESSES": "2"}
    with (
        running_broker() as broker,
        running_pool(broker, processes=1, concurrency=7, name="from-flag", environ=environ, wait=False) as pool,
    ):
        pool.wait_ready(1)
        assert pool.row()["slots"] == {"default": 7}
