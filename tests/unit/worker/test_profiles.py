"""LM profiles from TOML and the environment."""

import tomllib
from pathlib import Path

import msgspec
import pytest

from dspymq.worker.profiles import LMProfile, ProfileError, load_profiles, local_profile


def load(text: str, **environ: str) -> dict[str, LMProfile]:
    return load_profiles(tomllib.loads(text), environ)


def test_a_profile_from_toml() -> None:
    found = load(
        """
        [worker]
        processes = 4
        [profiles.fast]
        model = "openai/gpt-4o-mini"
        api_base = "http://127.0.0.1:9/v1"
        api_key_env = "MY_KEY"
        adapter = "json"
        temperature = 0
        max_tokens = 100
        [profiles.fast.params]
        top_p = 0.5
        """,
        MY_KEY="k",
    )
    assert list(found) == ["fast"]
    fast = found["fast"]
    assert (fast.model, fast.api_key, fast.adapter, fast.temperature, fast.max_tokens) == (
        "openai/gpt-4o-mini",
        "k",
        "json",
        0,
        100,
    )
    assert fast.params == {"top_p": 0.5}
    assert (fast.num_retries, fast.max_connections, fast.kind) == (1, 1000, "remote")
    assert (fast.max_throttle_wait_s, fast.adaptive, fast.circuit_failures, fast.circuit_open_s) == (30, True, 5, 5)


def test_the_environment_defines_default() -> None:
    found = load("", DSPYMQ_LM_MODEL="anthropic/x", ANTHROPIC_API_KEY="a", DSPYMQ_LM_API_BASE="http://h/v1")
    assert found["default"].api_key == "a"
    assert found["default"].api_base == "http://h/v1"


def test_the_environment_overrides_default_and_nothing_else() -> None:
    text = '[profiles.default]\nmodel = "openai/a"\napi_key_env = "NOT_SET"\n[profiles.b]\nmodel = "openai/b"'
    found = load(text, DSPYMQ_LM_MODEL="openai/c", DSPYMQ_LM_API_KEY="key")
    assert (found["default"].model, found["default"].api_key) == ("openai/c", "key")
    assert (found["b"].model, found["b"].api_key) == ("openai/b", None)


def test_a_key_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("from-file\n")
    found = load(f'[profiles.a]\nmodel = "openai/a"\napi_key_file = "{tmp_path}/key"')
    assert found["a"].api_key == "from-file"


def test_local_is_the_embedded_model() -> None:
    found = load('[profiles.local]\n[profiles.small]\nmodel = "local"\nmax_tokens = 50')
    assert found["local"] == local_profile()
    assert (found["small"].kind, found["small"].adapter, found["small"].max_tokens) == ("local", "local", 50)
    assert load("", DSPYMQ_LM_MODEL="local")["default"].kind == "local"


def test_the_key_is_never_shown() -> None:
    found = load('[profiles.a]\nmodel = "openai/a"\napi_key = "very-secret"')["a"]
    assert "very-secret" not in repr(found)
    assert "very-secret" not in f"{found}"
    assert msgspec.json.decode(msgspec.json.encode(found), type=LMProfile) == found


@pytest.mark.parametrize(
    ("text", "key", "fix"),
    [
        ('[profiles.a]\nmodel = "openai/a"\ntemprature = 1', "profiles.a.temprature", "temperature"),
        ("[profiles.a]\nmax_tokens = 5", "profiles.a.model", "provider/name"),
        ('[profiles.a]\nmodel = "openai/a"\nmax_tokens = "many"', "profiles.a.max_tokens", ""),
        ('[profiles.a]\nmodel = "openai/a"\nmax_tokens = 0', "profiles.a.max_tokens", "from 1"),
        ('[profiles.a]\nmodel = "openai/a"\nmax_throttle_wait_s = -1', "profiles.a.max_throttle_wait_s", "from 0"),
        ('[profiles.a]\nmodel = "openai/a"\ncircuit_failures = 2.5', "profiles.a.circuit_failures", ""),
        ('[profiles.a]\nmodel = "openai/a"\ncircuit_open_s = 0', "profiles.a.circuit_open_s", "from 0.01"),
        ('[profiles.a]\nmodel = "openai/a"\nadaptive = "no"', "profiles.a.adaptive", ""),
        ('[profiles.a]\nmodel = "openai/a"\ncircuit_failure = 3', "profiles.a.circuit_failure", "circuit_failures"),
        ('[profiles.a]\nmodel = "openai/a"\nadapter = "local"', "profiles.a.adapter", "chat or json"),
        ('[profiles.a]\nmodel = "openai/a"\nadapter = "xml"', "profiles.a.adapter", ""),
        ('[profiles.a]\nmodel = "openai/a"\napi_key_env = "NOPE"', "profiles.a.api_key_env", "export NOPE"),
        ('[profiles.a]\nmodel = "openai/a"\napi_key_file = "/does/not/exist"', "profiles.a.api_key_file", "check"),
        ('[profiles.a]\nmodel = "openai/a"\napi_key = "x"\napi_key_env = "Y"', "profiles.a.api_key_env", "keep one"),
        ('[profiles.local]\napi_base = "http://h"', "profiles.local.api_base", "remove"),
        ('[profiles.a]\nmodel = "openai/a"\n[profiles.a.params]\ntimeout = 5', "profiles.a.params.timeout", ""),
        ('profiles = "x"', "profiles", "[profiles.NAME]"),
    ],
)
def test_what_is_wrong_is_named_with_its_fix(text: str, key: str, fix: str) -> None:
    with pytest.raises(ProfileError) as caught:
        load(text)
    assert caught.value.key == key
    assert fix in caught.value.fix


def test_a_base_without_a_model_is_refused() -> None:
    with pytest.raises(ProfileError, match="DSPYMQ_LM_MODEL"):
        load("", DSPYMQ_LM_API_BASE="http://h/v1")
