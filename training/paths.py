"""Where things are."""

from pathlib import Path

TRAINING = Path(__file__).resolve().parent
ROOT = TRAINING.parent
RESOURCES = ROOT / "DeepAttentionReg" / "Resources"
RESULTS = TRAINING / "results"
RUNS = Path("runs")  # below the current folder
