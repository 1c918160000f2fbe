"""File descriptors: whether there are enough for what is begun, before a part of it fails."""

import os
from typing import Final

ENOUGH: Final = 24
"""More than a ZeroMQ context with a socket takes, or the start of a process."""


def check_files(count: int = ENOUGH) -> None:
    """Raises OSError (EMFILE, ENFILE) unless this process can open so many files now.

    Some libraries take it badly when they cannot: libzmq ends the process, and a fork server whose client fails in the
    middle of an order ends, and its children with it.
    """
    taken: list[int] = []
    try:
        while len(taken) < count:
            taken.append(os.open(os.devnull, os.O_RDONLY))
    finally:
        for fd in taken:
            os.close(fd)
