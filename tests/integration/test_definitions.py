"""Programs that clients define as data: any pool runs them, at the revision that an alias stands for."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from dspymq import Client, exceptions
from tests.lm import ScriptedLM, expected_answer
from tests.processes import (
    RunningBroker,
    clean_environ,
    dspymq_command,
    running_broker,
    running_pool,
    wait_until,
)

SPEC = {"signature": "question -> answer"}


@pytest.fixture(scope="module")
def lm() -> Iterator[ScriptedLM]:
    with ScriptedLM() as running:
        yield running


@pytest.fixture(scope="module")
def broker(lm: ScriptedLM) -> Iterator[RunningBroker]:
    """With two pools that have no programs of their own but one."""
    with (
        running_broker() as running,
        running_pool(running, targets=["tests.faults.programs:echo"], lm=lm, name="one"),
        running_pool(running, targets=["tests.faults.programs:echo"], lm=lm, name="two", processes=2),
    ):
        yield running


@pytest.fixture
def client(broker: RunningBroker) -> Iterator[Client]:
    with Client(broker.clients) as running:
        yield running


def dspymq(broker: RunningBroker, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = dspymq_command(*arguments, "--broker", broker.clients)
    return subprocess.run(command, env=clean_environ(), capture_output=True, text=True, check=False)


def test_a_program_that_a_client_defines_is_run_by_every_pool(client: Client) -> None:
    revision = client.define("defined_qa", SPEC)
    assert client.define("defined_qa", "question -> answer") == revision
    predictions = list(client.map("defined_qa", [{"question": f"#job=d{n} question {n}"} for n in range(30)]))
    assert [one.answer for one in predictions] == [
        expected_answer("answer", f"#job=d{n} question {n}") for n in range(30)
    ]
    assert {one.revision for one in predictions} == {revision}
    found = client.program("defined_qa")
    assert found["inputs"]["required"] == ["question"]
    assert (found["kind"], found["streams"], found["defined"]) == ("predict", ["answer"], [revision])
    assert sorted(found["workers"]) == sorted(worker["worker"] for worker in client.workers())


def test_inputs_are_checked_before_any_model_call(client: Client, lm: ScriptedLM) -> None:
    client.define("strict", {"signature": "text, count: int -> summary"})
    before = lm.requests
    with pytest.raises(exceptions.InvalidArgument) as caught:
        client.call("strict", text="x", count="many")
    assert caught.value.reason == "invalid_inputs"
    assert lm.requests == before


def test_a_spec_that_cannot_be_built_names_the_place(client: Client) -> None:
    with pytest.raises(exceptions.InvalidArgument) as caught:
        client.define("broken", {"signature": "question ->"})
    assert caught.value.reason == "invalid_spec"
    assert caught.value.details
    with pytest.raises(exceptions.NotFound):
        client.call("broken", question="?")


def test_an_alias_is_moved_under_load_and_no_call_fails(client: Client) -> None:
    old = client.define("moving", {"signature": "question -> answer", "instructions": "Old."})
    new = client.define("moving", {"signature": "question -> answer", "instructions": "New."})
    assert client.alias("moving", "prod", old) is None
    calls = [{"question": f"#job=m{n} question {n}"} for n in range(60)]
    seen = []
    for number, prediction in enumerate(client.map("moving@prod", calls, concurrency=8)):
        seen.append(prediction.revision)
        if number == 20:
            assert client.alias("moving", "prod", new, expect=old) == old
    assert set(seen) == {old, new}
    assert seen[0] == old
    assert seen[-1] == new
    with pytest.raises(exceptions.FailedPrecondition) as caught:
        client.undefine("moving", new)
    assert caught.value.details == {"aliases": ["prod"]}
    client.undefine("moving", old)
    with pytest.raises(exceptions.NotFound) as missing:
        client.call("moving@prd", question="?")
    assert missing.value.details == {"close_matches": ["moving@prod"]}


def test_its_tools_are_those_of_each_client(client: Client) -> None:
    client.define("agent", {"signature": "question -> answer", "kind": "react", "max_iters": 3})

    def capital(country: str) -> str:
        """The capital of a country."""
        return {"France": "Paris"}[country]

    assert client.submit("agent", {"question": "?"}, tools=[capital]).result(30).revision
    with pytest.raises(exceptions.InvalidArgument) as caught:
        client.call("agent", question="?")
    assert caught.value.reason == "invalid_tools"


def test_from_a_shell(broker: RunningBroker, client: Client, tmp_path: Path) -> None:
    file = tmp_path / "spec.json"
    file.write_text(json.dumps({"signature": "question -> answer", "kind": "chain_of_thought"}))
    made = dspymq(broker, "define", "thoughtful", "--spec", str(file), "--alias", "prod", "--json")
    assert made.returncode == 0, made.stderr
    revision = json.loads(made.stdout)["revision"]
    assert client.program("thoughtful@prod")["revision"] == revision
    assert dspymq(broker, "call", "thoughtful@prod", "question=why?").returncode == 0
    wrong = dspymq(broker, "define", "wrong", "question ->")
    assert (wrong.returncode, wrong.stderr.count("\n")) == (3, 1), wrong.stderr
    assert dspymq(broker, "undefine", "thoughtful", revision).returncode != 0
    assert dspymq(broker, "alias", "thoughtful@prod", "--remove").returncode == 0
    assert dspymq(broker, "undefine", "thoughtful", revision).returncode == 0


def test_definitions_outlive_a_broker_that_is_killed_where_it_has_a_file(lm: ScriptedLM, tmp_path: Path) -> None:
    store = str(tmp_path / "definitions.db")
    with running_broker("--store", store) as first, Client(first.clients) as client:
        with running_pool(first, lm=lm, targets=["tests.faults.programs:echo"]):
            revision = client.define("kept", SPEC)
            client.alias("kept", "prod", revision)
        first.process.kill()
    with (
        running_broker("--store", store) as second,
        running_pool(second, lm=lm, targets=["tests.faults.programs:echo"]),
        Client(second.clients) as client,
    ):
        assert client.call("kept@prod", question="#job=kept still there?").revision == revision
        busy = subprocess.run(
            dspymq_command(
                "broker", "--clients", "tcp://127.0.0.1:*", "--workers", "tcp://127.0.0.1:*", "--store", store
            ),
            env=clean_environ(),
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )
        assert busy.returncode != 0
        assert "--store" in busy.stderr
        assert busy.stderr.count("\n") == 1
        wait_until(lambda: client.program("kept")["aliases"] == {"prod": revision}, 5)
