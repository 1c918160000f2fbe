"""What the pool knows of its broker: whether they agree on what is held, and what the broker was told last.

After each welcome the pool reports all it holds in pages of `ready`; until the last page's `synced` nothing of a lease
is sent and no dispatch is taken (PROTOCOL section 4). Changes of what the pool offers are told at once while they are
few, and gathered when they are many.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from dspymq.protocol import body as bodies
from dspymq.protocol import worker_messages as w
from dspymq.protocol.codec import encode_header
from dspymq.protocol.limits import MAX_HELD
from dspymq.protocol.messages import Ping, Welcome
from dspymq.worker.supervisor.context import Context
from dspymq.worker.supervisor.executors import Crew
from dspymq.worker.supervisor.generations import Generation
from dspymq.worker.supervisor.leases import Lease
from dspymq.worker.supervisor.lm_gates import LMGates
from dspymq.worker.supervisor.problems import Problems

READY_BURST: Final = 4
READY_INTERVAL_MS: Final = 100
"""So many `ready` go out at once; after that one an interval, with the newest state."""

MAX_DESCRIPTION_BYTES: Final = 1024 * 1024


class LinkState:
    """The pool's side of one session after another."""

    def __init__(
        self, context: Context, crew: Crew, problems: Problems, gates: LMGates, leases: dict[str, Lease]
    ) -> None:
        self._context = context
        self._problems = problems
        self._crew = crew
        self._gates = gates
        self._leases = leases
        self.up = False
        self.synced = False
        self.congested = False
        self.programs: list[w.Offer] | None = None
        """None until an executor has loaded them: a pool that offers nothing yet says nothing yet."""
        self._profiles: list[str] = []
        self._descriptions: dict[str, Any] = {}
        self._to_report: list[str] = []
        self._more_follows = False
        """The page that is open only said why there is nothing to report yet."""
        self._page: list[str] | None = None
        self._tokens = READY_BURST
        self._refilled_ms = 0
        self._fences = 0
        self._confirmed = 0
        self._farewell = 0
        self._told_too_large = False

    @property
    def open(self) -> bool:
        """Whether messages of leases can be sent."""
        return self.synced

    @property
    def flowing(self) -> bool:
        """Whether chunks and progress can be sent, too."""
        return self.synced and not self.congested

    def offer(self, generation: Generation) -> None:
        """What the pool runs from now on; all executors of a generation run the same."""
        if generation.ready is not None:
            self.programs = generation.ready.programs
            self._profiles = generation.ready.profiles
            self._descriptions = generation.descriptions
            self._problems.set_programs(generation.problems)

    # -- sessions and held ------------------------------------------------------------------------------------------

    def session_up(self, welcome: Welcome) -> None:
        """A session began."""
        self._context.limits = welcome.limits
        self.session_down()
        self.up = True
        self._problems.changed = bool(self._problems)

    def session_down(self) -> None:
        """The session is over."""
        self.up = False
        self.distrust()

    def distrust(self) -> None:
        """Whatever was agreed no longer counts: nothing is sent or taken before the next sync."""
        self.synced = False
        self.congested = False
        self._page = None
        self._to_report = []
        self._farewell = 0

    def report_if_due(self) -> None:
        """Begin to report what is held, once there is a session and something to offer."""
        if self.up and not self.synced and self._page is None and self.programs is not None:
            self._to_report = list(self._leases)
            for lease in self._leases.values():
                lease.reported = False
            self._send_page()
        elif self.up and self.programs is None and self._page is None and self._problems.changed:
            # Nothing to offer, and a reason that operators must see: a page that says that more follows shows it, and
            # lets nobody conclude that these programs do not exist (SPEC ).
            self._problems.changed = False
            self._page = []
            self._more_follows = True
            self._context.to_broker(self._ready(held=[], more=True), self._body())

    def page_synced(self, keep: Iterable[str]) -> list[Lease] | None:
        """The broker answered a page. Returns the leases of it that are to be dropped, None if no page is open."""
        if self._page is None:
            return None
        kept = frozenset(keep)
        page = self._page
        self._page = None
        dropped = [self._leases[lease] for lease in page if lease in self._leases and lease not in kept]
        if self._to_report:
            self._send_page()
        elif self._more_follows:
            self.report_if_due()
        else:
            self.synced = True
        return dropped

    def _send_page(self) -> None:
        context = self._context
        header = self._ready(held=[])
        room = context.limits.max_header_bytes - len(encode_header(header)) - 64
        page: list[w.Held] = []
        while self._to_report and len(page) < MAX_HELD:
            lease = self._leases.get(self._to_report[0])
            if lease is None or lease.dropped or lease.never_began:
                self._to_report.pop(0)
                continue
            room -= lease.held_bytes()
            if room < 0 and page:
                break
            page.append(lease.held(context.now_ms))
            lease.reported = True
            self._to_report.pop(0)
        self._page = [held.lease for held in page]
        self._more_follows = False
        self._crew.changed = self._problems.changed = self._gates.changed = False
        context.to_broker(self._ready(held=page, more=bool(self._to_report)), self._body())

    # -- what the pool offers ---------------------------------------------------------------------------------------

    def tell_changes(self) -> None:
        """Send `ready` if the crew has changed, now or as soon as the last ones are long enough ago."""
        if not (self._crew.changed or self._problems.changed or self._gates.changed) or not self.synced:
            return
        now_ms = self._context.now_ms
        refill = (now_ms - self._refilled_ms) // READY_INTERVAL_MS
        if refill > 0:
            self._tokens = min(READY_BURST, self._tokens + refill)
            self._refilled_ms = now_ms
        if self._tokens <= 0:
            self._context.alarm.set(self._refilled_ms + READY_INTERVAL_MS)
            return
        self._tokens -= 1
        self._crew.changed = self._problems.changed = self._gates.changed = False
        self._context.to_broker(self._ready(held=None), self._body())

    def _ready(self, held: list[w.Held] | None, *, more: bool = False) -> w.Ready:
        slots = self._crew.slots()
        if self._context.closing:
            slots = dict.fromkeys(slots, 0)
        return w.Ready(
            worker=self._context.settings.worker,
            slots=slots,
            programs=self.programs or [],
            profiles=self._profiles,
            held=held,
            more=more,
        )

    def _body(self) -> bytes:
        offset = self._context.settings.wall_offset_ms
        executors = [executor.describe(offset) for executor in self._crew.executors.values()]
        executors += self._problems.rows() + self._gates.rows()
        body = bodies.encode(**{**self._descriptions, "executors": executors})
        if len(body) <= MAX_DESCRIPTION_BYTES:
            return body
        if not self._told_too_large:
            self._told_too_large = True
            self._context.warning(f"pool.descriptions_too_large bytes={len(body)} limit={MAX_DESCRIPTION_BYTES}")
        return bodies.encode(executors=executors)

    def may_leave(self) -> bool:
        """Whether no dispatch can be on its way any more: the broker has heard that there are no slots."""
        if not self.synced:
            return self._page is None
        if not self._farewell:
            self._crew.changed = self._problems.changed = self._gates.changed = False
            self._context.to_broker(self._ready(held=None), self._body())
            self.send_fence()
            self._farewell = self._fences
        return self._confirmed >= self._farewell

    # -- released, which nobody acknowledges ------------------------------------------------------------------------

    def fence(self) -> int:
        """A number for messages sent now: a pong with it, or a later one, proves that the broker heard them."""
        return self._fences + 1

    def confirmed(self, fence: int) -> None:
        """The broker has heard all that was sent before this ping."""
        self._confirmed = max(self._confirmed, fence)

    def is_confirmed(self, fence: int) -> bool:
        """Whether the broker is known to have heard what was sent before this ping."""
        return 0 < fence <= self._confirmed

    @property
    def told(self) -> bool:
        """Whether the broker was sent what the pool is now."""
        return self.synced and not self._crew.changed

    def send_fence(self) -> None:
        """Ask for that pong."""
        self._fences += 1
        self._context.to_broker(Ping(n=self._fences))
