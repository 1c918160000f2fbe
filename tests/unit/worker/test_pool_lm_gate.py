"""Gates of LM profiles in the pool's core: what executors, the broker, the log and probes are told."""

from __future__ import annotations

from typing import Any

import msgspec

from dspymq.protocol import body
from dspymq.protocol import worker_messages as w
from dspymq.protocol.messages import Error, Reply, Request
from dspymq.worker import gate_messages as g
from dspymq.worker.profiles import LMProfile
from dspymq.worker.supervisor import effects as ef
from dspymq.worker.supervisor.lm_gate_steps import GateSettings
from dspymq.worker.supervisor.lm_gates import gate_settings
from tests.unit.worker.pool_rig import Rig

ONE, TWO = "pool/1", "pool/2"


def rig_with(**profiles: GateSettings) -> Rig:
    return Rig(lm_gates=profiles or {"default": GateSettings()}).running()


def report(rig: Rig, outcome: Any, executor: str = ONE, profile: str = "default", **more: Any) -> list[ef.Effect]:
    said = g.Report(profile=profile, outcome=outcome, **{"free": 0, "serial": 0, "why": "ServerError 503", **more})
    return rig.executor(executor, Request(rid="x1", method=g.REPORT), g.written(said))


def ask(rig: Rig, rid: str, executor: str = ONE, profile: str = "default", **more: Any) -> list[ef.Effect]:
    said = g.Ask(profile=profile, **{"wait_ms": 30_000, "left_ms": 30_000, **more})
    return rig.executor(executor, Request(rid=rid, method=g.ASK), g.written(said))


def news(rig: Rig) -> list[tuple[str, g.News]]:
    """What executors were told by the last event."""
    return [
        (effect.executor, g.read(effect.body, g.News))
        for effect in rig.effects
        if isinstance(effect, ef.ToExecutor) and isinstance(effect.message, Request)
    ]


def opened(rig: Rig, profile: str = "default") -> None:
    for _ in range(5):
        report(rig, "failed", profile=profile)


def test_an_open_circuit_is_told_to_executors_broker_and_log_once() -> None:
    rig = rig_with()
    opened(rig)
    assert [(executor, one.mode) for executor, one in news(rig)] == [(ONE, "ask"), (TWO, "ask")]
    assert len(rig.sent(w.Ready)) == 1
    row = rig.shown()["lm default"]
    assert (row["pid"], row["state"], row["slots"]) == (None, "open", {})
    assert row["lm"] == {
        "profile": "default",
        "state": "open",
        "limit": 0,
        "in_flight": 0,
        "waiting": 0,
        "failures": 5,
        "retry_after_ms": 5_000,
    }
    assert "the last time with ServerError 503" in row["problem"]
    for _ in range(20):
        ask(rig, "x2")
        assert rig.sent(w.Ready) == []
        assert [m.reason for _, m in rig.told(Error)] == ["lm_circuit_open"]
    assert [line for line in rig.logs() if "lm_circuit" in line] == [
        "event=lm_circuit_open profile=default failures=5 why='ServerError 503' retry_after_ms=5000"
    ]


def test_a_circuit_that_closes_is_shown_no_more() -> None:
    rig = rig_with()
    opened(rig)
    rig.wait(5_000, beating=(ONE, TWO))
    ask(rig, "x2", executor=TWO)
    assert [executor for executor, _ in rig.told(Reply)] == [TWO]
    report(rig, "ok", executor=TWO, grant="x2", serial=1)
    assert [(executor, one.mode) for executor, one in news(rig)] == [(ONE, "free"), (TWO, "free")]
    assert "lm default" not in rig.shown()


def test_an_executor_that_starts_is_told_and_one_that_dies_gives_back() -> None:
    rig = rig_with()
    report(rig, "throttled", free=1)
    report(rig, "census", free=0)
    report(rig, "census", executor=TWO, free=0)
    ask(rig, "x2")
    assert len(rig.told(Reply)) == 1
    ask(rig, "x3", executor=TWO)
    assert rig.told(Reply) == []
    rig.gone(ONE)
    assert [(executor, message.rid) for executor, message in rig.told(Reply)] == [(TWO, "x3")]
    rig.wait(1_000, beating=(TWO,))
    rig.ready("pool/3")
    assert [one.mode for _, one in news(rig)] == ["ask"]


def test_one_that_stands_still_holds_up_nobody() -> None:
    rig = rig_with()
    report(rig, "throttled", free=1)
    report(rig, "census", free=0)
    ask(rig, "x2")
    ask(rig, "x3", executor=TWO)
    assert rig.told(Reply) == []
    rig.wait(6_000, beating=(TWO,))
    assert [(executor, message.rid) for executor, message in rig.told(Reply)] == [(TWO, "x3")]


def test_pauses_end_by_the_pools_own_alarm() -> None:
    rig = rig_with()
    report(rig, "throttled", retry_after_ms=2_000)
    ask(rig, "x2")
    assert rig.told(Reply) == []
    rig.wait(2_300, beating=(ONE, TWO), step_ms=10_000)
    assert [message.rid for _, message in rig.told(Reply)] == ["x2"]


def test_the_pool_is_ready_unless_every_profile_is_refused() -> None:
    rig = rig_with(default=GateSettings(), other=GateSettings())
    opened(rig)
    assert rig.core.not_ready() is None
    opened(rig, profile="other")
    assert rig.core.not_ready() == "the circuit of every LM profile is open"
    rig.wait(5_000, beating=(ONE, TWO))
    assert rig.core.not_ready() is None, "a call would be tried"
    assert Rig().running().core.not_ready() is None, "programs without profiles need none"


def test_what_nobody_understands_is_said_and_harms_nobody() -> None:
    rig = rig_with()
    for payload in (b"", b"\xc1", body.encode(params={"profile": 5})):
        rig.executor(ONE, Request(rid="x1", method=g.ASK), payload)
    assert sum("executor.bad_request" in line for line in rig.logs()) == 3
    rig.executor(ONE, Request(rid="x1", method="lm_gate.other"))
    assert [message.reason for _, message in rig.told(Error)] == ["unknown_method"]


def test_a_gates_settings_are_its_profiles() -> None:
    profile = LMProfile(name="a", model="m", circuit_failures=3, circuit_open_s=1.5, adaptive=False)
    assert gate_settings([profile]) == {"a": GateSettings(circuit_failures=3, circuit_open_ms=1_500, adaptive=False)}
    assert msgspec.structs.asdict(gate_settings([LMProfile(name="b", model="m")])["b"]) == {
        "circuit_failures": 5,
        "circuit_open_ms": 5_000,
        "adaptive": True,
    }
