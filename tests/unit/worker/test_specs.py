"""Inline specs: built from data, cached by their hash, refused with a reason."""

from typing import Any

import dspy
import pytest
from hypothesis import given
from hypothesis import strategies as st

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


PREDICT = {"signature": "q -> a"}
JUDGED = {"kind": "best_of_n", "program": PREDICT, "reward": {"judge": {"signature": "a -> score: float"}}}


def field(**keys: Any) -> dict[str, Any]:
    return {"signature": {"inputs": ["q"], "outputs": [{"name": "a", **keys}]}}


def typed(schema: Any) -> dict[str, Any]:
    return field(type=schema)


def steps(*parts: Any, **keys: Any) -> dict[str, Any]:
    return {"kind": "pipeline", "steps": list(parts), **keys}


DEEP: Any = PREDICT
for _ in range(9):
    DEEP = {"kind": "parallel", "over": "q", "program": DEEP}

TYPE = "/signature/outputs/0/type"


@pytest.mark.parametrize(
    ("spec", "path"),
    [
        ("q -> a", ""),
        ({}, "/signature"),
        ({**PREDICT, "max_iters": 3}, "/max_iters"),
        ({**PREDICT, "kind": "guess"}, "/kind"),
        ({**PREDICT, "cache": "shared"}, "/cache"),
        ({**PREDICT, "adapter": "baml"}, "/adapter"),
        ({**PREDICT, "demos": 5}, "/demos"),
        ({**PREDICT, "demos": [{"q": "x", "a": "y"}, {"q": "x"}]}, "/demos/1"),
        ({**PREDICT, "demos": [{"q": "x", "a": 5}]}, "/demos/0/a"),
        ({**PREDICT, "config": {"n": 5}}, "/config/n"),
        ({"signature": "q -> a: os.path"}, "/signature"),
        ({"signature": {"outputs": []}}, "/signature/outputs"),
        ({"signature": {"inputs": ["q"], "outputs": ["q"]}}, "/signature/outputs/0/name"),
        ({"signature": {"inputs": ["lm"], "outputs": ["a"]}}, "/signature/inputs/0/name"),
        ({"signature": {"inputs": [{}], "outputs": ["a"]}}, "/signature/inputs/0/name"),
        ({"signature": {"input": ["q"], "outputs": ["a"]}}, "/signature"),
        ({"signature": "q -> a: History"}, "/signature"),
        (field(desc="x"), "/signature/outputs/0"),
        (field(optional="yes"), "/signature/outputs/0/optional"),
        (field(description=5), "/signature/outputs/0/description"),
        (field(type="int", default="many"), "/signature/outputs/0/default"),
        (
            field(type={"type": "array", "items": {"type": "integer"}}, default=[1, "x"]),
            "/signature/outputs/0/default/1",
        ),
        (typed("list[int"), TYPE),
        (typed("MyModel"), TYPE),
        (typed(5), TYPE),
        (typed({"type": "text"}), f"{TYPE}/type"),
        (typed({"type": "string", "minimum": 3}), TYPE),
        (typed({"type": "string", "pattern": "("}), f"{TYPE}/pattern"),
        (typed({"type": "string", "pattern": "(?=x)"}), f"{TYPE}/pattern"),
        (typed({"type": "string", "maxLength": -1}), f"{TYPE}/maxLength"),
        (typed({"type": "string", "format": "date", "maxLength": 3}), TYPE),
        (typed({"type": "integer", "minimum": "low"}), f"{TYPE}/minimum"),
        (typed({"type": "integer", "multipleOf": 0}), f"{TYPE}/multipleOf"),
        (typed({"type": "array", "uniqueItems": True}), TYPE),
        (typed({"enum": []}), f"{TYPE}/enum"),
        (typed({"enum": ["x", 1.5]}), f"{TYPE}/enum/1"),
        (typed({"anyOf": []}), f"{TYPE}/anyOf"),
        (typed({"allOf": [{}, {}]}), f"{TYPE}/allOf"),
        (typed({"not": {}}), TYPE),
        (typed({"prefixItems": [{"enum": list(range(250))}] * 3}), f"{TYPE}/prefixItems/1"),
        (typed({"$ref": "#/$defs/a"}), f"{TYPE}/$ref"),
        (typed({"$ref": "#/$defs/a", "$defs": {"a": {"items": {"$ref": "#/$defs/a"}}}}), f"{TYPE}/$defs/a/items/$ref"),
        (typed({"$ref": "https://example.org/schema"}), f"{TYPE}/$ref"),
        (typed({"$ref": "dspy:str"}), f"{TYPE}/$ref"),
        (typed({"properties": {"a/b": {"type": "x"}}}), f"{TYPE}/properties/a~1b/type"),
        (typed({"properties": {"a": {}}, "required": ["b"]}), f"{TYPE}/required/0"),
        (typed({"properties": {"a": {}}, "additionalProperties": {"type": "string"}}), f"{TYPE}/additionalProperties"),
        ({"kind": "best_of_n", "reward": {"name": "x"}}, "/program"),
        ({"kind": "best_of_n", "program": PREDICT}, "/reward"),
        ({"kind": "best_of_n", "program": PREDICT, "reward": {}}, "/reward"),
        ({"kind": "best_of_n", "program": PREDICT, "reward": {"name": "x"}}, "/reward/name"),
        ({**JUDGED, "n": 0}, "/n"),
        ({**JUDGED, "n": 33}, "/n"),
        ({**JUDGED, "threshold": "high"}, "/threshold"),
        ({**JUDGED, "program": {"signature": "q -> b"}}, "/reward/judge/signature"),
        ({**JUDGED, "reward": {"judge": PREDICT}}, "/reward/score"),
        ({**JUDGED, "reward": {**JUDGED["reward"], "score": "other"}}, "/reward/score"),
        ({**JUDGED, "signature": "q -> a"}, "/signature"),
        ({"kind": "parallel", "program": PREDICT}, "/over"),
        ({"kind": "parallel", "program": PREDICT, "over": "a"}, "/over"),
        ({"kind": "parallel", "program": {"signature": "q -> a: x"}, "over": "q"}, "/program/signature"),
        (steps(), "/steps"),
        (steps({"name": "one"}), "/steps/0/program"),
        (steps({"name": "1", "program": PREDICT}), "/steps/0/name"),
        (steps(*[{"name": "one", "program": PREDICT}] * 2), "/steps/1/name"),
        (steps({"name": "one", "program": PREDICT, "inputs": {"x": "y"}}), "/steps/0/inputs/x"),
        (steps({"name": "one", "program": PREDICT, "inputs": {"q": "two.a"}}), "/steps/0/inputs/q"),
        (steps({"name": "one", "program": PREDICT, "inputs": {"q": "one.a"}}), "/steps/0/inputs/q"),
        (steps({"name": "one", "program": PREDICT, "inputs": {"q": "__class__"}}), "/steps/0/inputs/q"),
        (steps({"name": "one", "program": PREDICT}, outputs={}), "/outputs"),
        (steps({"name": "one", "program": PREDICT}, outputs={"b": "one.b"}), "/outputs/b"),
        (steps({"name": "one", "program": PREDICT}, outputs={"_b": "one.a"}), "/outputs/_b"),
        (steps({"name": "one", "program": PREDICT}, outputs={"q": "one.a"}), "/outputs/q"),
        (steps(*[{"name": f"s{n}", "program": PREDICT} for n in range(33)]), "/steps"),
        (DEEP, "/program" * 9),
    ],
)
def test_a_refusal_names_the_place(spec: Any, path: str) -> None:
    with pytest.raises(JobError) as caught:
        SpecCache().program(spec)
    assert caught.value.reason == "invalid_spec"
    assert caught.value.details is not None
    assert caught.value.details["path"] == path
    assert len(caught.value.message) <= 1_000


