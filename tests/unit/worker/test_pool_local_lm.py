"""The keeper of the embedded LM: one start for all who ask, another after a failure."""

import asyncio
import sys
from types import ModuleType

import pytest

from dspymq.worker.supervisor.local_lm import LocalLmKeeper


class PlayedLM:
    """Stands for dspymq.worker.local.process.LocalLM."""

    starts = 0
    stops = 0
    problem: Exception | None = None

    async def start(self) -> str:
        type(self).starts += 1
        await asyncio.sleep(0)
        if self.problem is not None:
            raise self.problem
        return f"http://127.0.0.1:{self.starts}"

    async def stop(self) -> None:
        type(self).stops += 1


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> type[PlayedLM]:
    kind = type("Played", (PlayedLM,), {})
    module = ModuleType("dspymq.worker.local.process")
    module.LocalLM = kind  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "dspymq.worker.local.process", module)
    return kind


def test_all_who_ask_share_one_start(played: type[PlayedLM]) -> None:
    async def ask() -> None:
        keeper = LocalLmKeeper()
        assert set(await asyncio.gather(*(keeper.url() for _ in range(5)))) == {"http://127.0.0.1:1"}
        assert await keeper.url() == "http://127.0.0.1:1"
        assert await keeper.url(again=True) == "http://127.0.0.1:2"
        await keeper.stop()
        assert played.stops == 1

    asyncio.run(ask())


def test_a_failed_start_is_told_and_tried_again_by_the_next(played: type[PlayedLM]) -> None:
    async def ask() -> None:
        keeper = LocalLmKeeper()
        played.problem = RuntimeError("not installed")
        with pytest.raises(RuntimeError, match="not installed"):
            await keeper.url()
        played.problem = None
        assert await keeper.url() == "http://127.0.0.1:2"
        await keeper.stop()

    asyncio.run(ask())


def test_a_pool_that_never_asked_stops_nothing(played: type[PlayedLM]) -> None:
    asyncio.run(LocalLmKeeper().stop())
    assert played.starts == played.stops == 0
