"""The demo and the example scripts, as anybody would run them."""

import os
import re
import subprocess
import sys

import pytest

from tests.lm import ScriptedLM
from tests.processes import ROOT, clean_environ, running_broker, running_pool, session_members, wait_until


def run_script(name: str, environ: dict[str, str], *, timeout_s: float = 55) -> subprocess.CompletedProcess[str]:
    """Run an example in a session of its own; nothing of it may be left."""
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "examples" / name)],
        env=environ,
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        out, err = process.communicate(timeout=timeout_s)
    except BaseException:
        process.kill()
        raise
    wait_until(lambda: not session_members(process.pid), 5, f"the end of all of it: {session_members(process.pid)}")
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def test_the_demo_answers_every_call_and_leaves_nothing(scripted_lm: ScriptedLM) -> None:
    scripted_lm.script(token_ms=20, delay_ms=100)
    done = run_script("demo.py", clean_environ(scripted_lm))
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    for part in ("inline signature", "chain of thought", "typed extraction", "stream", "calls at once", "is killed"):
        assert part in done.stdout, part
    assert "20 of 20 answered" in done.stdout
    victim = re.search(r"kill -KILL (\d+)", done.stdout)
    assert victim is not None
    assert f"pid {victim[1]} was answering" in done.stdout
    assert "attempt 2, run again" in done.stdout
    assert "7 of 7 answered" in done.stdout
    assert "31 calls, 31 answers" in done.stdout
    assert scripted_lm.total().disconnects >= 1
    assert "135M" not in done.stdout


def test_a_call_that_is_not_answered_is_a_failed_demo(scripted_lm: ScriptedLM) -> None:
    scripted_lm.script(status=401)
    done = run_script("demo.py", clean_environ(scripted_lm))
    assert done.returncode == 1
    assert "lm_auth" in done.stdout
    assert "Traceback" not in done.stderr


@pytest.mark.local_lm
def test_the_demo_runs_on_the_embedded_model() -> None:
    done = run_script("demo.py", clean_environ())
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Paris" in done.stdout
    assert "age: 34" in done.stdout
    assert done.stdout.count("135M") == 1
    assert "31 calls, 31 answers" in done.stdout


def test_the_python_example_runs_against_the_example_programs(scripted_lm: ScriptedLM) -> None:
    with (
        running_broker() as broker,
        running_pool(broker, targets=["examples.programs"], lm=scripted_lm),
    ):
        done = run_script("call_from_python.py", clean_environ(extra={"DSPYMQ_BROKER": broker.clients}))
    assert done.returncode == 0, done.stderr
    assert "programs: " in done.stdout
    assert "refused: {" in done.stdout
    assert "'review'" in done.stdout


def test_without_a_broker_the_example_fails_soon(scripted_lm: ScriptedLM) -> None:
    environ = clean_environ(extra={"DSPYMQ_BROKER": f"ipc:///tmp/no-broker-{os.getpid()}"})
    done = run_script("call_from_python.py", environ)
    assert done.returncode == 1
    assert "BrokerUnreachable" in done.stderr
