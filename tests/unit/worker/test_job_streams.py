"""What a job streams, over an LM in memory."""

import json
from typing import Any

import dspy
import pytest

from tests.unit.worker.kit import FakeEngine, Threaded, chat, job, outputs, profile_lm, run, runner, streamed, text_of

QA = "question -> answer"


@pytest.mark.parametrize("adapter", ["chat", "json"])
@pytest.mark.parametrize("pieces", [1, 2, 3, 7, 500])
@pytest.mark.parametrize("program", ["async", "sync"])
def test_streams_are_exact(program: str, pieces: int, adapter: str) -> None:
    async def test() -> None:
        text = 'big [[world]] it\'s "quoted"\n\n  indented\n[[ ## not a header\ttail é \U0001f600'
        answer = chat(answer=text) if adapter == "chat" else f'{{"answer": {json.dumps(text)}}}'
        engine = FakeEngine(lambda _: answer, pieces=pieces)
        made = runner(engine, {"async": dspy.Predict(QA), "sync": Threaded()})
        if adapter == "json":
            made._lms.adopt("default", profile_lm(engine, adapter=dspy.JSONAdapter()))
        outcome, chunks = await streamed(made, job(program, {"question": "q"}))
        assert outputs(outcome) == {"answer": text} == text_of(chunks)
        assert not any(chunk.reset for chunk in chunks)
        assert pieces > 10 or len(chunks) > 5
        assert outcome.usage.models["fake/default"].output_tokens == 3

    run(test)


def test_a_stream_without_credit_is_one_last_chunk() -> None:
    async def test() -> None:
        made = runner(FakeEngine(lambda _: chat(answer="a long answer " * 20)), {"qa": dspy.Predict(QA)})
        outcome, chunks = await streamed(made, job("qa", {"question": "q"}), window=1)
        assert len(chunks) == 2
        assert text_of(chunks) == outputs(outcome)

    run(test)


def test_only_the_fields_of_the_result_are_streamed_and_a_later_call_replaces_an_earlier() -> None:
    async def test() -> None:
        class Draft(dspy.Module):  # type: ignore[misc]
            def __init__(self) -> None:
                super().__init__()
                self.plan = dspy.Predict("question -> plan, answer")
                self.inner = dspy.Predict(QA)

            async def aforward(self, question: str) -> Any:
                await self.plan.acall(question=question)
                final = await self.inner.acall(question=question)
                return dspy.Prediction(answer=final.answer, size=3)

        def answers(_: str) -> str:
            return chat(plan="think", answer="draft") if engine.calls == 1 else chat(answer="final")

        engine = FakeEngine(answers)
        outcome, chunks = await streamed(runner(engine, {"p": Draft()}), job("p", {"question": "q"}))
        assert outputs(outcome) == {"answer": "final", "size": 3}
        assert text_of(chunks) == {"answer": "final"}

    run(test)


def test_a_stream_ends_as_the_result_says_even_if_the_program_changes_the_text() -> None:
    async def test() -> None:
        class Loud(dspy.Module):  # type: ignore[misc]
            def __init__(self) -> None:
                super().__init__()
                self.inner = dspy.Predict(QA)

            def forward(self, question: str) -> Any:
                return dspy.Prediction(answer=self.inner(question=question).answer.upper())

        outcome, chunks = await streamed(
            runner(FakeEngine(lambda _: chat(answer="quiet words")), {"p": Loud()}), job("p", {"question": "q"})
        )
        assert text_of(chunks) == outputs(outcome) == {"answer": "QUIET WORDS"}
        assert chunks[-1].reset

    run(test)


def test_an_answer_that_cannot_be_parsed_is_asked_for_again_as_json_and_the_stream_follows() -> None:
    async def test() -> None:
        def answers(_: str) -> str:
            return "[[ ## other ## ]]\nno" if engine.calls == 1 else '{"answer": "as json"}'

        engine = FakeEngine(answers)
        outcome, chunks = await streamed(runner(engine, {"qa": dspy.Predict(QA)}), job("qa", {"question": "q"}))
        assert text_of(chunks) == outputs(outcome) == {"answer": "as json"}
        assert outcome.usage.calls == 2
        engine = FakeEngine(lambda _: "garbage")
        outcome, chunks = await streamed(runner(engine, {"qa": dspy.Predict(QA)}), job("qa", {"question": "q"}))
        assert (outcome.reason, outcome.usage.calls, chunks) == ("lm_output_unparsable", 2, [])

    run(test)
