"""The `dspymq` command. Every verb is a few lines over the packages; importing this loads neither ZeroMQ nor DSPy."""
