"""`dspymq call` and the other verbs of a client, against a real broker and pool."""

import json
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from dspymq.cli.exit_codes import ExitCode
from tests.integration.cli_system import Shell, write_programs
from tests.lm import ScriptedLM, expected_answer
from tests.processes import RunningPool, running_broker, running_pool


@pytest.fixture(scope="module")
def lm() -> Iterator[ScriptedLM]:
    with ScriptedLM() as lm:
        yield lm


@pytest.fixture(scope="module")
def system(lm: ScriptedLM, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Shell, RunningPool]]:
    folder = tmp_path_factory.mktemp("programs")
    with (
        running_broker() as broker,
        running_pool(broker, targets=[write_programs(folder)], lm=lm, processes=1, cwd=folder) as pool,
    ):
        yield Shell(broker.clients), pool


@pytest.fixture
def shell(system: tuple[Shell, RunningPool]) -> Shell:
    return system[0]


def test_a_program_is_called_by_its_name(shell: Shell) -> None:
    done = shell("call", "qa", "question=Why is the sky blue?")
    assert (done.code, done.out) == (0, f"answer: {expected_answer('answer', 'Why is the sky blue?')}\n")
    assert done.err == ""


def test_an_inline_signature_needs_no_program(shell: Shell) -> None:
    done = shell(
        *("call", "text, n: int -> name, age: int", "--json", "--kind", "chain_of_thought"),
        *("text=42 #answer.age=34 #answer.name=Ada", "n=7"),
    )
    assert done.code == 0
    outputs = done.json["outputs"]
    assert (outputs["name"], outputs["age"]) == ("Ada", 34)
    assert "reasoning" in outputs
    assert done.json["usage"]["calls"] == 1


def test_values_are_read_by_the_programs_types(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "data.bin").write_bytes(b"\xff\x00")
    (tmp_path / "text.txt").write_text("from a file")
    typed = shell("call", "typed", "text=42", "n=42", 'tags=["a", "b"]', f"data=@{tmp_path}/data.bin")
    assert typed.out == "seen: ('42', 42, ['a', 'b'], b'\\xff\\x00')\n"
    from_file = shell("call", "typed", f"text=@{tmp_path}/text.txt")
    assert from_file.out == "seen: ('from a file', 0, None, b'')\n"


def test_inputs_come_from_standard_input_and_arguments_go_over_them(shell: Shell) -> None:
    done = shell("call", "typed", "--input", "-", "n=5", given=json.dumps({"text": "a", "n": 4, "tags": ["x"]}))
    assert done.out == "seen: ('a', 5, ['x'], b'')\n"


def test_options_come_from_variables_too(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "inputs.json").write_text('{"question": "one two three #tokens=3"}')
    environ = {"DSPYMQ_CALL_INPUT": str(tmp_path / "inputs.json"), "DSPYMQ_CALL_STREAM": "1", "DSPYMQ_JSON": "1"}
    done = shell("call", "qa", environ=environ)
    assert done.lines[-1]["outputs"] == {"answer": "answer: one two"}
    assert [line for line in done.lines if "chunk" in line]


def test_a_stream_is_printed_as_it_is_written(shell: Shell) -> None:
    done = shell("call", "qa", "--stream", "question=go on #tokens=30")
    assert done.out == f"answer: {expected_answer('answer', 'go on', tokens=30)}\n"
    pieces = shell("call", "qa", "--stream", "--json", "question=go on #tokens=30 #token_ms=10").lines
    text = "".join(piece["chunk"]["text"] for piece in pieces[:-1])
    assert len(pieces) > 3
    assert text == pieces[-1]["outputs"]["answer"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["call", "qa"], ExitCode.REFUSED, "  question: "),
        (["call", "qa", "question=x", "foo=1"], ExitCode.REFUSED, "  foo: no such input"),
        (["call", "person", "text=x", "--profile", "nobody", "--timeout", "1"], ExitCode.DEADLINE, "the profile asked"),
        (["call", "persn", "text=x"], ExitCode.NOT_FOUND, "did you mean person?"),
        (["programs", "persn"], ExitCode.NOT_FOUND, "did you mean person?"),
        (["call", "fails", "text=x"], ExitCode.PROGRAM, "no good: x"),
        (["call", "qa", "question=x #hang #job=cli-late", "--timeout", "0.5"], ExitCode.DEADLINE, "DEADLINE_EXCEEDED"),
        (["call", "qa", "question=x #status=401"], ExitCode.LM, "lm_auth"),
        (["call", "qa", "question=x #garbage"], ExitCode.LM, "lm_output_unparsable"),
        (["call", "text -> age: intt", "text=x"], ExitCode.REFUSED, "intt"),
    ],
)
def test_errors_differ_by_exit_code_and_are_no_traceback(
    shell: Shell, arguments: list[str], code: ExitCode, message: str
) -> None:
    done = shell(*arguments)
    assert done.code == code
    assert message in done.err
    assert "Traceback" not in done.err
    assert done.out == ""


