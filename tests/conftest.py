"""Fixtures for every test."""

import os
import signal

from hypothesis import Phase, settings

from tests.lm.fixtures import scripted_lm

__all__ = ["scripted_lm"]

# A mutant (tests/mutants) needs to be found only; to shrink and explain what found it takes minutes.
_FIND: list[Phase] = [Phase.explicit, Phase.reuse, Phase.generate]
settings.register_profile("dspymq", phases=_FIND if "DSPYMQ_MUTANT" in os.environ else [*_FIND, Phase.shrink])
settings.load_profile("dspymq")

# A shell's background jobs ignore Ctrl-C, and so would every process that a test starts and interrupts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
