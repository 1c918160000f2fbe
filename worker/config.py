"""The settings of a worker pool: from a TOML file, the environment, and whoever starts it, each over the one before.

No dspy import: the supervisor and the CLI read this.
"""

import difflib
import os
import re
import socket
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec

from dspymq.worker.profiles import DEFAULT, LMProfile, ProfileError, load_profiles

DEFAULT_BROKER: Final = "tcp://127.0.0.1:5571"
MAX_DEFAULT_PROCESSES: Final = 4
ENVIRONMENT_PREFIX: Final = "DSPYMQ_WORKER_"

_TABLES: Final = ("worker", "profiles", "broker", "client")
"""Tables that one file may hold for all of dspymq; only the first two are read here."""

_ADDRESS: Final = re.compile(r"tcp://(\[[0-9A-Fa-f:.]+\]|[^\s:/]+):\d{1,5}|ipc://\S+")


class ConfigError(ValueError):
    """A setting that cannot be used. `key` is where it stands (a TOML key or a variable), `fix` what to do."""

    def __init__(self, key: str, problem: str, fix: str) -> None:
        super().__init__(f"{key}: {problem}; {fix}")
        self.key = key
        self.problem = problem
        self.fix = fix


def available_cpus() -> int:
    """The CPUs that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1


def default_processes() -> int:
    """One executor a CPU, at most MAX_DEFAULT_PROCESSES: LM programs wait more than they compute."""
    return min(available_cpus(), MAX_DEFAULT_PROCESSES)


def default_name() -> str:
    """The host and the process, for people."""
    host = re.sub(r"[^!-~]", "", socket.gethostname()) or "worker"
    return f"{host[:40]}-{os.getpid()}"


LaneName = Annotated[str, msgspec.Meta(pattern=r"^(?!_|default$)[!-~]{1,64}\Z")]
"""A lane beside `default`; those that begin with `_` are reserved (SPEC section 14)."""


class WorkerConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One pool. Times are in milliseconds.

    `brokers` is ordered failover. `targets` are MODULE or MODULE:NAME, found from `cwd` and `paths`. `processes`
    executors take `concurrency` jobs each, and of further `lanes` so many more (`{"batch": 1}`). `start_method`:
    forkserver imports the programs once; spawn once an executor. `grace_ms` bounds a drain; `cancel_grace_ms` is
    what a job may take after its deadline before its process is at stake; after `stall_ms` of silence, against a
    beat every `beat_ms`, an executor gets no jobs. `default_profile` names the profile of jobs that name none. With
    `reload` the programs are imported anew when their files change. An executor is replaced, without anybody
    missing it, when it has ended `max_jobs_per_executor` jobs, is `max_age_ms` old, or has more than
    `max_rss_bytes` in RAM; one over `kill_rss_bytes` (twice `max_rss_bytes` if only that is given) is killed. Sizes
    may be written as 512M or 2G. At `health`, HOST:PORT, /livez and /readyz are answered.
    """

    brokers: Annotated[list[str], msgspec.Meta(min_length=1)] = msgspec.field(default_factory=lambda: [DEFAULT_BROKER])
    targets: list[str] = []
    paths: list[str] = []
    cwd: str | None = None
    processes: Annotated[int, msgspec.Meta(ge=1, le=256)] = msgspec.field(default_factory=default_processes)
    concurrency: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 8
    lanes: dict[LaneName, Annotated[int, msgspec.Meta(ge=1, le=10_000)]] = {}
    start_method: Literal["forkserver", "spawn"] = "forkserver"
    name: Annotated[str, msgspec.Meta(pattern=r"^[ -~]{1,48}\Z")] = msgspec.field(default_factory=default_name)
    grace_ms: Annotated[int, msgspec.Meta(ge=0, le=86_400_000)] = 10_000
    cancel_grace_ms: Annotated[int, msgspec.Meta(ge=100, le=3_600_000)] = 5_000
    stall_ms: Annotated[int, msgspec.Meta(ge=500, le=3_600_000)] = 5_000
    beat_ms: Annotated[int, msgspec.Meta(ge=50, le=60_000)] = 500
    start_timeout_ms: Annotated[int, msgspec.Meta(ge=1_000, le=3_600_000)] = 60_000
    max_body_bytes: Annotated[int, msgspec.Meta(ge=1_024, le=128 * 1024 * 1024)] = 16 * 1024 * 1024
    health: str = ""
    reload: bool = False
    max_jobs_per_executor: Annotated[int, msgspec.Meta(ge=1)] | None = None
    max_age_ms: Annotated[int, msgspec.Meta(ge=1_000)] | None = None
    max_rss_bytes: Annotated[int, msgspec.Meta(ge=1024 * 1024)] | None = None
    kill_rss_bytes: Annotated[int, msgspec.Meta(ge=1024 * 1024)] | None = None
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    default_profile: str | None = None
    profiles: dict[str, LMProfile] = {}

    def executor_profiles(self) -> list[LMProfile]:
        """The profiles as executors get them: the default one stands under that name, too."""
        profiles = dict(self.profiles)
        if self.default_profile is not None:
            profiles[DEFAULT] = msgspec.structs.replace(profiles[self.default_profile], name=DEFAULT)
        return list(profiles.values())


_KEYS: Final = tuple(name for name in WorkerConfig.__struct_fields__ if name != "profiles")
_LISTS: Final = ("brokers", "targets", "paths", "lanes")