def test_a_refused_call_asks_no_language_model(shell: Shell, lm: ScriptedLM) -> None:
    before = lm.requests
    assert shell("call", "person", "txt=x").code == ExitCode.REFUSED
    assert shell("call", "typed", "text=x", "n=many").code == ExitCode.REFUSED
    assert lm.requests == before


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_cancels_the_job_at_the_language_model(
    shell: Shell, lm: ScriptedLM, number: signal.Signals, code: int
) -> None:
    job = f"cli-{number.name}"
    process = shell.start("call", "qa", f"question=x #hang #job={job}")
    lm.wait_open(job)
    process.send_signal(number)
    out, err = process.communicate(timeout=10)
    assert (process.returncode, out, err) == (code, "", "cancelled\n")
    lm.wait_disconnected(job)
    assert shell("call", "qa", "question=next").code == 0


def test_programs_lists_and_shows_them(shell: Shell) -> None:
    names = {row["name"] for row in shell("programs", "--json").json}
    assert names == {"_define", "_inline", "fails", "person", "qa", "typed"}
    listed = shell("programs").out
    assert "qa" in listed
    assert "Inline signatures too" in listed
    shown = shell("programs", "person").out
    assert "list[str]" in shown
    assert "dspymq call person text=..." in shown
    assert shell("programs", "person", "--json").json["inputs"]["required"] == ["text"]


def test_status_shows_executors_and_what_they_do(system: tuple[Shell, RunningPool], lm: ScriptedLM) -> None:
    shell, pool = system
    process = shell.start("call", "qa", "question=x #hang #job=cli-status")
    lm.wait_open("cli-status")
    found = shell("status", "--json").json
    assert found["stats"]["jobs"]["in_flight"] == 1
    (worker,) = found["workers"]
    assert worker["in_flight"] == {"default": 1}
    assert [executor["pid"] for executor in worker["executors"]] == pool.executor_pids()
    text = shell("status").out
    assert "1 in flight" in text
    assert "1 of 4 slots taken" in text
    assert str(pool.executor_pids()[0]) in text
    lm.release("cli-status")
    assert process.wait(10) == 0
    process.communicate()


def test_ping_says_where_and_how_far(shell: Shell) -> None:
    done = shell("ping", "--json")
    assert done.code == 0
    assert done.json["broker"] == shell.environ["DSPYMQ_BROKER"]
    assert 0 <= done.json["ms"] < 1_000
    assert "answered in" in shell("ping").out


@pytest.mark.parametrize(
    "arguments", [["ping"], ["call", "qa", "question=x"], ["programs"], ["status", "--json"]], ids=lambda a: a[0]
)
def test_a_broker_that_is_not_there_is_one_line_within_two_seconds(arguments: list[str]) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{unused.getsockname()[1]}"
        done = Shell(address)(*arguments)
    assert done.code == ExitCode.UNAVAILABLE
    assert done.err.count("\n") == 1
    assert address in done.err
    assert "dspymq broker" in done.err
    assert done.seconds < 2


def test_a_closed_pipe_is_no_error(shell: Shell) -> None:
    process = shell.start("programs")
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == ""
    process.wait(10)
    process.stderr.close()
