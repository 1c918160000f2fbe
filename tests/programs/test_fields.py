"""Fields of a signature as data: descriptions, bounds, defaults, demos, saved state; and LM parameters of a spec."""

from __future__ import annotations

import contextlib
import datetime
import json
from pathlib import Path
from typing import Any

import dspy
import pytest

from dspymq.worker.executor.failures import JobError
from dspymq.worker.executor.specs import SpecCache
from tests.programs.rig import Asked, Pool, outputs
from tests.unit.worker.kit import FakeEngine, chat

RATING = {
    "inputs": [
        {"name": "review", "description": "what a guest wrote"},
        {"name": "stars", "type": {"type": "integer", "minimum": 1, "maximum": 5}, "default": 3},
        {"name": "note", "optional": True},
    ],
    "outputs": [
        {"name": "score", "type": {"type": "number", "minimum": 0, "maximum": 1}, "description": "how glad"},
        {"name": "tags", "type": {"type": "array", "items": {"type": "string", "maxLength": 8}, "maxItems": 2}},
        {"name": "remark", "optional": True},
    ],
}


def saying(**fields: str) -> Asked:
    return Asked(lambda prompt: chat(**fields))


def test_descriptions_defaults_and_instructions_reach_the_lm(pool: Pool) -> None:
    pool.engine = saying(score="0.5", tags='["a"]', remark="ok")
    found = pool.spec({"signature": RATING, "instructions": "Rate it."}, {"review": "fine"})
    assert outputs(found) == {"score": 0.5, "tags": ["a"], "remark": "ok"}
    request = pool.engine.requests[0]
    assert "what a guest wrote" in request.system
    assert "greater than or equal to: 1" in request.system
    assert "Rate it." in request.system
    assert "[[ ## stars ## ]]\n3" in request.messages[-1].text, "the default"


@pytest.mark.parametrize(
    ("inputs", "problems"),
    [
        ({"review": "x", "stars": 6}, {"stars": "value"}),
        ({"review": "x", "stars": "many"}, {"stars": "type"}),
        ({"stars": 0, "extra": 1}, {"review": "missing", "stars": "value", "extra": "unknown"}),
        ({"review": None}, {"review": "type"}),
    ],
)
def test_inputs_are_checked_before_any_call(pool: Pool, inputs: dict[str, Any], problems: dict[str, str]) -> None:
    refused = pool.spec({"signature": RATING}, inputs)
    assert (refused.code, refused.reason) == ("INVALID_ARGUMENT", "invalid_inputs")
    assert refused.details is not None
    assert {one["field"]: one["problem"] for one in refused.details["fields"]} == problems
    assert (pool.lm.requests, refused.usage.calls) == (0, 0)


@pytest.mark.parametrize(
    ("said", "field", "problem"),
    [
        ({"score": "1.5", "tags": "[]"}, "score", "value"),
        ({"score": "0.5", "tags": '["a", "b", "c"]'}, "tags", "value"),
        ({"score": "0.5", "tags": '["far too long"]'}, None, None),
    ],
)
@pytest.mark.parametrize("adapter", ["chat", "json"])
def test_outputs_that_break_a_bound_are_an_error_with_usage(
    pool: Pool, said: dict[str, str], field: str | None, problem: str | None, adapter: str
) -> None:
    as_json = json.dumps({name: json.loads(text) for name, text in said.items()} | {"remark": None})
    pool.engine = FakeEngine(lambda prompt: chat(**said) if "completed" in prompt else as_json)
    failed = pool.spec({"signature": RATING, "adapter": adapter}, {"review": "fine"})
    assert (failed.code, failed.reason, failed.retryable) == ("INTERNAL", "lm_output_unparsable", True)
    assert failed.usage.calls >= 1
    assert sum(model.output_tokens for model in failed.usage.models.values()) > 0
    if field is not None:
        assert failed.details is not None
        assert [(one["field"], one["problem"]) for one in failed.details["fields"]] == [(field, problem)]


def test_optional_outputs_may_be_left_out(pool: Pool) -> None:
    pool.engine = FakeEngine(lambda prompt: chat(score="0.5", tags="[]"))
    assert outputs(pool.spec({"signature": RATING}, {"review": "fine"})) == {"score": 0.5, "tags": [], "remark": None}


