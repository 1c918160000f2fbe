"""The broker's decisions, without socket, clock or randomness: events in, effects out."""

from dspymq.broker.core.core import BrokerCore
from dspymq.broker.core.settings import CoreSettings

__all__ = ["BrokerCore", "CoreSettings"]
