"""What is not installed: its tests skip with the reason, or fail where every toolchain has to be there (CI)."""

from __future__ import annotations

import os

import pytest

REQUIRED = "DSPYMQ_REQUIRE_TOOLCHAINS"
NO_ELIXIR = "Elixir is not installed: `apt-get install elixir` (mix is not on the PATH)"


def require(found: bool, what: str) -> None:
    """Skip, or fail, unless it is there. Also outside of a test: then all of the module is skipped."""
    if found:
        return
    if os.environ.get(REQUIRED):
        pytest.fail(what)
    pytest.skip(what, allow_module_level=True)
