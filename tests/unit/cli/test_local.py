"""`dspymq local`: what is said of the embedded model, and the exit codes."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from dspymq.cli.main import cli
from dspymq.worker.local import install
from dspymq.worker.local.install import InstallError, Status

THERE = Status("2026.10", "0.1.2", Path("/x/model.gguf"), 98_000_000, True, None)
MISSING = Status(None, None, None, 0, False, "not installed; run: dspymq local install")


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["local", *arguments])


def test_status_says_what_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install, "status", lambda: THERE)
    result = run("status")
    assert result.exit_code == 0
    assert "98 MB at /x/model.gguf" in result.stdout
    assert "usable   yes" in result.stdout
    assert json.loads(run("status", "--json").stdout)["usable"] is True


def test_status_of_a_missing_model_says_how_to_get_it_and_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install, "status", lambda: MISSING)
    result = run("status")
    assert result.exit_code == 1
    assert result.stderr == "not installed; run: dspymq local install\n"
    document = json.loads(run("status", "--json").stdout)
    assert (document["usable"], document["weights_path"]) == (False, None)


def test_an_install_that_fails_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(say: object) -> Status:
        raise InstallError("no network")

    monkeypatch.setattr(install, "install", fail)
    result = run("install")
    assert (result.exit_code, result.stderr) == (1, "error: no network\n")
    monkeypatch.setattr(install, "install", lambda say: THERE)
    assert run("install").exit_code == 0


def test_a_typo_in_its_verbs_gets_a_suggestion() -> None:
    result = run("statsu")
    assert result.exit_code == 2
    assert "'status'" in result.stderr
