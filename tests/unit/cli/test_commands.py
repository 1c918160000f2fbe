"""The command line itself: help, suggestions, variables, errors as lines."""

import re
import subprocess
import sys
from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner, Result

from dspymq.broker.config import ConfigError
from dspymq.cli import options
from dspymq.cli.group import Commands
from dspymq.cli.main import cli
from dspymq.exceptions import BrokerUnreachable, InvalidArgument, NotFound


def run(*arguments: str, env: dict[str, str] | None = None) -> Result:
    return CliRunner().invoke(cli, list(arguments), env=env)


def every_command(
    group: click.Group = cli, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    for name, command in group.commands.items():
        yield (*path, name), command
        if isinstance(command, click.Group):
            yield from every_command(command, (*path, name))


def test_importing_the_command_loads_neither_zeromq_nor_dspy_nor_rich() -> None:
    script = (
        "import sys; import dspymq.cli.main; "
        "print([n for n in ('zmq', 'msgspec', 'dspy', 'rich', 'asyncio') if n in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_every_verb_has_help_with_examples() -> None:
    for path, command in every_command():
        result = run(*path, "--help")
        assert result.exit_code == 0, path
        if not isinstance(command, click.Group):
            assert "Examples:" in result.output, path
            assert f"dspymq {' '.join(path)}" in result.output


def test_every_option_of_every_verb_has_a_variable_that_its_help_names() -> None:
    for path, command in every_command():
        for parameter in command.params:
            if not isinstance(parameter, click.Option) or parameter.hidden:
                continue
            text = parameter.help or ""
            variables = re.findall(r"DSPYMQ_[A-Z_]+", text) or ([parameter.envvar] if parameter.show_envvar else [])
            assert variables, (path, parameter.opts)


def test_the_version_is_the_packages() -> None:
    from importlib.metadata import version

    assert run("--version").output == f"dspymq {version('dspymq')}\n"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["stauts"], "error: no command 'stauts'; did you mean status? (see dspymq --help)\n"),
        (["frobnicate"], "no command 'frobnicate'; there are alias, broker, call"),
        (["call", "--steam", "qa"], "'--stream'"),
        (["call"], "Missing argument 'PROGRAM_OR_SIGNATURE'"),
        (["call", "a -> b", "--kind", "predikt"], "'predict', 'chain_of_thought'"),
        (["call", "qa", "--kind", "predict"], "--kind is for inline signatures"),
        (["call", "qa", "--timeout", "0"], "--timeout"),
        (["worker", "--start-method", "fork"], "'forkserver', 'spawn'"),
        (["broker", "--config", "/no/such/file.toml"], "does not exist"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_exit_code_2(arguments: list[str], expected: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert expected in result.stderr
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""


def test_a_wrong_variable_is_one_line_too() -> None:
    result = run("call", "qa", env={"DSPYMQ_CALL_TIMEOUT": "soon"})
    assert result.exit_code == 2
    assert "soon" in result.stderr
    result = run("worker", env={"DSPYMQ_WORKER_PROCESES": "2"})
    assert result.exit_code == 2
    assert "did you mean DSPYMQ_WORKER_PROCESSES?" in result.stderr


def test_a_wrong_configuration_is_one_line_and_exit_code_2() -> None:
    result = run("broker", "--clients", "tcp://0.0.0.0:5570")
    assert result.exit_code == 2
    assert "--insecure" in result.stderr
    result = run("worker", "--processes", "0")
    assert result.exit_code == 2
    assert "processes" in result.stderr
    result = run("ping", "--broker", "nonsense")
    assert result.exit_code == 3
    assert "is no broker address" in result.stderr


def failing(error: BaseException) -> click.Group:
    @click.group(cls=Commands)
    def group() -> None:
        pass

    @group.command()
    @options.json_option("x")
    @options.log_options("warning")
    def verb(as_json: bool) -> None:
        raise error

    return group


@pytest.mark.parametrize(
    ("error", "code", "lines"),
    [
        (
            NotFound("no program 'sentimnt'", reason="unknown_program", details={"close_matches": ["sentiment"]}),
            4,
            ["error: no program 'sentimnt'; did you mean sentiment? [NOT_FOUND/unknown_program]"],
        ),
        (
            InvalidArgument(
                "inputs do not fit: `age` is of the wrong type",
                reason="invalid_inputs",
                details={"fields": [{"field": "age", "problem": "type", "message": "not an int", "expected": "int"}]},
            ),
            3,
            ["error: the inputs do not fit [INVALID_ARGUMENT/invalid_inputs]", "  age: not an int (expected int)"],
        ),
        (
            BrokerUnreachable("no broker at tcp://x:1"),
            6,
            ["error: no broker at tcp://x:1; start one: dspymq broker, or dspymq up [UNAVAILABLE/broker_unreachable]"],
        ),
        (ConfigError("clients: wrong"), 2, ["error: clients: wrong"]),
        (KeyError("surprise"), 1, ["error: KeyError: 'surprise' (--log-level debug shows where)"]),
        (KeyboardInterrupt(), 130, [""]),
    ],
)
def test_whatever_is_raised_becomes_lines_and_a_code(error: BaseException, code: int, lines: list[str]) -> None:
    result = CliRunner().invoke(failing(error), ["verb"])
    assert result.exit_code == code
    assert result.stderr.splitlines() == lines


def test_with_json_an_error_is_a_document_on_stdout_as_well() -> None:
    import json

    error = NotFound("no such", reason="unknown_program", details={"close_matches": []}, job="j1")
    result = CliRunner().invoke(failing(error), ["verb", "--json"])
    assert result.exit_code == 4
    assert json.loads(result.stdout)["error"] == {
        "code": "NOT_FOUND",
        "reason": "unknown_program",
        "message": "no such",
        "retryable": False,
        "retry_after_ms": None,
        "details": {"close_matches": []},
        "job": "j1",
    }
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("verb", ["worker", "up"])
def test_on_the_bare_install_workers_say_what_is_missing(verb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name, package=None: None)
    result = run(verb, "x")
    assert result.exit_code == 1
    assert result.stderr == "error: DSPy is not installed here; workers need it: pip install 'dspymq[worker]'\n"
