"""The drivers of docs/conformance-drivers.md pass the kit, for what they say they support."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from dspymq.conformance.runs import Choice, run_client
from dspymq.conformance.verdicts import Outcome, Verdict
from tests.clients.toolchains import require
from tests.conformance.kit.running import told

ROOT = Path(__file__).resolve().parents[3]
CHOICE = Choice(scale=2.0, jobs=3)


def _written(language: str, path: Path) -> Path:
    text = (ROOT / "docs" / "conformance-drivers.md").read_text("utf-8")
    (source,) = re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    path.write_text(source, "utf-8")
    return path


def _passed(outcomes: list[Outcome]) -> int:
    failed = [each for each in outcomes if each.verdict in (Verdict.FAIL, Verdict.INFORMATIONAL)]
    assert failed == [], told(failed)
    return sum(each.verdict is Verdict.PASS for each in outcomes)


def test_the_driver_in_python(tmp_path: Path) -> None:
    driver = _written("python", tmp_path / "driver.py")
    assert _passed(run_client([sys.executable, str(driver)], replace(CHOICE, sections=(3, 7, 9)))) >= 12


def test_the_driver_in_ruby(tmp_path: Path) -> None:
    needs_ruby()
    driver = _written("ruby", tmp_path / "driver.rb")
    assert _passed(run_client(["ruby", str(driver)], CHOICE)) >= 12


def needs_ruby() -> None:
    """Skip, or fail where CI says that everything has to be there."""
    found = subprocess.run(["ruby", "-e", "require 'ffi-rzmq'; require 'msgpack'"], capture_output=True, check=False)
    require(found.returncode == 0, "needs Ruby: apt-get install ruby ruby-ffi-rzmq ruby-msgpack")
