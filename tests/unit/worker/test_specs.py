"""Inline specs: built from data, cached by their hash, refused with a reason."""

from typing import Any

import dspy
import pytest

from dspymq.worker.executor.failures import JobError
from dspymq.worker.executor.inputs import MARKER
from dspymq.worker.executor.specs import SpecCache


def test_the_hash_is_the_revision_and_the_cache_is_bounded() -> None:
    cache = SpecCache(size=2)
    first = cache.program({"signature": "q -> a"})
    assert cache.program({"signature": "q -> a", "kind": "predict"}) is first
    assert len(first.revision) == 32
    others = [cache.program({"signature": f"q -> a{n}"}) for n in range(3)]
    assert len({program.revision for program in [first, *others]}) == 4
    assert len(cache) == 2
    again = cache.program({"signature": "q -> a"})
    assert again is not first
    assert again.revision == first.revision


def test_kinds_and_instructions() -> None:
    cache = SpecCache()
    thought = cache.program({"signature": "q -> a: int", "kind": "chain_of_thought", "instructions": "Add up."})
    assert isinstance(thought.module, dspy.ChainOfThought)
    assert thought.module.predict.signature.instructions == "Add up."
    assert thought.interface.outputs == ("reasoning", "a")
    plain = cache.program({"signature": "q -> a: int"})
    assert plain.module.signature.instructions == "Given the fields `q`, produce the fields `a`."
    assert plain.is_async


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("q -> a", "must be a map"),
        ({}, "`spec.signature`"),
        ({"signature": 5}, "`spec.signature`"),
        ({"signature": "q -> a", "kind": "program"}, "`spec.kind`"),
        ({"signature": "q -> a", "kind": ["predict"]}, "`spec.kind`"),
        ({"signature": "q -> a", "insructions": "x"}, "no key 'insructions'"),
        ({"signature": "q -> a", "instructions": 5}, "`spec.instructions`"),
        ({"signature": "q -> a", "instructions": f"x {MARKER}"}, "must not hold"),
        ({"signature": "q -> a: os.path"}, "at character 8"),
        ({"signature": "q -> reasoning", "kind": "chain_of_thought"}, "`reasoning`"),
        ({"signature": "q -> a", "max_iters": 3}, "`spec.max_iters`"),
        ({"signature": "q -> a", "kind": "react", "max_iters": 0}, "`spec.max_iters`"),
        ({"signature": "q -> a", "kind": "react", "max_iters": 2.5}, "`spec.max_iters`"),
        ({"signature": "q -> a", "kind": "react", "max_iters": True}, "`spec.max_iters`"),
    ],
)
def test_refusals(spec: Any, message: str) -> None:
    with pytest.raises(JobError) as caught:
        SpecCache().program(spec)
    assert caught.value.reason == "invalid_spec"
    assert message in caught.value.message
