"""Fixtures of these tests."""

from tests.programs.rig import pool

__all__ = ["pool"]
