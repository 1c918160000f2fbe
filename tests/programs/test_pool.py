"""Programs as data from end to end: over a real broker, by forked executors of a real pool."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jsonschema
import pytest

from dspymq import Client
from dspymq.protocol import body as bodies
from dspymq.protocol import client_messages as cm
from tests.faults.peers import RawClient
from tests.lm import ScriptedLM
from tests.processes import RunningBroker, running_broker, running_pool

PREDICT = {"signature": "question -> answer"}
SPECS: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "pipeline": (
        {
            "kind": "pipeline",
            "steps": [
                {"name": "ask", "program": {"signature": "topic -> question"}},
                {"name": "reply", "program": {**PREDICT, "adapter": "json", "config": {"temperature": 0.5}}},
            ],
        },
        {"topic": "tea"},
        {"answer": "answer: question: tea"},
    ),
    "parallel": (
        {"kind": "parallel", "over": "question", "program": PREDICT},
        {"question": ["a", "b"]},
        {"answer": ["answer: a", "answer: b"]},
    ),
    "a reward of the pool": (
        {"kind": "best_of_n", "program": PREDICT, "reward": {"name": "length"}, "n": 2},
        {"question": "a"},
        {"answer": "answer: a"},
    ),
    "a tool of the pool": (
        {"kind": "rlm", "signature": "question -> answer", "tools": ["search"]},
        {"question": """#job=rlm #answer.code="SUBMIT(answer=search(query='x')[1])" """},
        {"answer": "x 1"},
    ),
}


@dataclass
class System:
    lm: ScriptedLM
    broker: RunningBroker

    def run(self, job: str, program: str, inputs: dict[str, Any], **body: Any) -> tuple[cm.Result, dict[str, Any]]:
        with RawClient(self.broker.clients) as client:
            client.hello()
            submit = cm.Submit(job=job, program=program, timeout_ms=40_000)
            client.send(submit, bodies.encode(inputs=inputs, **body))
            return client.result(job, 45)


@pytest.fixture(scope="module")
def system() -> Iterator[System]:
    with (
        ScriptedLM() as lm,
        running_broker() as broker,
        running_pool(broker, targets=["tests.programs.pool_programs"], lm=lm),
    ):
        yield System(lm, broker)


@pytest.mark.parametrize("name", SPECS)
def test_specs_in_a_pool(system: System, name: str) -> None:
    spec, inputs, expected = SPECS[name]
    result, outputs = system.run(f"job-{name}".replace(" ", "-"), "_inline", inputs, spec=spec)
    assert (result.code, outputs) == ("OK", expected), result
    assert result.revision is not None
    assert len(result.revision) == 32


def test_an_agent_with_a_tool_of_the_pool(system: System) -> None:
    spec = {"kind": "react", "signature": "question -> answer", "tools": ["search"]}
    inputs = {"question": '#job=agent #tools=search #args.search={"query": "moss"}'}
    result, _ = system.run("job-agent", "_inline", inputs, spec=spec)
    assert result.code == "OK", result
    assert "moss 1" in system.lm.job("agent").texts[-1]


def test_a_module_that_blocks_its_loop_runs_in_a_thread(system: System) -> None:
    inputs = {"question": """#job=blocks #answer.code="SUBMIT(answer=llm_query('moss'))" """}
    result, outputs = system.run("job-blocks", "recursive", inputs)
    assert (result.code, outputs) == ("OK", {"answer": "answer: moss"}), result


def test_a_refusal_names_the_place(system: System) -> None:
    spec = {"kind": "pipeline", "steps": [{"name": "one", "program": {"signature": "question -> answer: os"}}]}
    result, _ = system.run("job-refused", "_inline", {"question": "x"}, spec=spec)
    assert (result.code, result.reason) == ("INVALID_ARGUMENT", "invalid_spec")
    assert result.details == {"path": "/steps/0/program/signature", "position": 20}


def test_an_output_out_of_bounds_is_an_error_with_usage(system: System) -> None:
    result, _ = system.run("job-bounds", "rate", {"text": "#answer.stars=9 fine"})
    assert (result.code, result.reason) == ("INTERNAL", "lm_output_unparsable")
    assert result.details is not None
    assert result.details["fields"][0]["field"] == "stars"
    assert result.usage is not None
    assert result.usage.calls == 1
    assert result.usage.models["openai/scripted"].output_tokens > 0


def test_programs_get_tells_schemas_kind_and_what_streams(system: System) -> None:
    with Client(system.broker.clients) as client:
        found = client.program("rate")
    assert (found["kind"], found["streams"], found["description"]) == ("Predict", ["remark"], "How good it is.")
    for side in ("inputs", "outputs"):
        assert found[side]["$schema"] == "https://json-schema.org/draft/2020-12/schema"
        jsonschema.Draft202012Validator.check_schema(found[side])
    assert found["inputs"]["properties"]["text"]["description"] == "what to rate"
    assert (found["outputs"]["properties"]["stars"]["minimum"], found["outputs"]["required"]) == (
        1,
        ["stars", "remark"],
    )
