"""Minutes of mixed load under faults of all kinds, from clients in all languages; repeatable by its seed.

    python -m tests.chaos [--seed N] [--minutes M] [--json FILE] [-v]

Exit code 1 if anything is wrong; then what happened is in build/chaos/SEED.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.chaos.run import Report, Run, repeat
from tests.processes import ROOT

SHOWN = 20


def main() -> int:
    """Run once, and print what there is to say."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description="Mixed load under faults of all kinds.")
    parser.add_argument("--seed", type=int, help="the same seed plans the same faults and jobs; default: a new one")
    parser.add_argument("--minutes", type=float, default=2.0, help="of the storm; default 2")
    parser.add_argument("--languages", default="", help="only clients in these, such as python,ruby")
    parser.add_argument("--json", type=Path, help="write the report there")
    parser.add_argument("--keep", action="store_true", help="keep what happened also if nothing is wrong")
    parser.add_argument("-v", "--verbose", action="store_true", help="say each fault as it is done")
    args = parser.parse_args()
    seed = random.SystemRandom().randrange(1_000_000) if args.seed is None else args.seed
    print(f"seed {seed}: {repeat(seed, args.minutes)}", flush=True)
    say = (lambda text: print(text, flush=True)) if args.verbose else (lambda text: None)
    languages = [name for name in args.languages.split(",") if name]
    report, kept = run(seed, args.minutes, say, languages, keep=args.keep)
    show(report.figures)
    if args.json:
        args.json.write_text(json.dumps(report.as_json(), indent=1) + "\n")
    if kept is not None:
        print(f"what happened is in {kept}")
    for problem in report.problems[:SHOWN]:
        print(f"WRONG  {problem}")
    if report.problems:
        print(f"{len(report.problems)} problems; again: {repeat(seed, args.minutes)}")
    return int(bool(report.problems))


def run(
    seed: int, minutes: float, say: Callable[[str], None], languages: Sequence[str] = (), *, keep: bool = False
) -> tuple[Report, Path | None]:
    """One run, and the folder that has what happened, if something is wrong or `keep` is set."""
    kept = ROOT / "build" / "chaos" / str(seed)
    # Not far below the root: names of sockets are short.
    with tempfile.TemporaryDirectory(prefix="dspymq-chaos-") as out:
        report = Run(seed, minutes, Path(out), say, languages).run()
        if not report.problems and not keep:
            return report, None
        shutil.rmtree(kept, ignore_errors=True)
        shutil.copytree(out, kept, ignore=shutil.ignore_patterns("build", "tmp"))
    return report, kept


def show(figures: dict[str, Any]) -> None:
    """The figures, one a line."""
    for name, value in figures.items():
        print(f"{name:26} {value}")


if __name__ == "__main__":
    sys.exit(main())
