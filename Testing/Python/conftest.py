"""Puts the module on the path, so that tests run from a checkout, says what cannot run, shares grids and scenes."""

import os
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
import pytest

FOLDER = Path(__file__).resolve().parent
from DeepAttentionRegEngine.volume.geometry import Geometry

if TYPE_CHECKING:
    import slicer

    import DeepAttentionReg
    import mrml_cases
    import mrml_scene

SPACING = (1.1, 0.7, 2.3)
ORIGIN = (-31.5, 12.25, 88.0)

NEEDS_TORCH = "pytestmark = pytest.mark.torch"  # in a test file that imports PyTorch as a whole

collect_ignore = [
    path.relative_to(FOLDER).as_posix()
    for path in sorted(FOLDER.rglob("test_*.py"))
    if find_spec("torch") is None and NEEDS_TORCH in path.read_text(encoding="utf-8")
]


def pytest_report_header() -> str:
    """Return what the head of a run says."""
    return f"PyTorch is not installed, left out: {', '.join(collect_ignore)}" if collect_ignore else "PyTorch is there"


def _oblique_axes() -> np.ndarray:
    """Return axes turned about z, then x, then y, far from any anatomical direction."""
    (cz, sz), (cx, sx), (cy, sy) = ((np.cos(a), np.sin(a)) for a in np.radians([27.0, -18.0, 11.0]))
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    return about_y @ about_x @ about_z


def _geometry(size: tuple[int, int, int], mirrored: bool = False) -> Geometry:
    return Geometry.from_arrays(size, SPACING, ORIGIN, _oblique_axes() * ((-1, 1, 1) if mirrored else (1, 1, 1)))


@pytest.fixture
def oblique_geometry() -> Geometry:
    """A small volume, oblique and anisotropic."""
    return _geometry((14, 11, 9))


@pytest.fixture(params=[(1, 11, 9), (14, 1, 9), (14, 11, 1)], ids=["flat-i", "flat-j", "flat-k"])
def flat_geometry(request: pytest.FixtureRequest) -> Geometry:
    """A single oblique slice across each of the three axes."""
    return _geometry(request.param)


@pytest.fixture(params=["oblique", "left-handed", "flat-i", "flat-j", "flat-k", "two-slices"])
def any_geometry(request: pytest.FixtureRequest) -> Geometry:
    """Every kind of grid: oblique, mirrored, single-slice across each axis, two slices."""
    sizes = {"flat-i": (1, 11, 9), "flat-j": (14, 1, 9), "flat-k": (14, 11, 1), "two-slices": (14, 11, 2)}
    return _geometry(sizes.get(request.param, (14, 11, 9)), mirrored=request.param == "left-handed")


def _positions_lps(geometry: Geometry) -> np.ndarray:
    index = np.moveaxis(np.indices(geometry.shape), 0, -1)[..., ::-1]
    return geometry.index_to_lps(index.reshape(-1, 3)).reshape(*geometry.shape, 3)


@pytest.fixture
def grid_points() -> Callable[[Geometry], np.ndarray]:
    """The function from a grid to its voxel centers `(k, j, i, 3)`, LPS mm."""
    return _positions_lps


@pytest.fixture
def smooth_displacement() -> Callable[..., np.ndarray]:
    """The function from a grid, a peak and a wavelength in mm to a smooth field `(k, j, i, 3)`, LPS mm."""

    def build(geometry: Geometry, peak_mm: float = 1.5, wavelength_mm: float = 40.0) -> np.ndarray:
        phase = 2 * np.pi / wavelength_mm * (_positions_lps(geometry) - geometry.center_lps)
        x, y, z = np.moveaxis(phase, -1, 0)
        waves = [np.sin(x + 0.5) * np.cos(y), np.cos(y - 0.3) * np.sin(z + 1), np.sin(z - 0.8) * np.cos(x)]
        return (peak_mm * np.stack(waves, -1)).astype(np.float32)

    return build


@pytest.fixture
def affine_displacement() -> Callable[[Geometry, np.ndarray], np.ndarray]:
    """The function from a grid and a 4x4 LPS matrix A to the field `A x - x` `(k, j, i, 3)`, LPS mm."""

    def build(geometry: Geometry, matrix: np.ndarray) -> np.ndarray:
        points = _positions_lps(geometry)
        return (points @ (matrix[:3, :3] - np.eye(3)).T + matrix[:3, 3]).astype(np.float32)

    return build


@pytest.fixture(scope="module")
def application() -> "mrml_scene.Application":
    """Slicer's MRML library without the application."""
    import mrml_scene

    return mrml_scene.boot()


@pytest.fixture
def scene(application: "mrml_scene.Application", monkeypatch: pytest.MonkeyPatch) -> Iterator["slicer.vtkMRMLScene"]:
    """The scene, emptied afterwards; registrations in it are played by the stand-in engine."""
    monkeypatch.setenv("FAKE_ENGINE", "work")
    yield application.scene
    application.scene.Clear(False)


@pytest.fixture
def event_loop(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> "mrml_cases.EventLoop":
    """An application with an event loop, in which the timers of Qt work by the module's own means."""
    import slicer

    import mrml_cases

    loop = mrml_cases.EventLoop(str(tmp_path))
    monkeypatch.setattr(slicer, "app", loop, raising=False)
    monkeypatch.setattr(slicer.util, "startupEnvironment", lambda: dict(os.environ))
    monkeypatch.setattr("DeepAttentionRegLib.engine.Ticker.qt", SimpleNamespace(QTimer=loop))
    return loop


@pytest.fixture
def inputs(scene: "slicer.vtkMRMLScene", oblique_geometry: Geometry) -> "mrml_cases.InputNodes":
    """The volumes CT1 (fixed) and CT2 (moving) in the scene, oblique and anisotropic."""
    import mrml_cases

    return mrml_cases.add_pair(oblique_geometry)


@pytest.fixture
def logic() -> Iterator["DeepAttentionReg.DeepAttentionRegLogic"]:
    """The module's logic, its engine played by the stand-in."""
    import DeepAttentionReg
    import mrml_cases

    logic = DeepAttentionReg.DeepAttentionRegLogic()
    logic.engine = mrml_cases.ENGINE
    yield logic
    logic.close()
