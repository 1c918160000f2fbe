"""The broker: a pure core (`dspymq.broker.core`) and a thin shell that owns sockets and time (`server`)."""

from dspymq.broker.config import BrokerConfig, ConfigError, load_broker_config
from dspymq.broker.definition_file import StoreError
from dspymq.broker.server import Broker, serve

__all__ = ["Broker", "BrokerConfig", "ConfigError", "StoreError", "load_broker_config", "serve"]
