"""Every kind of program that a client can say as data, run against the scripted LM."""

from __future__ import annotations

from typing import Any

import dspy
import pytest

from tests.programs.rig import Pool, outputs

JUDGE = {"judge": {"signature": "question, answer -> score: float"}}
ADD = '{"a": 2, "b": 3}'


def add(a: int, b: int) -> int:
    """The sum."""
    return a + b


def test_predict(pool: Pool) -> None:
    spec = {"signature": "question -> answer, sure: bool", "instructions": "Be brief."}
    assert outputs(pool.spec(spec, {"question": "hello"}))["answer"] == "answer: hello"
    assert pool.lm.requests == 1


def test_chain_of_thought(pool: Pool) -> None:
    spec = {"signature": "question -> answer", "kind": "chain_of_thought"}
    outcome, texts = pool.streamed(spec, {"question": "hello"})
    assert outputs(outcome) == texts == {"reasoning": "reasoning: hello", "answer": "answer: hello"}


def test_multi_chain_comparison(pool: Pool) -> None:
    spec = {"kind": "multi_chain_comparison", "signature": "question -> answer", "n": 4}
    found = pool.spec(spec, {"question": "hello"})
    assert outputs(found).keys() == {"rationale", "answer"}
    assert "my prediction is answer: hello»" in outputs(found)["rationale"], "it was shown the drafts"
    assert found.usage.calls == 5


@pytest.mark.parametrize("kind", ["react", "rlm"])
def test_agents_call_tools_of_the_client_and_of_the_pool(pool: Pool, kind: str) -> None:
    pool.registry.add_tool(add)
    pool.registry.interpreter = dspy.LocalInterpreter
    calls: list[int] = []

    def double(n: int) -> int:
        calls.append(n)
        return 2 * n

    spec = {"kind": kind, "signature": "question -> answer", "tools": ["double", "add"], "max_iters": 4}
    pool.lm.script(answer={"code": "SUBMIT(answer=str(double(n=add(a=2, b=3))))"})
    question = f'hello #tools=add,double #args.add={ADD} #args.double={{"n": 5}}'
    found = outputs(pool.spec(spec, {"question": question}, functions={"double": double}))
    assert calls == [5]
    if kind == "rlm":
        assert found == {"answer": "10"}


def test_react(pool: Pool) -> None:
    calls: list[tuple[int, int]] = []

    def plus(a: int, b: int) -> int:
        calls.append((a, b))
        return a + b

    spec = {"kind": "react", "signature": "question -> answer"}
    question = f"hello #tools=plus #args.plus={ADD}"
    found = pool.spec(spec, {"question": question}, functions={"plus": plus})
    assert outputs(found).keys() == {"answer"}, "the trajectory is not an output"
    assert (calls, found.usage.calls) == ([(2, 3)], 3)


def test_react_v2(pool: Pool) -> None:
    calls: list[tuple[int, int]] = []

    def plus(a: int, b: int) -> int:
        calls.append((a, b))
        return a + b

    def turn(name: str, **args: Any) -> dict[str, Any]:
        return {"tool_calls": [{"name": name, "args": args}]}

    pool.lm.script(answer={"tool_calls@1": turn("plus", a=2, b=3), "tool_calls@2": turn("submit", answer="5")})
    spec = {"kind": "react_v2", "signature": "question -> answer"}
    assert outputs(pool.spec(spec, {"question": "hello"}, functions={"plus": plus})) == {"answer": "5"}
    assert calls == [(2, 3)]


def test_rlm_runs_code_only_by_the_operators_word(pool: Pool) -> None:
    pool.lm.script(answer={"code": "SUBMIT(answer=llm_query('how many?'))"})
    spec = {"kind": "rlm", "signature": "question -> answer"}
    refused = pool.spec(spec, {"question": "hello"})
    assert (refused.reason, refused.details) == ("invalid_spec", {"path": "/kind"})
    assert pool.lm.requests == 0
    pool.registry.interpreter = dspy.LocalInterpreter
    found = pool.spec(spec, {"question": "hello"})
    assert outputs(found) == {"answer": "answer: how many?"}
    assert found.usage.calls == 2


@pytest.mark.parametrize("kind", ["program_of_thought", "code_act"])
def test_kinds_that_dspy_drops_are_refused(pool: Pool, kind: str) -> None:
    refused = pool.spec({"kind": kind, "signature": "question -> answer"}, {"question": "hello"})
    assert (refused.reason, refused.details) == ("invalid_spec", {"path": "/kind"})
    assert "DSPy 3.5 drops it" in str(refused.message)


def test_best_of_n(pool: Pool) -> None:
    pool.lm.script(job="b", answer={"answer@1": "one", "answer@3": "three", "answer@5": "two"})
    pool.lm.script(job="b", answer={"score@2": "0.25", "score@4": "0.75", "score@6": "0.5"})
    spec = {"kind": "best_of_n", "program": {"signature": "question -> answer"}, "n": 3, "reward": JUDGE}
    outcome, texts = pool.streamed(spec, {"question": "hello #job=b"})
    assert outputs(outcome) == {"answer": "three"}
    assert texts == {"answer": "three"}
    assert pool.lm.requests == 6


