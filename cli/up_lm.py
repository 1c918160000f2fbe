"""Which language model `dspymq up` runs on, and what to say about it. Pure, but for the look at what is installed."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Final

from dspymq.worker.config import WorkerConfig
from dspymq.worker.profiles import DEFAULT

REAL_MODEL: Final = "DSPYMQ_LM_MODEL=openai/gpt-4o-mini OPENAI_API_KEY=... dspymq up"


EMBEDDED: Final = "the embedded SmolLM2-135M, for trying things out"


@dataclasses.dataclass(frozen=True)
class LmChoice:
    """The model's title, what the pool's environment gets for it, and a hint for people, if one is due."""

    title: str
    environ: Mapping[str, str] = dataclasses.field(default_factory=dict)
    hint: str | None = None


def choose_lm(pool: WorkerConfig, *, is_installed: bool | None = None) -> LmChoice:
    """The pool's own default profile; the embedded model where no profile is configured at all.

    `is_installed` says whether the embedded one can be used; None looks.
    """
    default = pool.default_profile or (DEFAULT if DEFAULT in pool.profiles else None)
    if default is None and pool.profiles:
        names = ", ".join(pool.profiles)
        return LmChoice("none by default", hint=f"calls choose one with --profile: {names}")
    if default is not None and pool.profiles[default].kind != "local":
        return LmChoice(f"{pool.profiles[default].model} (profile {default})")
    if is_installed is None:
        from dspymq.cli.local import is_local_installed

        is_installed = is_local_installed()
    environ = {} if default is not None else {"DSPYMQ_LM_MODEL": "local"}
    if not is_installed:
        return LmChoice(
            "none", environ, f"fetch the small embedded one: dspymq local install; or name one: {REAL_MODEL}"
        )
    return LmChoice(EMBEDDED, environ, f"a real one: {REAL_MODEL}")
