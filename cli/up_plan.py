"""What `dspymq up` is going to start, and what it has started."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dspymq.broker.config import DEFAULT_CLIENTS, DEFAULT_WORKERS, load_broker_config
from dspymq.cli.addresses import free_or_any
from dspymq.cli.up_lm import LmChoice, choose_lm
from dspymq.worker.config import WorkerConfig, load_worker_config


@dataclasses.dataclass(frozen=True, kw_only=True)
class UpRequest:
    """What to start: addresses to bind, the pool's settings, the LM, and what children get."""

    clients: str
    workers: str
    are_ports_taken: bool
    pool: WorkerConfig
    lm: LmChoice
    config_path: Path | None
    log_level: str
    environ: Mapping[str, str]

    @classmethod
    def from_options(
        cls,
        *,
        targets: tuple[str, ...],
        processes: int | None,
        concurrency: int | None,
        reload: bool | None = None,
        clients: str | None,
        workers: str | None,
        config_path: Path | None,
        log_level: str,
        environ: Mapping[str, str],
    ) -> UpRequest:
        """Check everything before anything is started. Raises the ConfigErrors of broker and worker."""
        broker = load_broker_config(config_path, environ, {"clients": clients, "workers": workers})
        pool = load_worker_config(
            config_path,
            environ,
            {"targets": list(targets) or None, "processes": processes, "concurrency": concurrency, "reload": reload},
        )
        # An address that somebody chose is used or refused; only the defaults give way.
        clients_address = free_or_any(broker.clients) if broker.clients == DEFAULT_CLIENTS else broker.clients
        workers_address = free_or_any(broker.workers) if broker.workers == DEFAULT_WORKERS else broker.workers
        return cls(
            clients=clients_address,
            workers=workers_address,
            are_ports_taken=(clients_address, workers_address) != (broker.clients, broker.workers),
            pool=pool,
            lm=choose_lm(pool),
            config_path=config_path,
            log_level=log_level,
            environ=environ,
        )

    def broker_arguments(self) -> list[str]:
        """The command line of the broker."""
        return ["broker", "--clients", self.clients, "--workers", self.workers, "--json", *self._common()]

    def worker_arguments(self, workers_address: str) -> list[str]:
        """The command line of the pool."""
        pool = self.pool
        numbers = ["--processes", str(pool.processes), "--concurrency", str(pool.concurrency)]
        reload = ["--reload"] if pool.reload else []
        named = ["--name", pool.name, *numbers, *reload]
        return ["worker", *pool.targets, "--broker", workers_address, *named, *self._common()]

    def _common(self) -> list[str]:
        config = [] if self.config_path is None else ["--config", str(self.config_path)]
        return [*config, "--log-level", self.log_level]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Started:
    """Where it is reached, the pool as the broker sees it, and the programs with their fields."""

    clients: str
    workers: str
    pool: Mapping[str, Any]
    programs: Sequence[Mapping[str, Any]]
