"""Fixtures for every test."""

import signal

from tests.lm.fixtures import scripted_lm

__all__ = ["scripted_lm"]

# A shell's background jobs ignore Ctrl-C, and so would every process that a test starts and interrupts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
