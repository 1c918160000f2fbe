"""Programs of a pool behind a network that breaks; for tests/faults/test_network.py."""

import dspy

__all__ = ["lone", "shared"]

lone = dspy.Predict("question -> answer")
"""Nobody else offers it."""

shared = dspy.Predict("question -> answer")
"""A pool beside offers it, too."""
