"""What a call prints: outputs, streams, their restarts."""

import json

import pytest

from dspymq.chunks import Chunk
from dspymq.cli import call_output
from dspymq.cli.call_output import JsonOutput, TextOutput
from dspymq.cli.output import to_json
from dspymq.prediction import Prediction
from dspymq.protocol.messages import ModelUsage, Timings, Usage

OUTPUTS = {"answer": "Paris", "sources": ["a", "b"], "sure": True, "poem": "one\ntwo"}


def test_outputs_are_names_and_values(capsys: pytest.CaptureFixture[str]) -> None:
    TextOutput().result(Prediction(OUTPUTS), {})
    assert capsys.readouterr().out == 'answer: Paris\nsources: ["a", "b"]\nsure: true\npoem:\none\ntwo\n'


def test_a_stream_is_printed_as_it_comes_and_nothing_twice(capsys: pytest.CaptureFixture[str]) -> None:
    output = TextOutput()
    output.chunk(Chunk("reasoning", "It is "))
    output.chunk(Chunk("reasoning", "known."))
    output.chunk(Chunk("answer", "Par"))
    assert capsys.readouterr().out == "reasoning: It is known.\nanswer: Par"
    output.chunk(Chunk("answer", "is"))
    output.result(
        Prediction({"reasoning": "It is known.", "answer": "Paris", "year": 987}),
        {"reasoning": "It is known.", "answer": "Paris"},
    )
    assert capsys.readouterr().out == "is\nyear: 987\n"


def test_a_restart_says_so_and_begins_anew(capsys: pytest.CaptureFixture[str]) -> None:
    output = TextOutput()
    output.chunk(Chunk("answer", "Par"))
    output.chunk(Chunk("answer", "Pa", reset=True, attempt=2))
    output.chunk(Chunk("answer", "ris", attempt=2))
    output.result(Prediction({"answer": "Paris"}, attempt=2), {"answer": "Paris"})
    seen = capsys.readouterr()
    assert seen.out == "answer: Par\nanswer: Paris\n"
    assert "attempt 2" in seen.err


def test_an_output_that_differs_from_its_stream_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    output = TextOutput()
    output.chunk(Chunk("answer", "raw"))
    output.result(Prediction({"answer": "polished"}), {"answer": "raw"})
    assert capsys.readouterr().out == "answer: raw\nanswer: polished\n"


def test_machines_get_a_document_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    output = JsonOutput()
    output.chunk(Chunk("answer", "Pa"))
    usage = Usage(calls=1, models={"m": ModelUsage(input_tokens=3, output_tokens=4)})
    output.result(Prediction(OUTPUTS, job="j", revision="r", usage=usage, timings=Timings(run_ms=5)), {})
    first, second = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert first == {"chunk": {"field": "answer", "text": "Pa", "reset": False, "attempt": 1, "seq": 0}}
    assert second["outputs"] == OUTPUTS
    assert (second["job"], second["attempt"], second["revision"]) == ("j", 1, "r")
    assert second["usage"]["models"]["m"]["output_tokens"] == 4
    assert second["timings"] == {"run_ms": 5}


def test_the_summary_is_one_line() -> None:
    usage = Usage(calls=2, models={"m": ModelUsage(input_tokens=30, output_tokens=4)})
    prediction = Prediction({}, attempt=2, usage=usage, timings=Timings(run_ms=420))
    assert call_output.summary(prediction) == "0.42 s, 2 LM calls, 30 + 4 tokens, attempt 2"
    assert call_output.summary(Prediction({})) == ""


def test_json_takes_what_msgpack_brings() -> None:
    assert to_json({"data": b"\xff\x00", "x": [float("nan"), float("inf"), 1.5], "ü": None}) == (
        '{"data": "/wA=", "x": [null, null, 1.5], "ü": null}'
    )
