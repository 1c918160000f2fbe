"""The scripted LM as a program: `python -m tests.lm.server --port 0`.

Prints its URL and serves until SIGINT, SIGTERM or, with `--until-eof`, the end of its standard input.
GET /stats, POST /script and POST /release (JSON: the arguments of ScriptedLM's methods) steer it.
"""

from __future__ import annotations

import argparse
import signal
import sys
import threading

from .scripted import ScriptedLM


def main() -> None:
    """Run one until told to stop; prints the URL on a line of its own."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--port", type=int, default=0, help="0: the OS chooses")
    parser.add_argument("--until-eof", action="store_true", help="end when standard input ends")
    args = parser.parse_args()
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    with ScriptedLM(args.port) as lm:
        print(lm.url, flush=True)
        if args.until_eof:
            threading.Thread(target=_set_at_eof, args=(stop,), daemon=True).start()
        stop.wait()


def _set_at_eof(stop: threading.Event) -> None:
    sys.stdin.buffer.read()
    stop.set()


if __name__ == "__main__":
    main()
