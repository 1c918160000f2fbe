"""DJP/1 as values: messages, codec, limits, errors, ids. No socket, no clock, no thread, no dspy.

`client_messages` and `worker_messages` hold the messages of the two endpoints; `codec` turns frames into them and
back; `body` reads and writes bodies; `errors` is the registry. SPEC.md is the authority on all of it.
"""

from dspymq.protocol import body, client_messages, worker_messages
from dspymq.protocol.codec import TAG, Codec, client_codec, encode, worker_codec
from dspymq.protocol.errors import REASONS, Code, ProtocolError
from dspymq.protocol.ids import lease_id, new_uuid7, uuid7
from dspymq.protocol.limits import Limits
from dspymq.protocol.messages import error_answer

__all__ = [
    "REASONS",
    "TAG",
    "Code",
    "Codec",
    "Limits",
    "ProtocolError",
    "body",
    "client_codec",
    "client_messages",
    "encode",
    "error_answer",
    "lease_id",
    "new_uuid7",
    "uuid7",
    "worker_codec",
    "worker_messages",
]
