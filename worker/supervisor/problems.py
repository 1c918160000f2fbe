"""What is wrong with a pool, for its operator: said once in the log, and shown for as long as it lasts."""

from __future__ import annotations

from typing import Any, Final

from dspymq.worker.supervisor.context import Context

START: Final = "start"
"""Executors end before they are ready."""
RELOAD: Final = "reload"
"""A new version of the programs cannot be used; the old one serves."""

MAX_SHOWN: Final = 50
MAX_CHARS: Final = 2_000
MAX_SAID: Final = 20


class Problems:
    """By what has them: `start`, `reload`, or a target or program that is not offered."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._texts: dict[str, tuple[str, str, int]] = {}
        """State, text, and since when."""
        self._said: dict[str, list[str]] = {}
        """What the log has heard since it was well last: causes may take turns."""
        self.changed = False

    def __len__(self) -> int:
        return len(self._texts)

    def set(self, key: str, state: str, text: str) -> None:
        """This is wrong now. The log hears of it unless it is what was wrong before."""
        text = text[:MAX_CHARS]
        known = self._texts.get(key)
        if known is not None and known[:2] == (state, text):
            return
        self._texts[key] = (state, text, self._context.now_ms)
        self.changed = True
        said = self._said.setdefault(key, [])
        if text not in said:
            del said[:-MAX_SAID]
            said.append(text)
            self._context.error(f"pool.problem what={key} state={state} text={text!r}")

    def clear(self, key: str) -> None:
        """It is wrong no more."""
        if self._texts.pop(key, None) is not None:
            self._said.pop(key, None)
            self.changed = True
            self._context.info(f"pool.problem_over what={key}")

    def set_programs(self, problems: dict[str, str]) -> None:
        """These programs, and no others, are not offered."""
        for key in [key for key in self._texts if key not in (START, RELOAD) and key not in problems]:
            self.clear(key)
        for key, text in problems.items():
            self.set(key, "not offered", text)

    def rows(self) -> list[dict[str, Any]]:
        """Entries of `executors` in the body of `ready` (SPEC section 11.6): no process, but a `problem`."""
        offset = self._context.settings.wall_offset_ms
        return [
            {"id": key, "pid": None, "state": state, "slots": {}, "in_flight": 0, "started_at_ms": since + offset,
             "problem": text}
            for key, (state, text, since) in list(self._texts.items())[:MAX_SHOWN]
        ]  # fmt: skip