@pytest.mark.parametrize(
    ("field", "value", "taken"),
    [
        ("int", "3", 3),
        ("int", 3.0, 3),
        ("int", 3.5, None),
        ("int", True, 1),
        ("float", 3, 3.0),
        ("bool", "yes", True),
        ("bool", 2, None),
        ("str", 3, None),
        ("str", b"ab", "ab"),
        ("list[int]", "1", None),
        ("dict[str, int]", [], {}),
        ("date", "2026-02-03T00:00:00", datetime.date(2026, 2, 3)),
        ("Literal['a']", "A", None),
        ("bytes", "ab", b"ab"),
        ("set[int]", [1, 1], {1}),
        ("tuple[int, str]", [1, "a"], (1, "a")),
        ("float", "2.5", 2.5),
        ("datetime", 86400, datetime.datetime(1970, 1, 2, tzinfo=datetime.UTC)),
        ("date", 86400, datetime.date(1970, 1, 2)),
        ("timedelta", 90, datetime.timedelta(seconds=90)),
        ("time", "04:05", datetime.time(4, 5)),
        ("bool", "perhaps", None),
        ("int", "", None),
        ("int", None, None),
        ("list[int]", {}, None),
        ("str", ["a"], None),
    ],
)
def test_coercions(field: str, value: Any, taken: Any) -> None:
    interface = SpecCache().program({"signature": f"given: {field} -> answer"}).interface
    if taken is None:
        with pytest.raises(JobError) as caught:
            interface.arguments({"given": value})
        assert caught.value.reason == "invalid_inputs"
    else:
        found = interface.arguments({"given": value})
        assert found == {"given": taken}
        assert type(found["given"]) is type(taken)


PROBES: list[Any] = [None, True, 0, 1, 2, 1.0, 1.5, "", "x", "1", "1.5", "yes", b"x", [], [1], {}, {"a": 1}]
TIMES = ["2026-02-03", "2026-02-03T04:05:06", "04:05", "PT90S"]
TAKEN: dict[str, list[Any]] = {
    "int": [True, 0, 1, 2, 1.0, "1"],
    "float": [True, 0, 1, 2, 1.0, 1.5, "1", "1.5"],
    "bool": [True, 0, 1, 1.0, "1", "yes"],
    "str": ["", "x", "1", "1.5", "yes", b"x", *TIMES],
    "bytes": ["", "x", "1", "1.5", "yes", b"x", *TIMES],
    "None": [None],
    "list[int]": [[], [1]],
    "set[int]": [[], [1]],
    "tuple[int, ...]": [[], [1]],
    "dict[str, int]": [[], {}, {"a": 1}],
    "Literal[1, 'x']": [True, 1, 1.0, "x"],
    "datetime": [0, 1, 2, 1.0, 1.5, "1", "1.5", "2026-02-03", "2026-02-03T04:05:06"],
    "date": [0, "2026-02-03"],
    "timedelta": [True, 0, 1, 2, 1.0, 1.5, "04:05", "PT90S"],
    "time": [0, 1, 2, 1.0, 1.5, "04:05"],
}


@pytest.mark.parametrize("kind", TAKEN)
def test_what_is_taken_for_what(kind: str) -> None:
    """What docs/programs.md says of it, and nothing else."""
    interface = SpecCache().program({"signature": f"given: {kind} -> answer"}).interface
    taken = []
    for probe in [*PROBES, *TIMES]:
        with contextlib.suppress(JobError):
            interface.arguments({"given": probe})
            taken.append(probe)
    assert [repr(one) for one in taken] == [repr(one) for one in TAKEN[kind]]


DEMO = {"question": "2+2", "answer": "4"}


def test_demos(pool: Pool) -> None:
    pool.engine = saying(reasoning="so", answer="6")
    demos = [{**DEMO, "reasoning": "two and two"}, DEMO]
    spec = {"kind": "chain_of_thought", "signature": "question -> answer", "demos": demos}
    assert outputs(pool.spec(spec, {"question": "3+3"}))["answer"] == "6"
    messages = [message.text for message in pool.engine.requests[0].messages]
    assert len(messages) == 5
    assert "two and two" in "".join(messages)


