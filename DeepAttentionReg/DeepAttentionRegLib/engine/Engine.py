"""Which program runs the engine."""

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from DeepAttentionRegEngine.protocol import registry

SCRIPT = registry.resources().parent / "Scripts" / "run_engine.py"


@dataclass(frozen=True)
class Engine:
    """A Python and what it runs.

    :param python: interpreter; None takes Slicer's own.
    :param script: the engine.
    """

    python: str | None = None
    script: Path = SCRIPT

    @property
    def command(self) -> list[str]:
        """The command line, which a command of the engine completes."""
        return [self.python or shutil.which("PythonSlicer") or sys.executable, str(self.script)]
