"""What tests of training share."""

from pathlib import Path

import pytest


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with chest X-rays, where DAR_DATA points."""
    from training_cases import write_chest

    monkeypatch.setenv("DAR_DATA", str(tmp_path))
    write_chest(tmp_path)
    return tmp_path
