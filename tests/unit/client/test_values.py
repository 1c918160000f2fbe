"""Exceptions, Prediction, Chunk, options, addresses, plain values, timers: what needs no core."""

import copy
import dataclasses
import datetime
import enum
import pathlib
import pickle
import random
import uuid
from decimal import Decimal
from typing import Any

import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspymq import addresses, exceptions
from dspymq.async_client import default_name
from dspymq.options import JobOptions, Options, to_ms
from dspymq.plain import encode_body, to_plain
from dspymq.prediction import Prediction
from dspymq.protocol import body as bodies
from dspymq.protocol.errors import REASONS, Code, ProtocolError
from dspymq.protocol.messages import Error, Usage
from dspymq.timers import Timers

# Exceptions.


def test_every_code_of_the_registry_has_a_class():
    for reason, entry in REASONS.items():
        error = exceptions.from_refusal(Error(code=entry.code, reason=reason, message="m"))
        assert type(error) is not exceptions.DspymqError, entry.code
        assert (error.code, error.reason) == (entry.code, reason)
        assert type(error).default_code == entry.code


def test_unknown_code_is_the_base_class_with_that_code():
    error = exceptions.from_refusal(Error(code="TEAPOT", reason="short", message="and stout"))
    assert type(error) is exceptions.DspymqError
    assert str(error) == "TEAPOT/short: and stout"


def test_error_survives_copy_and_pickle():
    error = exceptions.InvalidArgument("m", reason="r", details={"fields": []}, job="j", usage=Usage(calls=1))
    error.retryable, error.retry_after_ms = True, 5
    for twin in (copy.copy(error), pickle.loads(pickle.dumps(error)), error.fresh()):
        assert type(twin) is exceptions.InvalidArgument
        assert twin is not error
        assert {**vars(twin)} == {**vars(error)}
        assert str(twin) == "INVALID_ARGUMENT/r: m"


def test_protocol_error_becomes_the_class_of_its_reason():
    error = exceptions.from_protocol_error(ProtocolError("queue_full", "full", retry_after_ms=7, job="j"))
    assert isinstance(error, exceptions.ResourceExhausted)
    assert (error.retryable, error.retry_after_ms, error.job) == (True, 7, "j")


@pytest.mark.parametrize(
    ("details", "fields"),
    [
        (None, {}),
        ({"fields": [{"field": "q", "problem": "missing", "message": "is required"}]}, {"q": "is required"}),
        ({"fields": {"q": "is required"}}, {"q": "is required"}),
        ({"fields": [{"name": "q", "problem": "missing"}, "odd"]}, {"q": "missing"}),
        ({"fields": 3}, {}),
    ],
)
def test_fields_of_an_invalid_argument(details, fields):
    assert exceptions.InvalidArgument("m", details=details).fields == fields


def test_tree():
    assert issubclass(exceptions.BrokerUnreachable, exceptions.Unavailable)
    assert issubclass(exceptions.ClientClosed, exceptions.Cancelled)
    assert exceptions.ProgramError.default_code == Code.UNKNOWN
    assert not issubclass(exceptions.DeadlineExceeded, TimeoutError)


# Prediction.


def test_outputs_are_items_and_attributes():
    prediction = Prediction({"answer": 42, "keys": ["k"], "usage": "mine", "_hidden": 1}, job="j", attempt=2)
    assert prediction.answer == prediction["answer"] == 42
    assert prediction["keys"] == ["k"]
    assert list(prediction.keys()) == ["answer", "keys", "usage", "_hidden"]
    assert prediction["usage"] == prediction.outputs["usage"] == "mine"
    assert prediction.usage is None
    assert (prediction.job, prediction.attempt) == ("j", 2)
    assert dict(prediction) == prediction.outputs
    assert "answer" in dir(prediction)
    assert repr(Prediction({"a": "x"})) == "Prediction(a='x')"
    with pytest.raises(AttributeError, match="no output 'missing'; it has answer"):
        _ = prediction.missing
    with pytest.raises(KeyError):
        _ = prediction["missing"]


def test_prediction_can_be_copied_and_pickled():
    prediction = Prediction({"answer": [1]}, job="j", attempt=2, revision="r", usage=Usage(calls=1))
    for twin in (copy.copy(prediction), copy.deepcopy(prediction), pickle.loads(pickle.dumps(prediction))):
        assert twin == prediction
        assert (twin.job, twin.attempt, twin.revision, twin.usage) == ("j", 2, "r", Usage(calls=1))


# Options.


def test_options_and_their_type_have_the_same_names():
    assert list(JobOptions.__annotations__) == [field.name for field in dataclasses.fields(Options)]
    for name in JobOptions.__annotations__:
        assert name in (JobOptions.__doc__ or "")