def test_state_that_dspy_saved(pool: Pool, tmp_path: Path) -> None:
    tuned = dspy.ChainOfThought("question -> answer")
    tuned.predict.demos = [dspy.Example(**DEMO, reasoning="so it is", augmented=True)]
    tuned.predict.signature = tuned.predict.signature.with_instructions("As taught.")
    tuned.save(tmp_path / "tuned.json")
    state = json.loads((tmp_path / "tuned.json").read_text())
    pool.engine = saying(reasoning="so", answer="6")
    spec = {"kind": "chain_of_thought", "signature": "question -> answer", "state": state}
    assert outputs(pool.spec(spec, {"question": "3+3"}))["answer"] == "6"
    request = pool.engine.requests[0]
    assert "As taught." in request.system
    assert "so it is" in request.messages[1].text


@pytest.mark.parametrize(
    ("state", "path"),
    [
        ({"forward": {}}, "/state/forward"),
        ({"self": {"forward": 1}}, "/state/self"),
        ({"self": {"demos": [{"question": "x", "other": 1}]}}, "/state/self/demos/0"),
        ({"self": {"demos": [{"question": "x"}]}}, "/state/self/demos/0"),
        ({"self": {"demos": [{"question": 5, "answer": "x"}]}}, "/state/self/demos/0/question"),
        ({"self": {"signature": {"instructions": 5}}}, "/state/self/signature/instructions"),
        ({"self": {"signature": {"fields": [{}]}}}, "/state/self/signature/fields"),
        ({"self": {"signature": {"module": "os"}}}, "/state/self/signature"),
        ([1], "/state"),
    ],
)
def test_a_state_sets_nothing_else(state: Any, path: str, pool: Pool) -> None:
    refused = pool.spec({"signature": "question -> answer", "state": state}, {"question": "x"})
    assert (refused.reason, refused.details) == ("invalid_spec", {"path": path})


def test_a_state_names_the_tools_of_an_agent(pool: Pool) -> None:
    def add(a: int, b: int) -> int:
        return a + b

    def state(instructions: str) -> dict[str, Any]:
        return {"react": {"signature": {"instructions": instructions}, "demos": []}}

    spec = {"kind": "react", "signature": "question -> answer"}
    stale = pool.spec({**spec, "state": state("Use `sum`.")}, {"question": "x"}, functions={"add": add})
    assert stale.details == {"path": "/state/react/signature/instructions"}
    outputs(pool.spec({**spec, "state": state("Use `add`.")}, {"question": "x"}, functions={"add": add}))
    assert pool.lm.requests == 2


def test_parameters_and_profiles_of_a_part(pool: Pool) -> None:
    pool.engine = saying(a="x", b="x")
    one = {"signature": "q -> a", "config": {"temperature": 0.25, "max_tokens": 7.0, "stop": ["END"]}}
    two = {"signature": "a -> b", "profile": "other"}
    spec = {"kind": "pipeline", "steps": [{"name": "one", "program": one}, {"name": "two", "program": two}]}
    outputs(pool.spec({**spec, "config": {"seed": 3}}, {"q": "x"}))
    config = pool.engine.requests[0].config
    assert (config.temperature, config.max_tokens, config.stop) == (0.25, 7, ("END",))
    assert len(pool.engine.requests) == pool.lm.requests == 1, "the second step ran at the other profile"
    unknown = pool.spec({"signature": "q -> a", "profile": "nowhere"}, {"q": "x"})
    assert unknown.reason == "unknown_profile"


@pytest.mark.parametrize(
    ("config", "path"), [({"temperature": "hot"}, "/config/temperature"), ({"api_key": "x"}, "/config/api_key")]
)
def test_parameters_are_those_of_a_job(pool: Pool, config: dict[str, Any], path: str) -> None:
    refused = pool.spec({"signature": "q -> a", "config": config}, {"q": "x"})
    assert (refused.reason, refused.details) == ("invalid_spec", {"path": path})
