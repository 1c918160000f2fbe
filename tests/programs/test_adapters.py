"""Adapters: named in a spec, or in a pool's code."""

from __future__ import annotations

from typing import Any

import dspy
import pytest
from dspy.adapters.baml_adapter import BAMLAdapter

from tests.programs.rig import Pool, outputs
from tests.unit.worker.kit import FakeEngine, chat

SIGNATURE = "question -> answer, tags: list[str]"


@pytest.mark.parametrize("adapter", ["chat", "json"])
def test_chat_and_json(pool: Pool, adapter: str) -> None:
    outcome, texts = pool.streamed({"signature": SIGNATURE, "adapter": adapter}, {"question": "hello"})
    expected = {"answer": "answer: hello", "tags": ["tags: hello 1", "tags: hello 2"]}
    assert outputs(outcome) == expected
    assert texts == {"answer": "answer: hello"}
    assert pool.lm.requests == 1, "it was understood at once"


def test_xml(pool: Pool) -> None:
    pool.engine = FakeEngine(lambda prompt: "<answer>\n5 &lt; 6\n</answer>\n<tags>\n<item>a</item>\n</tags>")
    outcome, texts = pool.streamed({"signature": SIGNATURE, "adapter": "xml"}, {"question": "hello"})
    assert outputs(outcome) == {"answer": "5 < 6", "tags": ["a"]}
    assert texts == {"answer": "5 < 6"}
    assert pool.engine.calls == 1


def test_two_step(pool: Pool) -> None:
    prompts: list[str] = []

    def answer(prompt: str) -> str:
        prompts.append(prompt)
        return chat(answer="it is so", tags='["a"]') if "[[ ## text ## ]]" in prompt else "I think it is so, a."

    pool.engine = FakeEngine(answer)
    found = outputs(pool.spec({"signature": SIGNATURE, "adapter": "two_step"}, {"question": "hello"}))
    assert found == {"answer": "it is so", "tags": ["a"]}
    assert len(prompts) == 2
    assert "I think it is so, a." in prompts[1]


def test_an_adapter_is_in_force_where_it_stands(pool: Pool) -> None:
    inner = {"signature": "question -> answer", "adapter": "json"}
    last = {"signature": "answer -> verdict"}
    spec = {"kind": "pipeline", "steps": [{"name": "a", "program": inner}, {"name": "b", "program": last}]}
    outputs(pool.spec(spec, {"question": "hello #job=p"}))
    first, second = pool.lm.job("").texts if pool.lm.job("").requests == 2 else (*pool.lm.job("p").texts,)
    assert "Respond with a JSON object" in first
    assert "[[ ## completed ## ]]" in second


class Shouting(dspy.ChatAdapter):  # type: ignore[misc]
    """Reads answers in capitals."""

    def parse(self, signature: Any, completion: str) -> dict[str, Any]:
        return {name: value.upper() for name, value in super().parse(signature, completion).items()}


class With(dspy.Module):  # type: ignore[misc]
    """A program that brings its adapter."""

    def __init__(self, adapter: dspy.Adapter) -> None:
        super().__init__()
        self.adapter = adapter
        self.inner = dspy.Predict("question -> answer")

    async def aforward(self, question: str) -> Any:
        with dspy.context(adapter=self.adapter):
            return await self.inner.acall(question=question)


def test_an_adapter_of_a_pools_own(pool: Pool) -> None:
    pool.modules["it"] = With(Shouting())
    assert outputs(pool.call("it", {"question": "hello"})) == {"answer": "ANSWER: HELLO"}


def test_baml_in_a_pools_code(pool: Pool) -> None:
    pool.engine = FakeEngine(lambda prompt: '{"answer": "yes"}')
    pool.modules["it"] = With(BAMLAdapter())
    assert outputs(pool.call("it", {"question": "hello"})) == {"answer": "yes"}
