"""What the kit says of a run: for people, as JSON, as JUnit's XML; and its exit code."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner

from dspymq.cli.main import cli
from dspymq.conformance.documents import document, junit
from dspymq.conformance.verdicts import Outcome, RuleOutcome, Verdict, by_rule, is_conformant
from tests.conformance.kit.running import OUR_CLIENT, wrong_client

ABOUT = "What it shows."


def outcome(name: str, verdict: Verdict, rules: str, blamed: str | None = None, text: str = "") -> Outcome:
    return Outcome(name, ABOUT, rules.split(), verdict, blamed=blamed, text=text, step=None if blamed is None else 3)


OUTCOMES = [
    outcome("a", Verdict.PASS, "R-3.6 R-2.5"),
    outcome("b", Verdict.FAIL, "R-3.6 R-5.10 R-8.3", "R-5.10", "nothing came\nfor b \x00"),
    outcome("c", Verdict.NOT_SUPPORTED, "R-9.10", text="the driver does not support read"),
    outcome("d", Verdict.INFORMATIONAL, "R-2.19 R-2.5", "R-2.19", "it is too narrow"),
    outcome("e", Verdict.FAIL, "R-4.5", None, "COMMAND ended with exit code 3"),
]


def test_a_failure_is_held_against_the_rule_that_it_breaks_only() -> None:
    assert by_rule(OUTCOMES) == [
        RuleOutcome("R-2.5", Verdict.PASS, ["a"]),
        RuleOutcome("R-2.19", Verdict.INFORMATIONAL, ["d"]),
        RuleOutcome("R-3.6", Verdict.PASS, ["a"]),
        RuleOutcome("R-4.5", None, ["e"]),
        RuleOutcome("R-5.10", Verdict.FAIL, ["b"]),
        RuleOutcome("R-8.3", None, ["b"]),
        RuleOutcome("R-9.10", Verdict.NOT_SUPPORTED, ["c"]),
    ]


def test_only_failures_are_against_conformance() -> None:
    assert not is_conformant(OUTCOMES)
    assert is_conformant([each for each in OUTCOMES if each.verdict is not Verdict.FAIL])


def test_the_document() -> None:
    found = json.loads(json.dumps(document("client", "my client", OUTCOMES)))
    assert found["counts"] == {"pass": 1, "fail": 2, "not supported": 1, "informational": 1}
    assert found["conformant"] is False
    assert (found["role"], found["tested"], found["format"]) == ("client", "my client", 1)
    broken = next(each for each in found["transcripts"] if each["name"] == "b")
    assert (broken["broken"], broken["step"], broken["verdict"]) == ("R-5.10", 3, "fail")
    assert next(each for each in found["rules"] if each["rule"] == "R-5.10")["text"].startswith("After each `welcome`")


def test_junit() -> None:
    suite = ElementTree.fromstring(junit("client", "my client", OUTCOMES))[0]
    assert {name: suite.get(name) for name in ("tests", "failures", "skipped")} == {
        "tests": "5",
        "failures": "2",
        "skipped": "2",
    }
    cases = {str(case.get("name")).split()[0]: case for case in suite}
    assert cases["b"].get("classname") == "DJP/1 client.5 The job"
    failure = cases["b"].find("failure")
    assert failure is not None
    assert failure.get("message") == "R-5.10: nothing came"
    assert cases["a"].find("failure") is None
    skipped = cases["c"].find("skipped")
    assert skipped is not None
    assert skipped.get("message") == "not supported: the driver does not support read"


def run(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(cli, ["conformance", *arguments])
    return result.exit_code, result.stdout, result.stderr


def test_a_run_that_passes(tmp_path: Path) -> None:
    xml = tmp_path / "report.xml"
    code, out, _ = run("client", "--only", "call", "--junit", str(xml), "--", *OUR_CLIENT)
    assert code == 0
    assert "\n5 The job\n  pass           call  R-5.19 R-2.5 R-4.5\n" in out
    assert "1 pass, 0 fail, 0 not supported, 0 informational; of 3 rules 3 are kept, 0 broken" in out
    assert ElementTree.parse(xml).getroot()[0].get("failures") == "0"


@pytest.mark.parametrize("whole", [False, True])
def test_a_run_that_fails(whole: bool) -> None:
    more = ["-v"] if whole else []
    command = wrong_client("asks under one name")
    code, out, err = run("client", "--rule", "R-2.14", "--json", "-", *more, "--", *command)
    assert code == 1
    assert "breaks R-2.14, step " in err
    assert "expected: {'peer': 'b', 'expect': {'t': 'request'" in err
    assert "1 broken: R-2.14" in err
    assert ("kit gets   {'t': 'request', 'rid': 'the-only-one'" in err) is whole
    found = json.loads(out)
    assert found["transcripts"][0]["broken"] == "R-2.14"
    assert any("kit sends  {'t': 'welcome'" in line for line in found["transcripts"][0]["exchange"])


def test_lists() -> None:
    code, out, _ = run("worker", "--list", "--section", "9")
    assert code == 0
    assert "window  R-9.9 R-9.3 R-9.11  (needs chunks)\n" in out
    assert "hello-and-ready" not in out
    _, out, _ = run("broker", "--list", "--rule", "R-2.4")
    assert "invalid/tag-later-version  R-2.4 R-14.1\n" in out
    _, out, _ = run("broker", "--list", "--rule", "8.1")
    assert "(needs --start)" in out
