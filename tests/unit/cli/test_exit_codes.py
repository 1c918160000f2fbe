"""The exit codes are an interface: pinned here, complete, and in the help."""

from pathlib import Path

from click.testing import CliRunner

from dspymq.cli.exit_codes import MEANINGS, ExitCode, exit_code_for
from dspymq.cli.main import cli
from dspymq.protocol.errors import REASONS, Code


def test_the_numbers_never_change() -> None:
    assert {code.name: code.value for code in ExitCode} == {
        "OK": 0,
        "FAILURE": 1,
        "USAGE": 2,
        "REFUSED": 3,
        "NOT_FOUND": 4,
        "DEADLINE": 5,
        "UNAVAILABLE": 6,
        "PROGRAM": 7,
        "LM": 8,
        "LIMIT": 9,
        "CANCELLED": 10,
        "STATE": 11,
        "DENIED": 12,
        "INTERRUPTED": 130,
        "TERMINATED": 143,
    }


def test_every_error_of_the_registry_has_a_class_of_its_own_kind() -> None:
    for reason, entry in REASONS.items():
        code = exit_code_for(entry.code.value, reason)
        assert code not in (ExitCode.OK, ExitCode.FAILURE, ExitCode.USAGE), reason
    for code in Code:
        if code is not Code.OK:
            assert exit_code_for(code.value, "") is not ExitCode.FAILURE, code


def test_the_classes_that_scripts_tell_apart() -> None:
    seen = {
        exit_code_for("INVALID_ARGUMENT", "invalid_inputs"): ExitCode.REFUSED,
        exit_code_for("NOT_FOUND", "unknown_program"): ExitCode.NOT_FOUND,
        exit_code_for("DEADLINE_EXCEEDED", "deadline"): ExitCode.DEADLINE,
        exit_code_for("UNAVAILABLE", "broker_unreachable"): ExitCode.UNAVAILABLE,
        exit_code_for("UNAVAILABLE", "lm_unavailable"): ExitCode.LM,
        exit_code_for("INTERNAL", "lm_output_unparsable"): ExitCode.LM,
        exit_code_for("UNKNOWN", "program_error"): ExitCode.PROGRAM,
        exit_code_for("CANCELLED", "cancelled"): ExitCode.CANCELLED,
    }
    assert all(found is expected for found, expected in seen.items())
    assert exit_code_for("ABORTED", "poison") is ExitCode.PROGRAM
    assert exit_code_for("ABORTED", "superseded") is ExitCode.STATE
    assert exit_code_for("SOMETHING_NEW", "") is ExitCode.FAILURE


def test_the_help_has_them_all() -> None:
    text = CliRunner().invoke(cli, ["--help"]).output
    assert set(MEANINGS) == set(ExitCode)
    for code, meaning in MEANINGS.items():
        assert f"{code.value:>5}  {meaning}" in text


def test_the_documentation_has_the_same_table() -> None:
    text = (Path(__file__).parents[3] / "docs" / "cli.md").read_text(encoding="utf-8")
    rows = [f"| {code.value} | {meaning} |" for code, meaning in MEANINGS.items()]
    assert "\n".join(rows) in text