def load_worker_config(
    path: str | Path | None = None,
    environ: Mapping[str, str] | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> WorkerConfig:
    """The settings of `[worker]` and `[profiles.*]` in a TOML file, then DSPYMQ_WORKER_* variables, then `overrides`.

    A variable is named after its key (DSPYMQ_WORKER_PROCESSES=2); lists are separated by commas. Overrides that are
    None do not count. `environ` is the process's own when left out. Profiles also come from DSPYMQ_LM_* (see
    dspymq.worker.profiles).

    Raises ConfigError, which names the key and the fix.
    """
    environ = os.environ if environ is None else environ
    document = _read(path)
    settings = _from_document(document)
    places = {key: f"worker.{key}" for key in settings}
    for key, variable, value in _from_environment(environ):
        settings[key] = value
        places[key] = variable
    for key, value in (overrides or {}).items():
        if value is not None:
            _known(key, key, _KEYS)
            settings[key] = value
            places[key] = key
    for key, value in settings.items():
        settings[key] = _converted(key, value, places[key])
    try:
        settings["profiles"] = load_profiles(document, environ)
    except ProfileError as error:
        raise ConfigError(error.key, error.problem, error.fix) from None
    config = WorkerConfig(**settings)
    _check(config, places)
    return config


def _read(path: str | Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        text = Path(path).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(str(path), f"cannot be read ({error})", "check the path and its rights") from None
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(str(path), f"is not valid TOML ({error})", "mend the file") from None


def _from_document(document: dict[str, Any]) -> dict[str, Any]:
    for table in document:
        _known(table, table, _TABLES)
    table = document.get("worker", {})
    if not isinstance(table, dict):
        raise ConfigError("worker", "must be a table", "write [worker] and its keys below it")
    for key in table:
        _known(key, f"worker.{key}", _KEYS)
    return dict(table)


def _from_environment(environ: Mapping[str, str]) -> list[tuple[str, str, Any]]:
    found: list[tuple[str, str, Any]] = []
    for variable in sorted(environ):
        if not variable.startswith(ENVIRONMENT_PREFIX):
            continue
        key = variable.removeprefix(ENVIRONMENT_PREFIX).lower()
        if key not in _KEYS:
            close = difflib.get_close_matches(key, _KEYS, n=1)
            names = [f"{ENVIRONMENT_PREFIX}{name.upper()}" for name in (close or _KEYS)]
            fix = f"did you mean {names[0]}?" if close else f"known variables: {', '.join(names)}"
            raise ConfigError(variable, "is not known", fix)
        text = environ[variable]
        value: Any = [part.strip() for part in text.split(",") if part.strip()] if key in _LISTS else text
        found.append((key, variable, value))
    return found


def _known(key: str, place: str, known: tuple[str, ...]) -> None:
    if key not in known:
        close = difflib.get_close_matches(key, known, n=1)
        fix = f"did you mean {close[0]}?" if close else f"known here: {', '.join(known)}"
        raise ConfigError(place, "is not known", fix)


_FIELDS: Final = {field.encode_name: field for field in msgspec.structs.fields(WorkerConfig)}


def _converted(key: str, value: Any, place: str) -> Any:
    if isinstance(value, str) and key in _LISTS:
        value = [value]
    if key == "lanes" and isinstance(value, list):
        value = _lanes(value, place)
    # Variables are text; a TOML string is never a number.
    strict = not place.startswith(ENVIRONMENT_PREFIX)
    if key == "log_level" and isinstance(value, str):
        value = value.upper()
    if key.endswith("_bytes") and isinstance(value, str):
        value = size_bytes(value)
    try:
        return msgspec.convert(value, _FIELDS[key].type, strict=strict)
    except msgspec.ValidationError as error:
        problem = str(error).split(" - at ")[0]
        raise ConfigError(place, f"is {value!r}: {problem}", "set it to a value of that kind") from None


def _lanes(texts: list[str], place: str) -> dict[str, int]:
    found = {}
    for text in texts:
        name, _, slots = text.rpartition("=")
        if not name or not slots.isdecimal():
            raise ConfigError(place, f"{text!r} is no lane", "write NAME=SLOTS, such as batch=1")
        found[name] = int(slots)
    return found


def size_bytes(text: str) -> int | str:
    """`512M` as a number of bytes (K, M, G are powers of 1024); text that is no size as it is."""
    match = _SIZE.fullmatch(text.strip())
    return int(float(match[1]) * _UNITS[match[2].upper()]) if match else text


_SIZE: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGkmg]?)(?:i?[Bb])?")
_UNITS: Final = {"": 1, "K": 1024, "M": 1024**2, "G": 1024**3}


def _check(config: WorkerConfig, places: Mapping[str, str]) -> None:
    for address in config.brokers:
        if not _ADDRESS.fullmatch(address):
            fix = f"write tcp://HOST:PORT, such as {DEFAULT_BROKER}"
            raise ConfigError(places.get("brokers", "brokers"), f"{address!r} is no address", fix)
    if config.beat_ms * 3 > config.stall_ms:
        place = places.get("stall_ms") or places.get("beat_ms") or "stall_ms"
        raise ConfigError(place, f"is {config.stall_ms} for a beat of {config.beat_ms} ms", "use 3 beats at least")
    soft, hard = config.max_rss_bytes, config.kill_rss_bytes
    if soft is not None and hard is not None and hard < soft:
        place = places.get("kill_rss_bytes", "kill_rss_bytes")
        raise ConfigError(place, f"is {hard}, less than max_rss_bytes, {soft}", "make it larger, or leave it out")
    name = config.default_profile
    if name is not None and name not in config.profiles:
        close = difflib.get_close_matches(name, list(config.profiles), n=1)
        fix = f"did you mean {close[0]}?" if close else f"write [profiles.{name}]"
        raise ConfigError(places.get("default_profile", "default_profile"), f"there is no profile {name!r}", fix)
