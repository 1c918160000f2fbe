"""Fixtures for every test."""

from tests.lm.fixtures import scripted_lm

__all__ = ["scripted_lm"]
