"""The broker's configuration: defaults, then a TOML file, then the environment, then arguments."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from dspymq.broker.core.settings import CoreSettings

DEFAULT_CLIENTS = "tcp://127.0.0.1:5570"
DEFAULT_WORKERS = "tcp://127.0.0.1:5571"


class ConfigError(Exception):
    """A configuration that cannot be used; the message names the key and the fix."""


class BrokerConfig(CoreSettings, frozen=True, kw_only=True):
    """Where a broker listens, and its settings. Addresses are ZeroMQ's; port `*` lets the system choose."""

    clients: str = DEFAULT_CLIENTS
    workers: str = DEFAULT_WORKERS
    insecure: bool = False
    """Listen beyond loopback although nobody is authenticated."""
    store: str = ""
    """A file in which defined programs and aliases outlive the broker; empty: they end with it."""
    health: str = ""
    """HOST:PORT where /livez and /readyz are answered over HTTP; empty: nowhere."""


def load_broker_config(path: Path | None, environ: Mapping[str, str], overrides: Mapping[str, Any]) -> BrokerConfig:
    """The configuration of `[broker]` in a TOML file, under DSPYMQ_BROKER_* variables, under explicit overrides.

    Overrides that are None do not count. Raises ConfigError.
    """
    values: dict[str, Any] = {}
    if path is not None:
        values.update(_read(path))
    for key in _KEYS:
        found = environ.get(f"DSPYMQ_BROKER_{key.upper()}")
        if found is not None:
            values[key] = found
    values.update({key: value for key, value in overrides.items() if value is not None})
    try:
        config = msgspec.convert(values, BrokerConfig, strict=False)
    except msgspec.ValidationError as error:
        raise ConfigError(f"broker configuration: {error}") from None
    _check_exposure(config)
    return config


_KEYS = [field.name for field in msgspec.structs.fields(BrokerConfig) if field.name != "limits"]


def _read(path: Path) -> dict[str, Any]:
    try:
        table = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}") from None
    values = table.get("broker", {})
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: `broker` must be a table")
    known = [*_KEYS, "limits"]
    for key in values:
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1)
            hint = f"; did you mean `{close[0]}`?" if close else f"; known are {', '.join(known)}"
            raise ConfigError(f"{path}: unknown key `broker.{key}`{hint}")
    return values


def _check_exposure(config: BrokerConfig) -> None:
    for address in (config.clients, config.workers):
        if "://" not in address:
            raise ConfigError(f"{address!r} is not an address: write it as tcp://HOST:PORT or ipc://PATH")
        if not config.insecure and not _is_local(address):
            raise ConfigError(
                f"{address} can be reached from other machines and nobody is authenticated yet: "
                "bind to 127.0.0.1, or say --insecure if the network itself is trusted"
            )


def _is_local(address: str) -> bool:
    scheme, _, rest = address.partition("://")
    if scheme in ("ipc", "inproc"):
        return True
    host = rest.rpartition(":")[0].strip("[]")
    return host == "localhost" or host == "::1" or host.startswith("127.")
