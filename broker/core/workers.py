"""The workers of a broker: what each offers, the slots it grants, and the leases it has.

A Worker outlives its session: it is known by the `worker` name of its `ready`, unique per start of a supervisor, and
its leases stay its own while it reconnects. The broker never exceeds the slots that a worker grants in a lane.
"""

from __future__ import annotations

import difflib
from collections import OrderedDict
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

from dspymq.broker.core.definitions import ALIAS_MARK, Definition, Definitions, split_alias
from dspymq.broker.core.job import Lease
from dspymq.broker.core.scheduler import Need, NeedQueue, Scheduler

if TYPE_CHECKING:
    from dspymq.broker.core.sessions import WorkerSession
    from dspymq.protocol import worker_messages as w


MAX_UNSETTLED_BYTES: Final = 512 * 1024 * 1024

INLINE: Final = "_inline"
"""What a worker offers that takes programs as data."""

MAX_DESCRIPTION_BYTES: Final = 1024 * 1024
"""The body of a `ready`, and what is said of a program that is defined."""

MAX_REMEMBERED: Final = 5_000
"""Programs, by revision, that were offered once and are not any more."""

MAX_AFFINITIES: Final = 10_000
"""Affinity keys that are remembered, the latest used."""


class Worker:
    """One pool, by the name in its `ready`."""

    __slots__ = (
        "description",
        "draining",
        "features",
        "generation",
        "leases",
        "lost_at_ms",
        "name",
        "open",
        "profiles",
        "programs",
        "reported",
        "served",
        "session",
        "slots",
        "synced",
        "unsettled_bytes",
        "used",
    )

    def __init__(self, name: str) -> None:
        self.name = name
        self.unsettled_bytes = 0
        """Bodies of its leases: whatever slots it claims, not many more than MAX_UNSETTLED_BYTES wait for its word."""
        self.session: WorkerSession | None = None
        self.generation = 0
        """Counts its `ready` messages: a job that it gave back avoids it until the next one."""
        self.slots: dict[str, int] = {}
        self.used: dict[str, int] = {}
        self.programs: dict[str, set[str]] = {}
        self.profiles: frozenset[str] = frozenset()
        self.features: frozenset[str] = frozenset()
        self.description: dict[str, Any] = {}
        self.leases: dict[str, Lease] = {}
        self.open: dict[NeedQueue, None] = {}
        """Queues with jobs that this worker may run."""
        self.synced = False
        self.reported: set[str] = set()
        """Leases named in the pages of `held` that came so far."""
        self.draining = False
        self.lost_at_ms = 0
        """While it has no session: when it counts as lost."""
        self.served = 0

    def free(self, lane: str) -> int:
        """Slots of the lane that can be given out now."""
        if not self.synced or self.draining or self.unsettled_bytes > MAX_UNSETTLED_BYTES:
            return 0
        return self.slots.get(lane, 0) - self.used.get(lane, 0)

    @property
    def serves(self) -> bool:
        """Whether it can be given jobs, now or as soon as a slot comes free."""
        return self.synced and not self.draining and bool(self.programs) and any(self.slots.values())

    @property
    def takes_specs(self) -> bool:
        """Whether it runs programs that are data."""
        return INLINE in self.programs

    def load(self, lane: str) -> float:
        """The used share of a lane's slots."""
        slots = self.slots.get(lane, 0)
        return self.used.get(lane, 0) / slots if slots else 1.0

    def add(self, lease: Lease) -> None:
        """A lease takes a slot."""
        self.leases[lease.lease] = lease
        self.used[lease.lane] = self.used.get(lease.lane, 0) + 1
        self.unsettled_bytes += lease.size

    def remove(self, lease: Lease) -> None:
        """A lease gives its slot back."""
        del self.leases[lease.lease]
        self.used[lease.lane] -= 1
        self.unsettled_bytes -= lease.size