def test_best_of_n_ends_at_the_threshold_and_takes_a_reward_of_the_pool(pool: Pool) -> None:
    def length(inputs: dict[str, Any], prediction: Any) -> int:
        assert inputs == {"question": "hello #job=b"}
        return len(prediction.answer)

    pool.registry.add_reward(length)
    pool.lm.script(job="b", answer={"answer@1": "a", "answer@2": "four", "answer@3": "seventeen"})
    program = {"signature": "question -> answer"}
    spec = {"kind": "best_of_n", "program": program, "n": 5, "reward": {"name": "length"}, "threshold": 4}
    assert outputs(pool.spec(spec, {"question": "hello #job=b"})) == {"answer": "four"}
    assert pool.lm.requests == 2


def test_best_of_n_goes_on_after_an_attempt_that_failed_and_raises_the_last(pool: Pool) -> None:
    pool.registry.add_reward(lambda inputs, prediction: 1.0, "any")
    program = {"signature": "question -> answer", "adapter": "json"}
    spec = {"kind": "best_of_n", "program": program, "n": 3, "reward": {"name": "any"}}
    assert outputs(pool.spec(spec, {"question": "a #job=once #garbage #fail_first=1"})).keys() == {"answer"}
    failed = pool.spec(spec, {"question": "a #job=never #status=401"})
    assert (failed.reason, failed.usage.calls) == ("lm_auth", 3)


def test_refine(pool: Pool) -> None:
    pool.lm.script(job="r", answer={"answer@1": "bad", "score@2": "0.1", "advice@3": {"self": "Say good."}})
    pool.lm.script(job="r", answer={"answer@4": "good", "score@5": "0.9"})
    program = {"signature": "question -> answer"}
    spec = {"kind": "refine", "program": program, "n": 3, "reward": JUDGE, "threshold": 0.5}
    assert outputs(pool.spec(spec, {"question": "hello #job=r"})) == {"answer": "good"}
    asked = pool.lm.job("r")
    assert asked.requests == 5
    assert "Say good." in asked.texts[3], "the second attempt has read the advice"
    assert "[[ ## hint_ ## ]]" not in asked.texts[0]


def test_parallel(pool: Pool) -> None:
    spec = {"kind": "parallel", "over": "question", "program": {"signature": "question, language -> answer, n: int"}}
    questions = [f"q{number}" for number in range(20)]
    found = pool.spec(spec, {"question": questions, "language": "de #delay_ms=50"})
    assert outputs(found)["answer"] == [f"answer: {question} | de" for question in questions]
    assert all(isinstance(n, int) for n in outputs(found)["n"])
    assert found.usage.calls == 20
    assert pool.lm.peak_open > 1
    wrong = pool.spec(spec, {"question": "q", "language": "de"})
    assert wrong.reason == "invalid_inputs"


def test_parallel_ends_with_the_first_error(pool: Pool) -> None:
    spec = {"kind": "parallel", "over": "question", "program": {"signature": "question -> answer"}}
    failed = pool.spec(spec, {"question": ["a #status=401", *["b #hang"] * 20]})
    assert failed.reason == "lm_auth"
    pool.lm.wait_idle()


def test_pipeline(pool: Pool) -> None:
    outline = {"signature": "topic -> points: list[str]"}
    write = {"kind": "chain_of_thought", "signature": "text, style, points: list[str] -> essay"}
    spec = {
        "kind": "pipeline",
        "steps": [
            {"name": "outline", "program": outline},
            {"name": "write", "program": write, "inputs": {"text": "topic"}},
            {"name": "rate", "program": {"signature": "text -> stars: int"}, "inputs": {"text": "write.essay"}},
        ],
        "outputs": {"essay": "write.essay", "stars": "rate.stars", "points": "outline.points"},
    }
    outcome, texts = pool.streamed(spec, {"topic": "tea", "style": "dry"})
    found = outputs(outcome)
    assert found["points"] == ["points: tea 1", "points: tea 2"]
    assert found["essay"].startswith("essay: tea | dry | ")
    assert texts == {"essay": found["essay"]}
    assert isinstance(found["stars"], int)
    missing = pool.spec(spec, {"topic": "tea"})
    assert missing.details is not None
    assert [(one["field"], one["problem"]) for one in missing.details["fields"]] == [("style", "missing")]


def test_programs_inside_programs(pool: Pool) -> None:
    pool.registry.add_reward(lambda inputs, prediction: len(prediction.answer), "length")
    best = {"kind": "best_of_n", "program": {"signature": "question -> answer"}, "n": 2, "reward": {"name": "length"}}
    each = {"kind": "parallel", "program": best, "over": "question"}
    split = {"signature": "text -> question: list[str]"}
    spec = {"kind": "pipeline", "steps": [{"name": "split", "program": split}, {"name": "each", "program": each}]}
    found = pool.spec(spec, {"text": "tea"})
    assert outputs(found) == {"answer": ["answer: question: tea 1", "answer: question: tea 2"]}
    assert found.usage.calls == 5


@pytest.mark.parametrize(
    "module",
    [
        dspy.Predict("question -> answer"),
        dspy.ChainOfThought("question -> answer"),
        dspy.ReAct("question -> answer", tools=[add]),
        dspy.BestOfN(dspy.Predict("question -> answer"), 2, lambda args, made: 1.0, 1.0),
        dspy.Refine(dspy.Predict("question -> answer"), 2, lambda args, made: 1.0, 1.0),
        dspy.RLM("question -> answer", interpreter_factory=dspy.LocalInterpreter),
    ],
    ids=lambda module: type(module).__name__,
)
def test_modules_of_dspy_in_a_pools_code(pool: Pool, module: Any) -> None:
    pool.modules["it"] = module
    pool.lm.script(answer={"code": "SUBMIT(answer=llm_query('x'))"})
    assert "answer" in outputs(pool.call("it", {"question": "hello"}))
