"""The pictures of the panel, taken while the engine proper registers the phantom."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

slicer = pytest.importorskip("slicer", reason="slicer-core is not installed")
pytest.importorskip("PySide6.QtWidgets", reason="PySide6 is not installed", exc_type=ImportError)
pytest.importorskip("torch", reason="PyTorch is not installed")
image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")

pytestmark = [pytest.mark.mrml, pytest.mark.torch, pytest.mark.slow]

SCRIPT = Path(__file__).resolve().parents[3] / "Tools" / "demo_panel.py"
STATES = ("install", "empty", "ready", "unfolded", "running", "done", "inspect", "error")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pictures."""
    output = tmp_path_factory.mktemp("demo")
    command = [sys.executable, str(SCRIPT), str(output)]
    done = subprocess.run(command, env=os.environ, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    return output / "panel"


def brightness(path: Path) -> float:
    """Return the mean of a picture, 0 to 255."""
    return image.open(path).convert("L").resize((1, 1), image.Resampling.BOX).getpixel((0, 0))


@pytest.mark.parametrize("state", STATES)
def test_every_state_is_there_light_and_dark(folder: Path, state: str) -> None:
    assert brightness(folder / f"{state}-dark.png") < 80 < 200 < brightness(folder / f"{state}-light.png")


def test_states_look_different(folder: Path) -> None:
    assert len({(folder / f"{state}-light.png").read_bytes() for state in STATES}) == len(STATES)


def test_high_resolution_has_twice_the_pixels_a_side(folder: Path) -> None:
    sizes = [image.open(folder / f"ready-light{suffix}.png").size for suffix in ("", "-2x")]
    assert sizes[1] == tuple(2 * pixels for pixels in sizes[0])
