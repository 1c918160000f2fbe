"""Drivers of this repository's client and pool for `dspymq conformance` (docs/conformance-drivers.md)."""