class Catalog:
    """Programs and their revisions, in the order in which this broker first saw them.

    Of those that nobody offers any more the newest MAX_REMEMBERED are remembered.
    """

    def __init__(self) -> None:
        self._seen: dict[str, dict[str, int]] = {}
        self._count = 0
        self._pairs = 0
        self._prune_at = 2 * MAX_REMEMBERED

    def note(self, program: str, revision: str) -> None:
        """A worker offers this; coming back does not make it newer."""
        revisions = self._seen.setdefault(program, {})
        if revision not in revisions:
            self._count += 1
            self._pairs += 1
            revisions[revision] = self._count

    def prune(self, workers: Iterable[Worker], definitions: Iterable[Definition] = ()) -> None:
        """Forget the oldest that are not defined and that no worker offers, now and then, if there are too many."""
        if self._pairs < self._prune_at:
            return
        offered = {
            (name, revision) for worker in workers for name, all_ in worker.programs.items() for revision in all_
        }
        offered.update((one.name, one.revision) for one in definitions)
        seen = [(count, name, revision) for name, all_ in self._seen.items() for revision, count in all_.items()]
        idle = sorted((one for one in seen if one[1:] not in offered), reverse=True)
        for _, name, revision in idle[MAX_REMEMBERED:]:
            del self._seen[name][revision]
            if not self._seen[name]:
                del self._seen[name]
        self._pairs = sum(map(len, self._seen.values()))
        self._prune_at = self._pairs + MAX_REMEMBERED

    def __contains__(self, program: str) -> bool:
        return program in self._seen

    @property
    def programs(self) -> list[str]:
        """Every program that was ever offered, by name."""
        return sorted(self._seen)

    def newest(self, program: str, among: set[str]) -> str | None:
        """Of these revisions the one first seen last."""
        seen = self._seen.get(program, {})
        return max((r for r in among if r in seen), key=seen.__getitem__, default=None)

    def close_matches(self, program: str) -> list[str]:
        """Names that somebody who wrote `program` may have meant."""
        return difflib.get_close_matches(program, list(self._seen), n=3, cutoff=0.6)


