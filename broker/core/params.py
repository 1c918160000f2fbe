"""The params of a request, read with an error that names the field."""

from __future__ import annotations

from typing import Any

from dspymq.broker.core.sessions import Session
from dspymq.protocol.errors import ProtocolError
from dspymq.protocol.ids import MAX_ID_CHARS
from dspymq.protocol.limits import MAX_COUNT


class Params:
    """The params, and the session that asks."""

    def __init__(self, values: dict[str, Any], session: Session, rid: str = "") -> None:
        self._values = values
        self.session = session
        self.rid = rid

    def has(self, name: str) -> bool:
        """Whether it is there, if only as nil."""
        return name in self._values

    def flag(self, name: str) -> bool:
        """A boolean, false when it is left out. Raises ProtocolError `invalid_params`."""
        value = self._values.get(name, False)
        if not isinstance(value, bool):
            raise ProtocolError("invalid_params", f"params.{name} must be a boolean")
        return value

    def map(self, name: str) -> dict[str, Any]:
        """A map that must be there. Raises ProtocolError `invalid_params`."""
        value = self._values.get(name)
        if not isinstance(value, dict):
            raise ProtocolError("invalid_params", f"params.{name} must be a map")
        return value

    def text(self, name: str) -> str:
        """A string that must be there. Raises ProtocolError `invalid_params`."""
        value = self._values.get(name)
        if not isinstance(value, str) or not value:
            raise ProtocolError("invalid_params", f"params.{name} must be a string")
        return value

    def optional_text(self, name: str) -> str | None:
        """A string, or None when it is left out. Raises ProtocolError `invalid_params`."""
        return None if self._values.get(name) is None else self.text(name)

    def optional_id(self, name: str) -> str | None:
        """An id, or None when it is left out. Raises ProtocolError `invalid_params`."""
        value = self.optional_text(name)
        if value is not None and not (len(value) <= MAX_ID_CHARS and value.isascii() and value.isprintable()):
            message = f"params.{name} must have 1 to {MAX_ID_CHARS} printable ASCII characters"
            raise ProtocolError("invalid_params", message)
        return value

    def count(self, name: str, default: int) -> int:
        """A whole number of at least 0 (a whole float will do). Raises ProtocolError `invalid_params`."""
        value = self._values.get(name, default)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MAX_COUNT:
            raise ProtocolError("invalid_params", f"params.{name} must be a whole number from 0 to {MAX_COUNT}")
        return value

    def texts(self, name: str) -> list[str]:
        """A list of strings, empty when it is left out. Raises ProtocolError `invalid_params`."""
        value = self._values.get(name) or []
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise ProtocolError("invalid_params", f"params.{name} must be a list of strings")
        return value
