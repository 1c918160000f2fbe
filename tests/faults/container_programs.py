"""A program that leaves processes behind. Imported by executors only."""

import os
import subprocess
import tempfile
from typing import Any

import dspy

__all__ = ["leaves", "qa"]


class Leaves(dspy.Module):  # type: ignore[misc]
    """Starts a process that starts another one and ends; that ends a moment later, when its parent is gone."""

    def forward(self, count: int) -> Any:
        for _ in range(count):
            subprocess.run(["sh", "-c", "sleep 0.2 &"], check=True)
        with tempfile.TemporaryFile() as file:
            file.write(b"there is room")
        return dspy.Prediction(parent=os.getppid(), uid=os.getuid())


leaves = Leaves()
qa = dspy.Predict("question -> answer")
