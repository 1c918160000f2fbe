"""The numbers of a broker that its operator may choose."""

import msgspec

from dspymq.protocol.limits import Count, Limits, Positive


class CoreSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Times in milliseconds, sizes in bytes; what peers must know of them is announced in `welcome`."""

    client_ping_ms: Positive = 10_000
    worker_ping_ms: Positive = 1_000
    adopt_ms: Count = 5_000
    orphan_ms: Count = 60_000
    retain_ms: Count = 600_000
    retain_bytes: Count = 512 * 1024 * 1024
    tombstones: Count = 50_000
    grace_ms: Count = 5_000
    """How long a cancelled or expired attempt may take to report its usage."""
    max_attempts: Positive = 3
    max_refunds: Count = 4
    """Refunds of one job that are free; later ones are charged as attempts."""
    max_convictions: Positive = 2
    circuit_failures: Count = 20
    """Failures of a program's own, with no success between, after which it is not run for a while; 0: never."""
    circuit_open_ms: Positive = 5_000
    """For how long at first."""
    max_definitions: Count = 1_000
    """Programs that clients have defined, all revisions counted; 0: nobody may define any."""
    max_definition_bytes: Count = 64 * 1024 * 1024
    """Of all their specs."""
    queue_retry_ms: Count = 1_000
    """`retry_after_ms` when a bound on queued jobs is reached."""
    limits: Limits = Limits()

    @property
    def client_dead_ms(self) -> int:
        """Silence of a client that ends its session."""
        return 3 * self.client_ping_ms

    @property
    def worker_dead_ms(self) -> int:
        """Silence of a worker that ends its session."""
        return 3 * self.worker_ping_ms
