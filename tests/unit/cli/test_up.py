"""What `dspymq up` decides: addresses, the language model, the screen."""

import socket
from pathlib import Path
from typing import Any

import pytest

from dspymq.broker.config import DEFAULT_CLIENTS
from dspymq.cli.addresses import ANY_PORT, free_or_any, reachable
from dspymq.cli.up_lm import EMBEDDED, LmChoice, choose_lm
from dspymq.cli.up_plan import Started, UpRequest
from dspymq.cli.up_screen import lines
from dspymq.worker.config import load_worker_config


def test_a_taken_port_gives_way_and_a_free_one_stays() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert free_or_any(f"tcp://127.0.0.1:{port}") == ANY_PORT
    assert free_or_any(f"tcp://127.0.0.1:{port}") == f"tcp://127.0.0.1:{port}"
    assert free_or_any("ipc:///tmp/x") == "ipc:///tmp/x"
    assert free_or_any(ANY_PORT) == ANY_PORT


def test_a_wildcard_is_reached_over_loopback() -> None:
    assert reachable("tcp://0.0.0.0:5570") == "tcp://127.0.0.1:5570"
    assert reachable("tcp://[::]:5570") == "tcp://127.0.0.1:5570"
    assert reachable("tcp://127.0.0.1:5570") == "tcp://127.0.0.1:5570"


def pool(environ: dict[str, str] | None = None, text: str = "", tmp_path: Path | None = None) -> Any:
    path = None
    if tmp_path is not None:
        path = tmp_path / "dspymq.toml"
        path.write_text(text)
    return load_worker_config(path, environ or {}, {"processes": 2, "name": "p"})


def test_without_a_profile_it_is_the_embedded_model() -> None:
    choice = choose_lm(pool(), is_installed=True)
    assert choice.title == EMBEDDED
    assert choice.environ == {"DSPYMQ_LM_MODEL": "local"}
    assert "DSPYMQ_LM_MODEL=" in (choice.hint or "")


def test_without_the_embedded_model_a_hint_says_what_to_run() -> None:
    choice = choose_lm(pool(), is_installed=False)
    assert choice.title == "none"
    assert "dspymq local install" in (choice.hint or "")
    assert "\n" not in (choice.hint or "")


def test_a_configured_model_is_left_alone(tmp_path: Path) -> None:
    named = choose_lm(pool({"DSPYMQ_LM_MODEL": "openai/x"}), is_installed=True)
    assert named == LmChoice("openai/x (profile default)")
    text = '[profiles.fast]\nmodel = "openai/x"\n'
    several = choose_lm(pool(text=text, tmp_path=tmp_path), is_installed=True)
    assert several.environ == {}
    assert "--profile: fast" in (several.hint or "")
    local = choose_lm(pool({"DSPYMQ_LM_MODEL": "local"}), is_installed=True)
    assert (local.title, local.environ) == (EMBEDDED, {})


def request(clients: str = DEFAULT_CLIENTS, *, taken: bool = False, config: Path | None = None) -> UpRequest:
    return UpRequest(
        clients=clients,
        workers="tcp://127.0.0.1:5571",
        are_ports_taken=taken,
        pool=pool(),
        lm=LmChoice("some/model"),
        config_path=config,
        log_level="warning",
        environ={},
    )


PERSON = {
    "name": "person",
    "inputs": {"properties": {"text": {"type": "string"}}},
    "outputs": {"properties": {"name": {"type": "string"}, "age": {"type": "integer"}}},
}


def screen(started: Started, plan: UpRequest) -> str:
    return "\n".join(line.plain for line in lines(started, plan))


def test_the_screen_says_where_what_and_how_to_call() -> None:
    text = screen(Started(clients=DEFAULT_CLIENTS, workers="w", pool={}, programs=[PERSON]), request())
    assert "person: text -> name, age" in text
    assert '  dspymq call person text="..."' in text
    assert "with Client() as client" in text
    assert 'client.call("person", text=' in text
    assert "taken" not in text


def test_the_screen_without_programs_shows_a_signature() -> None:
    text = screen(Started(clients=DEFAULT_CLIENTS, workers="w", pool={}, programs=[]), request())
    assert 'dspymq call "question -> answer" question="What is the capital of France?"' in text


def test_the_screen_on_another_port_names_it_in_every_call() -> None:
    clients = "tcp://127.0.0.1:41234"
    started = Started(clients=clients, workers="w", pool={}, programs=[PERSON])
    text = screen(started, request(clients, taken=True))
    assert "(the usual port is taken)" in text
    assert f"dspymq call --broker {clients} person" in text
    assert f'with Client("{clients}") as client' in text


def test_the_children_get_what_was_decided(tmp_path: Path) -> None:
    plan = request(config=tmp_path / "c.toml")
    common = ["--config", str(tmp_path / "c.toml"), "--log-level", "warning"]
    assert plan.broker_arguments() == [
        *("broker", "--clients", DEFAULT_CLIENTS, "--workers", "tcp://127.0.0.1:5571", "--json"),
        *common,
    ]
    arguments = plan.worker_arguments("tcp://127.0.0.1:7")
    assert arguments[:3] == ["worker", "--broker", "tcp://127.0.0.1:7"]
    assert arguments[-len(common) :] == common
    assert arguments[5:7] == ["--processes", "2"]


def test_only_the_default_addresses_give_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dspymq.cli.up_plan.free_or_any", lambda _: ANY_PORT)
    monkeypatch.setattr("dspymq.cli.local.is_local_installed", lambda: True)

    def plan(**given: Any) -> UpRequest:
        options = {"targets": (), "processes": 1, "concurrency": None, "clients": None, "workers": None}
        rest = {"config_path": None, "log_level": "warning", "environ": {}}
        return UpRequest.from_options(**{**options, **rest, **given})

    assert (plan().clients, plan().are_ports_taken) == (ANY_PORT, True)
    chosen = plan(clients="tcp://127.0.0.1:7001", workers="tcp://127.0.0.1:7002")
    assert (chosen.clients, chosen.workers, chosen.are_ports_taken) == (
        "tcp://127.0.0.1:7001",
        "tcp://127.0.0.1:7002",
        False,
    )
