"""Close matches for what somebody mistyped."""

import difflib
from collections.abc import Iterable, Sequence


def close_to(word: str, known: Iterable[str], at_most: int = 3) -> list[str]:
    """Names that look like this one, the closest first."""
    return difflib.get_close_matches(word, list(known), n=at_most, cutoff=0.6)


def did_you_mean(matches: Sequence[str]) -> str:
    """`; did you mean X or Y?`, or nothing."""
    return f"; did you mean {' or '.join(matches)}?" if matches else ""
