"""What DSPy has beside modules, in programs of a pool's own code."""

from __future__ import annotations

from typing import Any

import dspy
import dspy.evaluate
import pytest
from dspy.clients.base_lm import GLOBAL_HISTORY

from tests.programs.rig import Pool, outputs

QUESTION = {"question": "hello"}


class Own(dspy.Module):  # type: ignore[misc]
    """Calls a predictor, and does something with what it says."""

    def __init__(self, then: Any = None) -> None:
        super().__init__()
        self.inner = dspy.ChainOfThought("question -> answer")
        self._then = then


class InThread(Own):
    def forward(self, question: str) -> Any:
        return self._then(self.inner, question)


class OnLoop(Own):
    async def aforward(self, question: str) -> Any:
        return await self._then(self.inner, question)


def in_thread(pool: Pool, then: Any) -> dict[str, Any]:
    pool.modules["it"] = InThread(then)
    return outputs(pool.call("it", QUESTION))


def on_loop(pool: Pool, then: Any) -> dict[str, Any]:
    pool.modules["it"] = OnLoop(then)
    return outputs(pool.call("it", QUESTION))


def test_module_example_and_prediction(pool: Pool) -> None:
    def then(inner: Any, question: str) -> Any:
        example = dspy.Example(question=question, answer="x").with_inputs("question")
        made = inner(**example.inputs())
        return dspy.Prediction(answer=made.answer, same=dict(example.labels().items()))

    assert in_thread(pool, then) == {"answer": "answer: hello", "same": {"answer": "x"}}


def test_completions_and_majority(pool: Pool) -> None:
    def then(inner: Any, question: str) -> Any:
        made = [inner(question=question).answer, "b", "b"]
        many = dspy.Prediction.from_completions({"answer": made})
        assert isinstance(many.completions, dspy.Completions)
        return dspy.majority(many)

    assert in_thread(pool, then) == {"answer": "b"}


def test_parallel_in_code_is_counted(pool: Pool) -> None:
    def then(inner: Any, question: str) -> Any:
        pairs = [(inner, dspy.Example(question=f"{question} {n}").with_inputs("question")) for n in range(4)]
        made = dspy.Parallel(num_threads=2, disable_progress_bar=True)(pairs)
        return dspy.Prediction(answers=[one.answer for one in made])

    pool.modules["it"] = InThread(then)
    found = pool.call("it", QUESTION)
    assert outputs(found) == {"answers": [f"answer: hello {n}" for n in range(4)]}
    assert found.usage.calls == 4


def test_asyncify(pool: Pool) -> None:
    async def then(inner: Any, question: str) -> Any:
        return await dspy.asyncify(inner)(question=question)

    assert on_loop(pool, then)["answer"] == "answer: hello"


def test_syncify(pool: Pool) -> None:
    class Later(Own):
        async def aforward(self, question: str) -> Any:
            return await self.inner.acall(question=question)

    assert in_thread(pool, lambda inner, question: dspy.syncify(Later())(question=question))["answer"]


def test_context_and_settings(pool: Pool) -> None:
    async def then(inner: Any, question: str) -> Any:
        with dspy.context(adapter=dspy.JSONAdapter()):
            assert isinstance(dspy.settings.adapter, dspy.JSONAdapter)
            return await inner.acall(question=question)

    assert on_loop(pool, then)["answer"] == "answer: hello"
    assert "Respond with a JSON object" in pool.lm.job("").texts[0]


def test_track_usage(pool: Pool) -> None:
    async def then(inner: Any, question: str) -> Any:
        with dspy.track_usage() as used:
            await inner.acall(question=question)
        return dspy.Prediction(known=sorted(used.get_total_tokens()))

    pool.modules["it"] = OnLoop(then)
    found = pool.call("it", QUESTION)
    assert outputs(found) == {"known": ["openai/scripted"]}
    assert (found.usage.calls, found.usage.models["openai/scripted"].output_tokens > 0) == (1, True)


class Sorted(dspy.Signature):  # type: ignore[misc]
    """Sort the question."""

    question: str = dspy.InputField(desc="to be sorted")
    place: int = dspy.OutputField(ge=0, le=9)


def test_signatures_in_code(pool: Pool) -> None:
    pool.modules["it"] = dspy.Predict(dspy.ensure_signature(Sorted))
    pool.lm.script(job="far", answer={"place": "99"})
    assert 0 <= outputs(pool.call("it", QUESTION))["place"] <= 9
    failed = pool.call("it", {"question": "x #job=far"})
    assert (failed.reason, failed.usage.calls) == ("lm_output_unparsable", 1)
    pool.modules["it"] = dspy.Predict(dspy.make_signature("question -> answer", "Answer."))
    assert outputs(pool.call("it", QUESTION)) == {"answer": "answer: hello"}


def test_retrieve(pool: Pool) -> None:
    def found(query: str, k: int, **_: Any) -> list[Any]:
        return [dspy.Prediction(long_text=f"{query} {n}") for n in range(k)]

    def then(inner: Any, question: str) -> Any:
        with dspy.context(rm=found):
            return dspy.Prediction(passages=list(dspy.Retrieve(k=2)(question).passages))

    assert in_thread(pool, then) == {"passages": ["hello 0", "hello 1"]}


@pytest.mark.parametrize(
    "metric",
    [
        lambda inputs, made: dspy.evaluate.EM(made.answer, ["The Answer: Hello"]),
        lambda inputs, made: dspy.evaluate.answer_exact_match(dspy.Example(answer="answer: hello"), made),
        lambda inputs, made: dspy.evaluate.normalize_text(made.answer) == "answer hello",
        lambda inputs, made: dspy.evaluate.answer_passage_match(
            dspy.Example(answer="hello"), dspy.Prediction(context=[made.answer])
        ),
    ],
    ids=["EM", "answer_exact_match", "normalize_text", "answer_passage_match"],
)
def test_metrics_as_rewards(pool: Pool, metric: Any) -> None:
    pool.registry.add_reward(metric, "metric")
    program = {"signature": "question -> answer"}
    spec = {"kind": "best_of_n", "program": program, "reward": {"name": "metric"}, "n": 3, "threshold": 1}
    assert outputs(pool.spec(spec, QUESTION)) == {"answer": "answer: hello"}
    assert pool.lm.requests == 1, "it was a match"


def test_callbacks(pool: Pool) -> None:
    seen: list[str] = []

    class Seen(dspy.utils.callback.BaseCallback):  # type: ignore[misc]
        def on_lm_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
            seen.append("lm")

        def on_module_end(self, call_id: str, outputs: Any, exception: Exception | None = None) -> None:
            seen.append("module")

    async def then(inner: Any, question: str) -> Any:
        with dspy.context(callbacks=[Seen()]):
            return await inner.acall(question=question)

    on_loop(pool, then)
    assert seen == ["lm", "module", "module"]


def test_nothing_is_kept_for_inspect_history(pool: Pool, capsys: pytest.CaptureFixture[str]) -> None:
    GLOBAL_HISTORY.clear()  # of other tests in this process
    in_thread(pool, lambda inner, question: inner(question=question))
    dspy.inspect_history(n=5)
    assert "hello" not in capsys.readouterr().out
