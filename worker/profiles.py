"""LM profiles: which model, endpoint and parameters a worker's jobs may name. Keys stay with the worker.

Read from TOML (`[profiles.NAME]`) and the environment; no dspy import, so the supervisor and the CLI may read them.
"""

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

DEFAULT: Final = "default"
"""The profile of a job that names none."""

LOCAL: Final = "local"
"""The name, and the model, of the embedded model."""

Adapter = Literal["chat", "json", "local"]


class ProfileError(ValueError):
    """A profile that cannot be used. `key` is where it stands (`profiles.NAME.KEY` or a variable), `fix` what to do."""

    def __init__(self, key: str, problem: str, fix: str) -> None:
        super().__init__(f"{key}: {problem}; {fix}")
        self.key = key
        self.problem = problem
        self.fix = fix


class LMProfile(msgspec.Struct, frozen=True, kw_only=True):
    """One language model as a worker's operator configured it.

    `model` is DSPy's form, `provider/name`. `adapter` None leaves the choice to the program (DSPy's ChatAdapter if it
    makes none). `read_timeout_s` bounds the silence between two reads of an answer, not the call. `params` go to
    dspy.LM as they are (top_p, seed, ...). `api_key` is never shown by repr.

    All executors of a pool share what follows. A call that the provider throttles (429) is made again within
    `max_throttle_wait_s`, which counts all its waiting; `adaptive` finds out how many calls at once it takes. After
    `circuit_failures` failures of the provider in a row (0: never) calls are refused for `circuit_open_s`, then one is
    tried; each that fails doubles the time, up to a minute.
    """

    name: str
    model: str
    api_base: str | None = None
    api_key: str | None = None
    adapter: Adapter | None = None
    temperature: float | None = None
    max_tokens: int | None = None
    num_retries: int = 1
    read_timeout_s: float = 120.0
    max_connections: int = 1000
    max_throttle_wait_s: float = 30.0
    adaptive: bool = True
    circuit_failures: int = 5
    circuit_open_s: float = 5.0
    params: dict[str, Any] = {}
    kind: Literal["remote", "local"] = "remote"

    def __repr__(self) -> str:
        shown = {
            field: "'***'" if field == "api_key" and self.api_key else repr(getattr(self, field))
            for field in self.__struct_fields__
        }
        return f"LMProfile({', '.join(f'{field}={value}' for field, value in shown.items())})"


PROVIDER_KEYS: Final[dict[str, tuple[str, ...]]] = {
    "anthropic": ("ANTHROPIC_API_KEY",),
    "azure": ("AZURE_API_KEY", "AZURE_OPENAI_API_KEY"),
    "deepseek": ("DEEPSEEK_API_KEY",),
    "gemini": ("GEMINI_API_KEY", "GOOGLE_API_KEY"),
    "groq": ("GROQ_API_KEY",),
    "mistral": ("MISTRAL_API_KEY",),
    "moonshot": ("MOONSHOT_API_KEY",),
    "ollama_chat": ("OLLAMA_API_KEY",),
    "openai": ("OPENAI_API_KEY",),
    "openrouter": ("OPENROUTER_API_KEY",),
    "together_ai": ("TOGETHERAI_API_KEY", "TOGETHER_API_KEY"),
    "xai": ("XAI_API_KEY",),
}
"""The variables that each provider's key usually stands in, by model prefix."""

_KEYS: Final = (
    "model",
    "api_base",
    "api_key",
    "api_key_env",
    "api_key_file",
    "adapter",
    "temperature",
    "max_tokens",
    "num_retries",
    "read_timeout_s",
    "max_connections",
    "max_throttle_wait_s",
    "adaptive",
    "circuit_failures",
    "circuit_open_s",
    "params",
)
_NO_PARAMS: Final = ("async_engine", "base_url", "cache", "engine", "headers", "model_type", "n", "timeout")
_KEY_SOURCES: Final = ("api_key", "api_key_env", "api_key_file")


def local_profile(name: str = LOCAL, **settings: Any) -> LMProfile:
    """The profile of the embedded model; `settings` are LMProfile fields such as max_tokens."""
    return LMProfile(name=name, model=LOCAL, kind="local", adapter="local", **settings)


def load_profiles(toml_table: Mapping[str, Any], environ: Mapping[str, str]) -> dict[str, LMProfile]:
    """The profiles of a parsed TOML document (its `profiles` table; other tables are ignored) and the environment.

    DSPYMQ_LM_MODEL, DSPYMQ_LM_API_BASE and DSPYMQ_LM_API_KEY define the profile `default`, or override it where the
    document has one. A profile without a key takes its provider's usual variable (PROVIDER_KEYS). The profile named
    `local`, and any whose model is `local`, is the embedded model.

    Raises ProfileError, which names the key and the fix.
    """
    tables = toml_table.get("profiles", {})
    if not isinstance(tables, Mapping):
        raise ProfileError("profiles", "must be a table", "write one [profiles.NAME] table for each profile")
    merged: dict[str, dict[str, Any]] = {}
    for name, table in tables.items():
        if not isinstance(table, Mapping):
            raise ProfileError(f"profiles.{name}", "must be a table", f"write [profiles.{name}] with at least model =")
        merged[name] = dict(table)
    _apply_environment(merged, environ)
    return {name: _profile(name, table, environ) for name, table in merged.items()}


