"""What `dspymq up` tells people to write runs as it stands."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dspymq.cli.up_snippets import snippets
from tests.clients import node_tools
from tests.clients.toolchains import NO_ELIXIR, require
from tests.lm import ScriptedLM, expected_answer
from tests.processes import ROOT, RunningBroker, clean_environ, running_broker, running_pool

QUESTION = "What is the capital of France?"
MINUTES_S = 150


@pytest.fixture(scope="module")
def broker() -> Iterator[RunningBroker]:
    with (
        ScriptedLM() as lm,
        running_broker() as broker,
        running_pool(broker, targets=["examples.programs"], lm=lm),
    ):
        yield broker


def run(command: list[str], cwd: Path = ROOT, **environ: str) -> str:
    done = subprocess.run(
        command,
        cwd=cwd,
        env=clean_environ(extra=environ),
        capture_output=True,
        text=True,
        timeout=MINUTES_S,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.timeout(MINUTES_S + 30)
@pytest.mark.parametrize("language", ["a shell", "Python", "Elixir", "Node"])
@pytest.mark.parametrize("program", ["qa", "question -> answer"])
def test_a_snippet_of_up_runs(language: str, program: str, broker: RunningBroker, tmp_path: Path) -> None:
    code = {one.language: one.code for one in snippets(broker.clients, program, {"question": QUESTION})}[language]
    if language == "a shell":
        said = run(["sh", "-c", code], PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    elif language == "Python":
        said = run([sys.executable, "-c", code])
    elif language == "Elixir":
        require(shutil.which("mix") is not None, NO_ELIXIR)
        build = {"MIX_ENV": "dev", "MIX_BUILD_PATH": str(tmp_path), "LC_ALL": "C.UTF-8"}
        said = run(["mix", "run", "-e", code], ROOT / "clients" / "elixir", **build)
    else:
        node_tools.build()
        said = run(["node", "--input-type=module", "-e", code], node_tools.NODE)
    assert expected_answer("answer", QUESTION) in said
