"""Start the engine: `PythonSlicer run_engine.py run JOB.json`, or any subcommand of the command line."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from DeepAttentionRegEngine import cli

if __name__ == "__main__":
    sys.exit(cli.main())