def _apply_environment(tables: dict[str, dict[str, Any]], environ: Mapping[str, str]) -> None:
    model = environ.get("DSPYMQ_LM_MODEL")
    base = environ.get("DSPYMQ_LM_API_BASE")
    key = environ.get("DSPYMQ_LM_API_KEY")
    if not model and DEFAULT not in tables:
        for variable, value in (("DSPYMQ_LM_API_BASE", base), ("DSPYMQ_LM_API_KEY", key)):
            if value:
                fix = "set DSPYMQ_LM_MODEL too, such as openai/gpt-4o-mini"
                raise ProfileError(variable, "is set but no model is", fix)
        return
    table = tables.setdefault(DEFAULT, {})
    if model:
        table["model"] = model
    if base:
        table["api_base"] = base
    if key:
        for source in _KEY_SOURCES:
            table.pop(source, None)
        table["api_key"] = key


def _profile(name: str, table: dict[str, Any], environ: Mapping[str, str]) -> LMProfile:
    where = f"profiles.{name}"
    if not (isinstance(name, str) and 1 <= len(name) <= 64 and name.isascii() and name.isprintable()):
        raise ProfileError(where, "is not a usable name", "use 1 to 64 printable ASCII characters")
    for key in table:
        if key not in _KEYS:
            close = difflib.get_close_matches(key, _KEYS, n=1)
            fix = f"did you mean {close[0]}?" if close else f"known keys: {', '.join(_KEYS)}"
            raise ProfileError(f"{where}.{key}", "is not known", fix)
    is_local = name == LOCAL or table.get("model") == LOCAL
    if is_local:
        return _local(name, where, table)
    settings = {key: value for key, value in table.items() if key not in _KEY_SOURCES}
    model = settings.get("model")
    if not isinstance(model, str) or not model or model.endswith("/"):
        fix = 'set it to provider/name, such as model = "openai/gpt-4o-mini"'
        raise ProfileError(f"{where}.model", "is missing or not a model name", fix)
    settings["api_key"] = _api_key(where, table, model, environ)
    return _checked(name, where, settings)


def _local(name: str, where: str, table: dict[str, Any]) -> LMProfile:
    for key in ("api_base", *_KEY_SOURCES):
        if key in table:
            raise ProfileError(f"{where}.{key}", "has no meaning for the embedded model", "remove it")
    if table.get("model", LOCAL) != LOCAL:
        fix = "give the profile another name, or remove model"
        raise ProfileError(f"{where}.model", f"the profile named `{LOCAL}` is the embedded model", fix)
    if table.get("adapter", "local") != "local":
        raise ProfileError(f"{where}.adapter", "the embedded model has an adapter of its own", "remove it")
    return _checked(name, where, {**table, "model": LOCAL, "adapter": "local", "kind": "local"})


def _checked(name: str, where: str, settings: dict[str, Any]) -> LMProfile:
    if settings.get("adapter") == "local" and settings.get("kind") != "local":
        raise ProfileError(f"{where}.adapter", "`local` is for the embedded model only", "use chat or json")
    for key, value in settings.items():
        try:
            msgspec.convert({"name": name, "model": "m", key: value}, LMProfile)
        except msgspec.ValidationError as error:
            problem = str(error).split(" - at ")[0]
            raise ProfileError(f"{where}.{key}", problem, f"see LMProfile.{key} in the documentation") from None
    profile = msgspec.convert({**settings, "name": name}, LMProfile)
    _bound(where, "num_retries", profile.num_retries, 0, 10)
    _bound(where, "max_connections", profile.max_connections, 1, 100_000)
    _bound(where, "read_timeout_s", profile.read_timeout_s, 0.001, 86_400)
    _bound(where, "max_throttle_wait_s", profile.max_throttle_wait_s, 0, 86_400)
    _bound(where, "circuit_failures", profile.circuit_failures, 0, 100_000)
    _bound(where, "circuit_open_s", profile.circuit_open_s, 0.01, 86_400)
    if profile.max_tokens is not None:
        _bound(where, "max_tokens", profile.max_tokens, 1, 10_000_000)
    if profile.temperature is not None:
        _bound(where, "temperature", profile.temperature, 0, 10)
    for key in profile.params:
        if key in _KEYS or key in _NO_PARAMS:
            raise ProfileError(f"{where}.params.{key}", "cannot be set here", "see the profile's own keys")
    return profile


def _bound(where: str, key: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ProfileError(f"{where}.{key}", f"is {value}", f"use a value from {low} to {high}")


def _api_key(where: str, table: dict[str, Any], model: str, environ: Mapping[str, str]) -> str | None:
    given = [source for source in _KEY_SOURCES if source in table]
    if len(given) > 1:
        raise ProfileError(f"{where}.{given[1]}", f"stands beside {given[0]}", "keep one of them")
    if not given:
        variables = PROVIDER_KEYS.get(model.partition("/")[0] if "/" in model else "openai", ())
        return next((environ[variable] for variable in variables if environ.get(variable)), None)
    source, value = given[0], table[given[0]]
    if not isinstance(value, str) or not value:
        raise ProfileError(f"{where}.{source}", "must be a string", "set it or remove it")
    if source == "api_key":
        return value
    if source == "api_key_env":
        if not environ.get(value):
            raise ProfileError(f"{where}.api_key_env", f"the variable {value} is not set", f"export {value}")
        return environ[value]
    try:
        text = Path(value).expanduser().read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ProfileError(f"{where}.api_key_file", f"cannot read {value} ({error})", "check path and rights") from None
    if not text:
        raise ProfileError(f"{where}.api_key_file", f"{value} is empty", "write the key into it")
    return text
