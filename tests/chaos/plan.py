"""What is done to the system, and what is asked of it: all of it from one seed, before anything is started."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Collection, Iterator, Sequence
from typing import Final

from tests.chaos.kinds import KINDS, Job

POOLS: Final = ("one", "two")

SHORT_S: Final = (0.2, 0.8)
"""Shorter than anybody's patience."""
LONG_S: Final = (3.0, 4.5)
"""Past the death of a worker (tests.chaos.system: 2.1 s) and the stall of an executor (1.5 s)."""
AWAY_S: Final = (5.0, 6.0)
"""Past the death of a client (4.5 s), and before its jobs are given up (20 s later)."""
AT_ONCE: Final = (0.0, 0.0)
PAUSE_S: Final = (0.2, 1.6)
"""Between two faults of one hand."""


@dataclasses.dataclass(frozen=True)
class Fault:
    """`kind` is done to `target` for `lasts_s`, after a pause. `pick` in [0, 1) chooses among its processes."""

    hand: str
    kind: str
    target: str
    pick: float
    lasts_s: float
    pause_s: float

    def __str__(self) -> str:
        lasts = f" for {self.lasts_s:.1f} s" if self.lasts_s else ""
        return f"{self.kind} {self.target}{lasts}"


SERVERS: Final = {
    "kill_executor": (3, AT_ONCE),
    "freeze_executor": (1, SHORT_S),
    "stall_executor": (1, LONG_S),
    "kill_fork_server": (1, AT_ONCE),
    "kill_pool": (1, SHORT_S),
    "stop_pool": (1, AT_ONCE),
    "freeze_pool": (1, SHORT_S),
    "lose_pool": (1, LONG_S),
    "drain": (1, LONG_S),
    "rolling_restart": (1, AT_ONCE),
    "reload": (1, AT_ONCE),
    "cut_pool": (1, SHORT_S),
    "cut_off_pool": (1, LONG_S),
    "reset_pool": (1, AT_ONCE),
    "kill_broker": (2, SHORT_S),
    "stop_broker": (1, AT_ONCE),
    "freeze_broker": (1, SHORT_S),
    "stall_broker": (1, LONG_S),
    "kill_broker_and_pool": (1, SHORT_S),
}
"""How often each fault of broker and pools is in a deck, and how long it lasts."""

CLIENTS: Final = {
    "kill_client": (3, SHORT_S),
    "freeze_client": (1, SHORT_S),
    "lose_client": (1, AWAY_S),
    "cut_clients": (1, SHORT_S),
    "cut_off_clients": (1, AWAY_S),
    "reset_clients": (2, AT_ONCE),
}

ONLY_BEHIND_LINE: Final = "two"
"""The pool whose connection goes through a line that can be broken."""


def jobs(seed: int, client: str, can: Collection[str]) -> Iterator[Job]:
    """All that this client ever asks for, without end; it does what `can` says besides calling."""
    dice = random.Random(f"{seed} jobs of {client}")
    kinds = {name: kind for name, kind in KINDS.items() if kind.needs <= set(can)}
    deck: list[str] = []
    number = 0
    while True:
        if not deck:
            deck = [name for name, kind in kinds.items() for _ in range(kind.weight)]
            dice.shuffle(deck)
        yield kinds[deck.pop()].make(dice, f"{client}-{number}")
        number += 1


def faults(seed: int, minutes: float, clients: Sequence[str]) -> dict[str, list[Fault]]:
    """Two hands do one fault after the other: one to broker and pools, one to clients and their connections."""
    found = {}
    for hand, kinds, targets in (("servers", SERVERS, POOLS), ("clients", CLIENTS, clients)):
        dice = random.Random(f"{seed} faults of {hand}")
        found[hand] = list(_faults(dice, hand, kinds, targets, minutes * 60))
    return found


def _faults(
    dice: random.Random,
    hand: str,
    kinds: dict[str, tuple[int, tuple[float, float]]],
    targets: Sequence[str],
    left_s: float,
) -> Iterator[Fault]:
    deck: list[str] = []
    while left_s > 0:
        if not deck:
            deck = [kind for kind, (weight, _) in kinds.items() for _ in range(weight)]
            dice.shuffle(deck)
        kind = deck.pop()
        target = dice.choice(targets)
        if kind.endswith(("_broker", "_clients")):
            target = kind.rpartition("_")[2]
        elif kind in ("cut_pool", "cut_off_pool", "reset_pool"):
            target = ONLY_BEHIND_LINE
        fault = Fault(hand, kind, target, dice.random(), dice.uniform(*kinds[kind][1]), dice.uniform(*PAUSE_S))
        left_s -= fault.lasts_s + fault.pause_s
        yield fault
