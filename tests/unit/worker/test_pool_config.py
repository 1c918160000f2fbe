"""The settings of a pool: file < environment < overrides, and clear errors."""

from pathlib import Path
from typing import Any

import pytest

from dspymq.worker import ConfigError, WorkerConfig, load_worker_config
from dspymq.worker.config import default_processes


def load(tmp_path: Path, text: str, environ: dict[str, str] | None = None, **overrides: object) -> WorkerConfig:
    path = tmp_path / "dspymq.toml"
    path.write_text(text)
    return load_worker_config(path, environ or {}, overrides)


def test_defaults_need_no_file() -> None:
    config = load_worker_config(None, {})
    assert config.brokers == ["tcp://127.0.0.1:5571"]
    assert config.processes == default_processes() <= 4
    assert (config.concurrency, config.start_method) == (8, "forkserver")
    assert config.name
    assert config.executor_profiles() == []


def test_each_source_goes_over_the_one_before(tmp_path: Path) -> None:
    text = '[worker]\nprocesses = 1\nconcurrency = 1\ntargets = ["a"]\nname = "file"\n'
    environ = {"DSPYMQ_WORKER_CONCURRENCY": "2", "DSPYMQ_WORKER_NAME": "env", "DSPYMQ_WORKER_TARGETS": "b, c"}
    config = load(tmp_path, text, environ, name="override", grace_ms=None)
    assert (config.processes, config.concurrency, config.name, config.targets) == (1, 2, "override", ["b", "c"])
    assert config.grace_ms == 10_000


def test_one_address_may_stand_without_a_list(tmp_path: Path) -> None:
    assert load(tmp_path, '[worker]\nbrokers = "tcp://h:1"\n').brokers == ["tcp://h:1"]
    assert load(tmp_path, "", brokers=("tcp://[::1]:1", "ipc:///tmp/x")).brokers == ["tcp://[::1]:1", "ipc:///tmp/x"]


def test_profiles_come_along_and_one_can_be_the_default(tmp_path: Path) -> None:
    text = '[profiles.fast]\nmodel = "openai/x"\napi_key = "k"\n[worker]\ndefault_profile = "fast"\n'
    config = load(tmp_path, text)
    assert [(p.name, p.model) for p in config.executor_profiles()] == [("fast", "openai/x"), ("default", "openai/x")]


@pytest.mark.parametrize(
    ("text", "key", "fix"),
    [
        ("[worker]\nprocess = 1", "worker.process", "did you mean processes?"),
        ("[workers]\nprocesses = 1", "workers", "did you mean worker?"),
        ("worker = 1", "worker", "[worker]"),
        ("[worker]\nprocesses = 0", "worker.processes", "set it"),
        ('[worker]\nprocesses = "2"', "worker.processes", "set it"),
        ("[worker]\nbrokers = []", "worker.brokers", "set it"),
        ('[worker]\nbrokers = ["localhost:5571"]', "worker.brokers", "tcp://HOST:PORT"),
        ('[worker]\nstart_method = "fork"', "worker.start_method", "set it"),
        ("[worker]\nbeat_ms = 2000", "worker.beat_ms", "3 beats"),
        ('[worker]\ndefault_profile = "fsat"\n[profiles.fast]\nmodel="openai/x"', "worker.default_profile", "fast?"),
        ("[profiles.x]\nmodle = 'y'", "profiles.x.modle", "did you mean model?"),
        ("[worker", "dspymq.toml", "mend"),
    ],
)
def test_what_is_wrong_is_named_with_its_fix(tmp_path: Path, text: str, key: str, fix: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    assert caught.value.key.endswith(key)
    assert fix in caught.value.fix
    assert key in str(caught.value)


def test_a_wrong_variable_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="DSPYMQ_WORKER_PROCESSES: is 'many'"):
        load(tmp_path, "", {"DSPYMQ_WORKER_PROCESSES": "many"})
    with pytest.raises(ConfigError, match="did you mean DSPYMQ_WORKER_PROCESSES"):
        load(tmp_path, "", {"DSPYMQ_WORKER_PROCESS": "1"})


def test_wrong_overrides_and_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="concurency"):
        load(tmp_path, "", concurency=1)
    with pytest.raises(ConfigError, match=r"none\.toml"):
        load_worker_config(tmp_path / "none.toml", {})


def test_sizes_are_written_with_units_everywhere(tmp_path: Path) -> None:
    text = '[worker]\nmax_rss_bytes = "1.5G"\nmax_body_bytes = 2048\n'
    config = load(tmp_path, text, {"DSPYMQ_WORKER_KILL_RSS_BYTES": "2048 MiB"})
    assert (config.max_rss_bytes, config.kill_rss_bytes) == (1536 << 20, 2 << 30)
    assert config.max_body_bytes == 2048
    assert load(tmp_path, "", {"DSPYMQ_WORKER_MAX_RSS_BYTES": "734003200"}).max_rss_bytes == 700 << 20
    with pytest.raises(ConfigError, match="max_rss_bytes"):
        load(tmp_path, '[worker]\nmax_rss_bytes = "much"\n')
    with pytest.raises(ConfigError, match="less than max_rss_bytes"):
        load(tmp_path, "", max_rss_bytes="800M", kill_rss_bytes="700M")


def test_recycling_and_reload_are_off_unless_asked_for(tmp_path: Path) -> None:
    config = load(tmp_path, "")
    assert config.reload is False
    found = (config.max_jobs_per_executor, config.max_age_ms, config.max_rss_bytes, config.kill_rss_bytes)
    assert found == (None, None, None, None)
    environ = {"DSPYMQ_WORKER_RELOAD": "true", "DSPYMQ_WORKER_MAX_JOBS_PER_EXECUTOR": "50"}
    config = load(tmp_path, "", environ, max_age_ms=60_000)
    assert (config.reload, config.max_jobs_per_executor, config.max_age_ms) == (True, 50, 60_000)


@pytest.mark.parametrize(
    ("given", "lanes"),
    [
        ({"lanes": ["batch=1", "night=30"]}, {"batch": 1, "night": 30}),
        ({"lanes": "batch=2"}, {"batch": 2}),
        ({"lanes": {"batch": 3}}, {"batch": 3}),
    ],
)
def test_lanes_are_written_as_pairs_or_as_a_table(given: dict[str, Any], lanes: dict[str, int]) -> None:
    assert load_worker_config(None, {}, given).lanes == lanes


def test_lanes_stand_in_the_environment_too() -> None:
    assert load_worker_config(None, {"DSPYMQ_WORKER_LANES": "batch=1, night=2"}).lanes == {"batch": 1, "night": 2}


@pytest.mark.parametrize("lane", ["batch", "=1", "batch=x", "batch=0", "default=2", "_own=1", "a b=1"])
def test_what_is_no_lane_is_named(lane: str) -> None:
    with pytest.raises(ConfigError, match="lanes"):
        load_worker_config(None, {}, {"lanes": [lane]})
