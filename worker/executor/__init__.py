"""The executor: the process that runs DSPy programs. The only part of dspymq that imports dspy, and never zmq."""

import os

# DSPy (and litellm, where a profile needs it) would otherwise fetch price tables over the network at first use.
os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "true")
