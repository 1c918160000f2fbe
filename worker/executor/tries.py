"""The tries of one LM call: when the next one goes out, and when there is none.

What a provider throttles waits for its turn and costs no retry; what fails is tried again after a pause, `retries`
times. Both are bounded: by the job's deadline, by the profile's `max_throttle_wait_s`, by MAX_RETRY_WAIT_S.
"""

import asyncio
import random
from typing import Final

from dspymq.worker.executor.gates import CircuitOpenError, Gate, Permit, ThrottledError, outcome_of, retry_after_s

MAX_RETRY_WAIT_S: Final = 30.0
"""A provider that asks for more after a failure is not waited for here."""

_FIRST_BACKOFF_S: Final = 0.5


class Tries:
    """For the loop's thread. Without a gate a throttle is a failure like others."""

    def __init__(self, gate: Gate | None, retries: int, deadline_s: float, loop: asyncio.AbstractEventLoop) -> None:
        """`deadline_s` is on the loop's clock."""
        self._gate = gate
        self._retries = retries
        self._deadline_s = deadline_s
        self._loop = loop
        self._failed = 0
        self._waited_s = 0.0
        self._ticket: int | None = None
        self._last: Exception | None = None
        """What ended the last try."""

    async def begin(self) -> Permit | None:
        """Wait until a try may go out.

        Raises what ended the last try if there is no other, CircuitOpenError or ThrottledError if there was none.
        """
        gate = self._gate
        if gate is None:
            return None
        throttled = outcome_of(self._last) == "throttled"
        permit = None if throttled else gate.enter()
        if permit is not None:
            return permit
        began_s = self._loop.time()
        try:
            permit = await gate.ask(
                wait_s=gate.max_wait_s - self._waited_s,
                left_s=self._deadline_s - began_s,
                retry=self._last is not None,
                ticket=self._ticket,
            )
        except (CircuitOpenError, ThrottledError) as refusal:
            if self._last is None:
                raise
            if throttled:
                _name_time(self._last, refusal)
            raise self._last from None
        finally:
            self._waited_s += self._loop.time() - began_s
        self._ticket = permit.ticket
        return permit

    def end(self, permit: Permit | None, error: BaseException | None) -> None:
        """The try has ended, well or with `error`."""
        if self._gate is not None and permit is not None:
            self._gate.leave(permit, error)

    async def again(self, error: Exception) -> None:
        """Whether to try again after this, and not at once: raises the error if not, returns when it is time."""
        self._last = error
        left_s = self._deadline_s - self._loop.time()
        if self._gate is not None and outcome_of(error) == "throttled":
            asked_s = retry_after_s(error) or 0.0
            if asked_s >= left_s or asked_s > self._gate.max_wait_s - self._waited_s:
                raise error
            return
        wait_s = _backoff_s(error, self._failed)
        if self._failed >= self._retries or wait_s >= left_s or wait_s > MAX_RETRY_WAIT_S:
            raise error
        self._failed += 1
        await asyncio.sleep(wait_s)


def _backoff_s(error: Exception, failed: int) -> float:
    asked_s = retry_after_s(error)
    return _FIRST_BACKOFF_S * 2.0**failed * random.uniform(1.0, 1.25) if asked_s is None else asked_s


def _name_time(error: Exception, refusal: Exception) -> None:
    """A provider that throttles without a word about when: the gate's word is better than none."""
    if retry_after_s(error) is None:
        error.retry_after = retry_after_s(refusal)  # type: ignore[attr-defined]
