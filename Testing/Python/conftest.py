"""Puts the module's folder on the path, so that the tests run from a bare checkout, and says what cannot run here."""

import sys
from importlib.util import find_spec
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER.parents[1] / "DeepAttentionReg"))

NEEDS_TORCH = "pytestmark = pytest.mark.torch"  # in a test file that imports PyTorch as a whole

collect_ignore = [
    path.name
    for path in sorted(FOLDER.glob("test_*.py"))
    if find_spec("torch") is None and NEEDS_TORCH in path.read_text(encoding="utf-8")
]


def pytest_report_header() -> str:
    """Return what the head of a run says."""
    return f"PyTorch is not installed, left out: {', '.join(collect_ignore)}" if collect_ignore else "PyTorch is there"