def test_a_wrong_signature_text_has_its_position_too() -> None:
    with pytest.raises(JobError) as caught:
        SpecCache().program(steps({"name": "one", "program": {"signature": "q -> a: x"}}))
    assert caught.value.details == {"path": "/steps/0/program/signature", "position": 8}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (PREDICT, {**PREDICT, "kind": "predict", "instructions": None, "cache": "off", "demos": None}),
        ({**JUDGED, "n": 3}, {**JUDGED, "n": 3.0}),
        (JUDGED, {**JUDGED, "n": 3}),
        (JUDGED, {**JUDGED, "program": {**PREDICT, "kind": "predict"}}),
        ({**PREDICT, "config": {"seed": 1}}, {"config": {"seed": 1.0}, **PREDICT}),
    ],
)
def test_equal_specs_have_one_revision(one: Any, other: Any) -> None:
    cache = SpecCache()
    assert cache.program(one) is cache.program(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (PREDICT, {"signature": "q -> a "}),
        (PREDICT, {**PREDICT, "config": {"seed": 1}}),
        (JUDGED, {**JUDGED, "kind": "refine"}),
        (typed({"enum": ["1"]}), typed({"enum": [1]})),
        (field(type="int | None", default=None), field(type="int | None")),
    ],
)
def test_other_specs_have_another(one: Any, other: Any) -> None:
    cache = SpecCache()
    assert cache.program(one).revision != cache.program(other).revision


# fmt: off
KEYS = [
    "kind", "signature", "inputs", "outputs", "name", "type", "program", "steps", "reward", "judge", "over", "n",
    "demos", "state", "config",
]
# fmt: on


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-3, 40) | st.floats() | st.sampled_from(["q", "q -> a", "str", "x.a"]),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(KEYS),
                inner,
                max_size=4,
            )
        ),
        max_leaves=12,
    )
)
def test_any_data_is_a_program_or_refused_with_its_place(spec: Any) -> None:
    try:
        SpecCache().program(spec)
    except JobError as error:
        assert error.reason in ("invalid_spec", "invalid_tools")
        assert error.reason == "invalid_tools" or error.details is not None


def test_a_spec_that_nests_for_ever_is_refused() -> None:
    spec: Any = PREDICT
    for _ in range(50_000):
        spec = {"kind": "parallel", "over": "q", "program": spec}
    with pytest.raises(JobError):
        SpecCache().program(spec)
