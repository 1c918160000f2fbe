"""The embedded model's adapter, against the scripted LM."""

from __future__ import annotations

import asyncio
import datetime
import json
from typing import Any, Literal

import pytest

dspy = pytest.importorskip("dspy")

from dspymq.worker.executor.local_adapter import LocalAdapter, local_lm  # noqa: E402
from dspymq.worker.executor.splitters import JSONSplitter  # noqa: E402
from tests.lm import ScriptedLM  # noqa: E402


class Person(dspy.Signature):  # type: ignore[misc]
    """Find the person."""

    text: str = dspy.InputField()
    notes: list[str] = dspy.InputField()
    name: str = dspy.OutputField()
    age: int = dspy.OutputField()
    mood: Literal["happy", "sad"] = dspy.OutputField()
    day: datetime.date = dspy.OutputField()


def messages(signature: Any, demos: list[Any] | None = None, **inputs: Any) -> list[dict[str, Any]]:
    signature = dspy.Signature(signature) if isinstance(signature, str) else signature
    return LocalAdapter().format(signature, demos or [], inputs)


def test_a_prompt_is_the_instructions_and_a_line_for_each_input() -> None:
    assert messages(Person, text="Ann is 3.", notes=["x"]) == [
        {"role": "user", "content": 'Find the person.\n\ntext: Ann is 3.\nnotes: ["x"]\n\nAnswer in JSON.'}
    ]


def test_a_question_is_asked_plainly_after_general_examples() -> None:
    *examples, question = messages("question -> answer", question="What is the capital of France?")
    assert question["content"] == "What is the capital of France?"
    assert [m["role"] for m in examples] == ["user", "assistant"] * 2
    assert all(list(json.loads(m["content"])) == ["answer"] for m in examples[1::2])


def test_examples_follow_the_fields_of_the_signature() -> None:
    program = dspy.ChainOfThought("question -> response")
    answers = [m for m in messages(program.predict.signature, question="Why?") if m["role"] == "assistant"]
    assert all(list(json.loads(m["content"])) == ["reasoning", "response"] for m in answers)


def test_a_programs_own_demos_and_history_replace_the_examples() -> None:
    demo = dspy.Example(question="What is 1 and 1?", answer="2")
    assert messages("question -> answer", [demo], question="Why?") == [
        {"role": "user", "content": "What is 1 and 1?"},
        {"role": "assistant", "content": '{"answer": "2"}'},
        {"role": "user", "content": "Why?"},
    ]
    history = dspy.History(messages=[{"question": "Who?", "answer": "Ann."}])
    signature = dspy.Signature("question, history: dspy.History -> answer")
    assert [m["content"] for m in messages(signature, question="Why?", history=history)] == [
        "Who?",
        '{"answer": "Ann."}',
        "Why?",
    ]


def test_default_instructions_become_a_short_one() -> None:
    assert messages("topic -> story", topic="a fox")[-1]["content"] == "Write a story.\n\ntopic: a fox"
    got = messages("text -> name, age: int", text="Ann is 3.")[-1]["content"]
    assert got == "Give the name, age.\n\ntext: Ann is 3.\n\nAnswer in JSON."
    ours = dspy.Signature("question -> answer", "Answer like a pirate.")
    assert messages(ours, question="Why?")[-1]["content"] == "Answer like a pirate.\n\nWhy?"


@pytest.mark.parametrize("is_async", [False, True])
def test_the_schema_is_sent_and_the_answer_has_its_types(scripted_lm: ScriptedLM, is_async: bool) -> None:
    # The scripted LM knows these fields from the schema alone: our prompts do not name them.
    with dspy.context(lm=local_lm(scripted_lm.url), adapter=LocalAdapter()):
        predict = dspy.Predict(Person)
        inputs = {"text": "x #job=a #answer.age=34", "notes": []}
        got = asyncio.run(predict.acall(**inputs)) if is_async else predict(**inputs)
    assert got.age == 34
    assert got.mood in ("happy", "sad")
    assert isinstance(got.day, datetime.date)
    assert got.name.startswith("name: ")
    assert scripted_lm.requests == 1


def test_an_answer_that_does_not_parse_costs_no_second_call(scripted_lm: ScriptedLM) -> None:
    lm, error = local_lm(scripted_lm.url), dspy.utils.exceptions.AdapterParseError
    with dspy.context(lm=lm, adapter=LocalAdapter()), pytest.raises(error):
        dspy.Predict("question -> answer")(question="x #garbage")
    assert scripted_lm.requests == 1


def test_a_stream_is_one_json_object_whose_keys_are_the_fields(scripted_lm: ScriptedLM) -> None:
    pieces: list[str] = []

    class Sink:
        async def send(self, chunk: Any) -> None:
            if choices := getattr(chunk, "choices", None):
                pieces.append(choices[0]["delta"].get("content") or "")

    async def run() -> Any:
        context = dspy.context(
            lm=local_lm(scripted_lm.url), adapter=LocalAdapter(), send_stream=Sink(), stream_listeners=[]
        )
        with context:
            return await dspy.ChainOfThought("question -> answer").acall(question="x #job=s #chunk=3")

    got = asyncio.run(run())
    splitter = JSONSplitter(["reasoning", "answer"])
    told = [part for piece in pieces for part in splitter.feed(piece)]
    for field in ("reasoning", "answer"):
        assert "".join(part.text for part in told if part.field == field) == got[field]


def test_a_programs_own_settings_win(scripted_lm: ScriptedLM) -> None:
    sent: list[dict[str, Any]] = []

    class Spy(dspy.utils.callback.BaseCallback):  # type: ignore[misc]
        def on_lm_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
            sent.append(inputs)

    with dspy.context(lm=local_lm(scripted_lm.url), adapter=LocalAdapter(), callbacks=[Spy()]):
        dspy.Predict("question -> answer")(question="x")
        dspy.Predict("question -> answer", frequency_penalty=1.5, max_tokens=7)(question="x")
        dspy.Predict(Person)(text="x", notes=[])
    kwargs = [{**call, **call.get("kwargs", {})} for call in sent]
    assert kwargs[0]["max_tokens"] > 100
    assert kwargs[0]["frequency_penalty"] > 0
    assert (kwargs[1]["frequency_penalty"], kwargs[1]["max_tokens"]) == (1.5, 7)
    assert "frequency_penalty" not in kwargs[2]