@pytest.mark.parametrize(("seconds", "ms"), [(1, 1_000), (0.0001, 1), (1.0001, 1_001), (60.0, 60_000)])
def test_seconds_to_ms(seconds, ms):
    assert to_ms(seconds) == ms


@pytest.mark.parametrize("seconds", [0, -1, float("inf"), float("nan"), "5", None])
def test_bad_seconds(seconds):
    with pytest.raises(exceptions.InvalidArgument, match="timeout_s"):
        to_ms(seconds)


# Addresses.


@pytest.mark.parametrize(
    ("broker", "environ", "expected"),
    [
        (None, {}, ("tcp://127.0.0.1:5570",)),
        (None, {"DSPYMQ_BROKER": ""}, ("tcp://127.0.0.1:5570",)),
        (None, {"DSPYMQ_BROKER": "tcp://a:1, b:2,"}, ("tcp://a:1", "tcp://b:2")),
        ("a:1", {"DSPYMQ_BROKER": "tcp://z:9"}, ("tcp://a:1",)),
        (["a:1", "ipc:///tmp/x", "a:1"], {}, ("tcp://a:1", "ipc:///tmp/x")),
        ("tcp://[::1]:5570", {}, ("tcp://[::1]:5570",)),
    ],
)
def test_addresses(broker, environ, expected):
    assert addresses.resolve(broker, environ) == expected


@pytest.mark.parametrize("broker", ["", [], "localhost", "tcp://host", "tcp://:5570", "a:0", "a:99999", "tcp://"])
def test_bad_addresses(broker):
    with pytest.raises(exceptions.InvalidArgument):
        addresses.resolve(broker, {})


def test_default_name_fits_hello(monkeypatch):
    monkeypatch.setattr("sys.argv", ["/päth/prögram" + "x" * 100])
    name = default_name()
    assert 1 <= len(name) <= 64
    assert name.isascii()
    assert name.isprintable()


# Plain values.


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


@dataclasses.dataclass
class Point:
    x: int
    where: pathlib.Path


class Model(pydantic.BaseModel):
    when: datetime.date
    tags: set[str]


def test_values_that_msgpack_does_not_know_are_made_plain():
    some_id = uuid.uuid4()
    inputs = {
        "model": Model(when=datetime.date(2024, 5, 6), tags={"a"}),
        "point": Point(1, pathlib.Path("/a/b")),
        "time": datetime.datetime(2024, 5, 6, 7, tzinfo=datetime.UTC),
        "mixed": (Colour.RED, Level.HIGH, Decimal("1.5"), some_id, frozenset({1}), (n for n in range(2))),
        "keys": {Colour.RED: 1},
        "bytes": b"\x00",
    }
    assert bodies.decode(encode_body(inputs=inputs))["inputs"] == {
        "model": {"when": "2024-05-06", "tags": ["a"]},
        "point": {"x": 1, "where": "/a/b"},
        "time": "2024-05-06T07:00:00+00:00",
        "mixed": ["red", 3, "1.5", str(some_id), [1], [0, 1]],
        "keys": {"red": 1},
        "bytes": b"\x00",
    }


def test_what_cannot_be_made_plain_is_refused_by_name():
    loop: list[Any] = []
    loop.append(loop)
    for bad in (object(), {"deep": object()}, loop, 1 << 70, lambda: 1):
        with pytest.raises(ProtocolError, match="inputs"):
            encode_body(inputs={"q": bad})


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=20,
    )
)
def test_plain_values_stay_as_they_are(value):
    assert to_plain(value) == value


# Timers.


def test_timers_against_a_plain_dict():
    rng = random.Random(7)
    timers, model, now = Timers(), {}, 0
    for _ in range(20_000):
        action = rng.random()
        key = rng.randrange(50)
        if action < 0.6:
            at = now + rng.randrange(100)
            timers.set(key, at)
            model[key] = at
        elif action < 0.8:
            timers.cancel(key)
            model.pop(key, None)
        else:
            now += rng.randrange(5)
            due = set()
            while (key := timers.pop_due(now)) is not None:
                due.add(key)
            assert due == {key for key, at in model.items() if at <= now}
            model = {key: at for key, at in model.items() if at > now}
        assert timers.next_at() == min(model.values(), default=None)
        assert len(timers) == len(model)
    assert len(timers._heap) <= 2 * 50 + 64 + 1


def test_timers_pop_in_order_of_time():
    timers = Timers()
    for key, at in (("c", 3), ("a", 1), ("b", 2), ("a2", 1)):
        timers.set(key, at)
    assert timers.at("b") == 2
    assert [timers.pop_due(10) for _ in range(5)] == ["a", "a2", "b", "c", None]