class Fleet:
    """All workers; finds those that meet a need, and the one to take next."""

    def __init__(self, scheduler: Scheduler, definitions: Definitions) -> None:
        self.definitions = definitions
        self.workers: dict[str, Worker] = {}
        self.catalog = Catalog()
        for one in definitions.all:
            self.catalog.note(one.name, one.revision)
        self._scheduler = scheduler
        self._services = 0
        self._affinities: OrderedDict[str, str] = OrderedDict()
        self._offered: dict[str, tuple[set[str], str | None]] = {}
        """By program: the revisions that are offered now, and the newest of them."""

    @property
    def serves(self) -> bool:
        """Whether any worker can be given jobs, however busy it is."""
        return any(worker.serves for worker in self.workers.values())

    def revision_for(self, need: Need) -> str | None:
        """The revision that a job with this need runs at now, or None while no worker here offers one.

        Its own when it is pinned; that of an earlier attempt while a worker has it; else the newest that is offered.
        """
        if need.revision is not None:
            return need.revision
        found = self._offered.get(need.program)
        if found is None:
            name, alias = split_alias(need.program)
            offered: set[str] = set()
            for worker in self.workers.values():
                offered |= self.revisions_at(worker, name)
            newest = self.catalog.newest(name, offered) if alias is None else self.definitions.aliased(need.program)
            found = self._offered[need.program] = (offered, newest)
        offered, newest = found
        return need.prefer if need.prefer in offered else newest

    def revisions_at(self, worker: Worker, name: str) -> set[str]:
        """What this worker can run of a program: what it offers itself, and what is defined if it takes specs."""
        own = worker.programs.get(name, set())
        return own.union(self.definitions.revisions(name)) if worker.takes_specs else own

    def is_defined(self, worker: Worker, name: str, revision: str) -> bool:
        """Whether the worker has to be told what this program is: it does not offer it itself."""
        return revision not in worker.programs.get(name, ())

    def revisions(self, name: str) -> set[str]:
        """All of a program that are defined, or that a worker offers now."""
        found = set(self.definitions.revisions(name))
        return found.union(*(worker.programs.get(name, ()) for worker in self.workers.values()))

    def programs_changed(self) -> None:
        """Definitions or aliases are others than before."""
        self._match_all()

    def offer(self, worker: Worker, ready: w.Ready) -> bool:
        """The worker's slots, programs and profiles are these now.

        True if other workers may have become the right ones for jobs that wait (a newer revision has come or gone).
        """
        programs: dict[str, set[str]] = {}
        for program in ready.programs:
            programs.setdefault(program.name, set()).add(program.revision)
            self.catalog.note(program.name, program.revision)
        worker.generation += 1
        worker.slots = dict(ready.slots)
        same_programs = programs == worker.programs
        worker.programs = programs
        self.catalog.prune(self.workers.values(), self.definitions.all)
        worker.profiles = frozenset(ready.profiles)
        if same_programs:
            self._match(worker)
        else:
            self._match_all()
        return not same_programs

    def remove(self, worker: Worker) -> None:
        """The worker is gone for good."""
        del self.workers[worker.name]
        self._match_all()
        for queue in self._scheduler.needs.values():
            queue.workers.pop(worker.name, None)

    def fits(self, worker: Worker, need: Need) -> bool:
        """Whether this worker offers all that the need asks for, free slots aside."""
        name, _ = split_alias(need.program)
        if need.lane not in worker.slots or self.revision_for(need) not in self.revisions_at(worker, name):
            return False
        if need.profile is not None and need.profile not in worker.profiles:
            return False
        return need.features <= worker.features and (worker.name, worker.generation) not in need.avoid

    def still_avoided(self, avoid: frozenset[tuple[str, int]]) -> frozenset[tuple[str, int]]:
        """Those that have not said `ready` since."""
        return frozenset(
            pair for pair in avoid if pair[0] in self.workers and self.workers[pair[0]].generation == pair[1]
        )

    def is_unknown(self, program: str) -> bool:
        """Whether nobody has ever offered or defined it, although a worker is there that could have."""
        name, alias = split_alias(program)
        is_known = name in self.catalog if alias is None else self.definitions.aliased(program) is not None
        return not is_known and any(worker.synced for worker in self.workers.values())

    def close_matches(self, program: str) -> list[str]:
        """What somebody who wrote this may have meant: other names, or other aliases of it."""
        name, alias = split_alias(program)
        if alias is None or name not in self.catalog:
            return self.catalog.close_matches(name)
        aliases = self.definitions.aliases(name)
        close = difflib.get_close_matches(alias, aliases, n=3) or list(aliases)[:3]
        return [f"{name}{ALIAS_MARK}{one}" for one in close]

    def attach_workers(self, queue: NeedQueue) -> None:
        """Find the workers of a new queue."""
        queue.workers = {worker.name: worker for worker in self.workers.values() if self.fits(worker, queue.need)}

    def choose(self, queue: NeedQueue, affinity: str | None) -> Worker | None:
        """A worker with a free slot: the one this affinity was at before, else the least loaded."""
        if affinity is not None:
            worker = queue.workers.get(self._affinities.get(affinity, ""))
            if worker is not None and worker.free(queue.need.lane) > 0:
                return worker
        return self._least_loaded(queue)

    def _least_loaded(self, queue: NeedQueue) -> Worker | None:
        """The worker that uses the smallest share of its lane; ties by rotation."""
        lane = queue.need.lane
        free = [worker for worker in queue.workers.values() if worker.free(lane) > 0]
        if len(free) > 1:
            return min(free, key=lambda worker: (worker.load(lane), worker.served))
        return free[0] if free else None

    def took(self, worker: Worker, affinity: str | None) -> None:
        """The worker was given a job: it is last in the rotation now, and this affinity's."""
        self._services += 1
        worker.served = self._services
        if affinity is not None:
            self._affinities[affinity] = worker.name
            self._affinities.move_to_end(affinity)
            if len(self._affinities) > MAX_AFFINITIES:
                self._affinities.popitem(last=False)

    def missing(self, need: Need) -> list[str]:
        """What keeps the job from running here: `program`, or what the worker that fits best does not offer."""
        name = split_alias(need.program)[0]
        able = [worker for worker in self.workers.values() if self.revisions_at(worker, name)]
        return min((self._lacks(worker, need) for worker in able), key=len, default=["program"])

    def _lacks(self, worker: Worker, need: Need) -> list[str]:
        name, alias = split_alias(need.program)
        pinned = need.revision if alias is None else self.revision_for(need)
        offers = {
            "revision": (pinned is None and alias is None) or pinned in self.revisions_at(worker, name),
            "profile": need.profile is None or need.profile in worker.profiles,
            "lane": worker.slots.get(need.lane, 0) > 0,
            "features": need.features <= worker.features,
        }
        return [what for what, there in offers.items() if not there]

    def _match_all(self) -> None:
        self._offered.clear()
        for worker in self.workers.values():
            self._match(worker)

    def _match(self, worker: Worker) -> None:
        worker.open = {}
        for need, queue in self._scheduler.needs.items():
            if self.fits(worker, need):
                queue.workers[worker.name] = worker
                if queue.count:
                    worker.open[queue] = None
            else:
                queue.workers.pop(worker.name, None)
