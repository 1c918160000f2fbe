"""Frames to messages and back (SPEC section 2): `[b"DJP1", header]` or `[b"DJP1", header, body]`.

Pure. Whatever bytes arrive, `Codec.decode` returns a message or raises ProtocolError, and nothing else.
"""

from collections.abc import Sequence
from typing import Any, Final, Generic, TypeVar

import msgspec

from dspymq.protocol import client_messages, profile, worker_messages
from dspymq.protocol.errors import ProtocolError
from dspymq.protocol.limits import Limits
from dspymq.protocol.messages import Header

TAG: Final = b"DJP1"
VERSIONS: Final = ["DJP1"]

_encoder = msgspec.msgpack.Encoder()
_FREE_FORM: Final = ("details",)
"""Fields that may hold anything: a header that has one is always checked against the profile."""

M = TypeVar("M", client_messages.Message, worker_messages.Message)


class _Salvage(msgspec.Struct):
    """What can still be read of a refused header, so that the answer finds the call it belongs to."""

    t: Any = None
    rid: Any = None
    job: Any = None
    lease: Any = None


_salvager = msgspec.msgpack.Decoder(_Salvage)


def encode(message: Header, body: bytes = b"") -> list[bytes]:
    """The frames of a message. An empty body is left out.

    Raises ProtocolError `bad_header` when free-form details break the header profile (bytes, NaN, depth).
    """
    header = encode_header(message)
    return [TAG, header, body] if body else [TAG, header]


def encode_header(message: Header) -> bytes:
    """The header frame alone; see `encode`."""
    try:
        header = _encoder.encode(message)
    except (TypeError, ValueError, RecursionError, OverflowError) as error:
        raise ProtocolError("bad_header", f"the header cannot be written: {error}") from None
    if _has_free_form(message):
        profile.check(header)
    return header


class Codec(Generic[M]):
    """Decodes the messages of one endpoint, within its limits."""

    def __init__(self, union: Any, tags: frozenset[str], other_tags: frozenset[str], limits: Limits) -> None:
        self._decoder: msgspec.msgpack.Decoder[M] = msgspec.msgpack.Decoder(union)
        self._tags = tags
        self._other_tags = other_tags
        self._limits = limits

    def decode(self, frames: Sequence[bytes]) -> tuple[M, bytes]:
        """The message and the body (empty when there is none) of the frames after any routing envelope.

        Raises ProtocolError with the reason bad_frames, unsupported_version, header_too_large, bad_header,
        unknown_type, wrong_endpoint or body_too_large.
        """
        if not 2 <= len(frames) <= 3 or frames[0] != TAG:
            raise _bad_frames(frames)
        header = frames[1]
        body = frames[2] if len(frames) == 3 else b""
        if len(header) > self._limits.max_header_bytes:
            limit = self._limits.max_header_bytes
            raise ProtocolError("header_too_large", f"the header has {len(header)} bytes, the limit is {limit}")
        message = self._decode_header(header)
        if len(body) > self._limits.max_body_bytes:
            limit = self._limits.max_body_bytes
            # Not by way of a local name: an error that is a local of its own traceback is a cycle, and holds the body.
            raise _with_ids(
                ProtocolError("body_too_large", f"the body has {len(body)} bytes, the limit is {limit}"), header
            )
        return message, body

    def _decode_header(self, header: bytes) -> M:
        try:
            message = self._decoder.decode(header)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, OverflowError) as error:
            raise self._refused(header, error) from None
        # Bytes that our own encoder would have written keep the profile; only others need the slower look.
        if _has_free_form(message) or _encoder.encode(message) != header:
            try:
                profile.check(header)
            except ProtocolError as problem:
                raise _with_ids(problem, header) from None
        return message

    def _refused(self, header: bytes, error: Exception) -> ProtocolError:
        tag = _salvage(header).t
        if isinstance(tag, str) and tag not in self._tags:
            if tag in self._other_tags:
                problem = ProtocolError("wrong_endpoint", f"`{tag}` belongs to the other endpoint")
            else:
                shown = tag[:64]
                problem = ProtocolError("unknown_type", f"no message has t = {shown!r}")
        else:
            problem = ProtocolError("bad_header", f"bad header: {error or type(error).__name__}")
        return _with_ids(problem, header)


def client_codec(limits: Limits | None = None) -> Codec[client_messages.Message]:
    """The codec of the clients' endpoint, for both of its sides."""
    return Codec(client_messages.Message, _CLIENT_TAGS, _WORKER_TAGS, limits or Limits())


def worker_codec(limits: Limits | None = None) -> Codec[worker_messages.Message]:
    """The codec of the workers' endpoint, for both of its sides."""
    return Codec(worker_messages.Message, _WORKER_TAGS, _CLIENT_TAGS, limits or Limits())


def _tags_of(union: Any) -> frozenset[str]:
    return frozenset(str(member.__struct_config__.tag) for member in union.__args__)


_CLIENT_TAGS: Final = _tags_of(client_messages.Message)
_WORKER_TAGS: Final = _tags_of(worker_messages.Message)


def _free_form_of(union: Any) -> dict[type, tuple[str, ...]]:
    found = {}
    for member in union.__args__:
        names = tuple(name for name in _FREE_FORM if name in member.__struct_fields__)
        if names:
            found[member] = names
    return found


_FREE_FORM_OF: Final = _free_form_of(client_messages.Message) | _free_form_of(worker_messages.Message)


def _has_free_form(message: Any) -> bool:
    for name in _FREE_FORM_OF.get(type(message), ()):
        if getattr(message, name) is not None:
            return True
    return False


def _bad_frames(frames: Sequence[bytes]) -> ProtocolError:
    """What is wrong with the frames; the form of a header is the same in all versions, so its ids are read."""
    problem = _problem_of(frames)
    return _with_ids(problem, frames[1]) if len(frames) > 1 and frames[0][:3] == TAG[:3] else problem


def _problem_of(frames: Sequence[bytes]) -> ProtocolError:
    tag = frames[0] if frames else b""
    if len(tag) == 4 and tag.startswith(b"DJP") and tag != TAG:
        shown = tag.decode("ascii", "replace")
        return ProtocolError("unsupported_version", f"{shown} is not spoken here", details={"versions": list(VERSIONS)})
    if tag != TAG:
        return ProtocolError("bad_frames", "the first frame must be DJP1", details={"versions": list(VERSIONS)})
    return ProtocolError("bad_frames", f"a message has 2 or 3 frames, not {len(frames)}")


def _salvage(header: bytes) -> _Salvage:
    try:
        return _salvager.decode(header)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, OverflowError):
        return _Salvage()


def _with_ids(problem: ProtocolError, header: bytes) -> ProtocolError:
    found = _salvage(header)
    problem.was_error = found.t == "error"
    problem.rid = _short_text(found.rid)
    problem.job = _short_text(found.job)
    problem.lease = _short_text(found.lease)
    return problem


def _short_text(value: Any) -> str | None:
    return value if isinstance(value, str) and len(value) <= 64 else None
