"""The demo from end to end: small pairs always, real images where they are."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from DeepAttentionRegEngine.phantom import thorax
from DeepAttentionRegEngine.volume import images

pytestmark = [pytest.mark.torch, pytest.mark.mrml]
pytest.importorskip("torch", reason="PyTorch is not installed")
pytest.importorskip("slicer", reason="slicer-core is not installed")

ROOT = Path(__file__).resolve().parents[3]
DATA = Path(os.environ.get("DAR_DATA") or ROOT.parent / "shared" / "data")
SPLIT = ROOT / "training" / "data" / "splits" / "hippocampus.json"
needs_images = pytest.mark.skipif(not DATA.is_dir(), reason="no real images: DAR_DATA names no folder")


def run_demo(output: Path, *options: str | Path) -> dict[str, dict[str, str]]:
    """Run the demo in a process of its own, as `make demo` does, and return its metrics table by measure."""
    command = [sys.executable, ROOT / "Testing" / "Tools" / "demo.py", "--output", output, *options]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=1800, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "nothing has changed" in done.stdout
    with (output / "metrics.csv").open(encoding="ascii") as stream:
        return {row["Measure"]: row for row in csv.DictReader(stream)}


def pictures(output: Path) -> dict[str, np.ndarray]:
    """Return the pixels of the pictures by file name without extension."""
    image = pytest.importorskip("PIL.Image", reason="pillow is not installed")
    return {path.stem: np.asarray(image.open(path)) for path in (output / "views").glob("*.png")}


def color(pixels: np.ndarray) -> float:
    """Return how colored a picture is: mean difference of the largest and smallest channel, 0 to 255."""
    return float(np.ptp(pixels.astype(int), axis=2).mean())


def rises(row: dict[str, str], by: float = 0.0) -> bool:
    return float(row["After"]) > float(row["Before"]) + by


@pytest.fixture(scope="module")
def phantom_output(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, dict[str, str]]]:
    """The demo of a small phantom, with files whose folder has a space in its name."""
    folder = tmp_path_factory.mktemp("small phantom")
    pair = thorax.make_phantom(thorax.default_geometry((36, 32, 36), (9.0, 7.5, 9.0)))
    for name, array in (("a", pair.fixed), ("b", pair.moving), ("c", pair.fixed_labels), ("d", pair.moving_labels)):
        images.write_volume(folder / f"{name}.nii.gz", array, pair.fixed_geometry)
    images.write_points(folder / "e.csv", pair.fixed_points_lps)
    images.write_points(folder / "f.csv", pair.moving_points_lps)
    options = ("--fixed", "a.nii.gz", "--moving", "b.nii.gz", "--fixed-labels", "c.nii.gz")
    options += ("--moving-labels", "d.nii.gz", "--fixed-points", "e.csv", "--moving-points", "f.csv")
    files = [folder / option if "." in option else option for option in options]
    output = folder / "out"
    return output, run_demo(output, *files, "--method", "none", "--refinement-steps", "20")


@pytest.mark.slow
class TestPhantom:
    def test_every_promised_file_is_written(self, phantom_output: tuple[Path, dict]) -> None:
        data = {"scene.mrml", "transform.h5", "warped.nrrd", "jacobian.nrrd"}
        tables = {"metrics.csv", "metrics.md", "result.json"}
        assert data | tables <= {path.name for path in phantom_output[0].iterdir()}

    def test_scores_improve(self, phantom_output: tuple[Path, dict]) -> None:
        table = phantom_output[1]
        assert rises(table["Dice, mean"], by=0.1)
        assert float(table["TRE, mean"]["After"]) < 0.5 * float(table["TRE, mean"]["Before"])

    def test_written_transform_is_the_written_warp(self, phantom_output: tuple[Path, dict]) -> None:
        displacement, geometry = images.read_displacement(phantom_output[0] / "transform.h5")
        warped = images.read_volume(phantom_output[0] / "warped.nrrd")
        assert displacement.shape[:3] == warped.array.shape
        # A nrrd header keeps a grid as decimal text.
        np.testing.assert_allclose(geometry.ijk_to_lps, warped.geometry.ijk_to_lps, atol=1e-4)

    def test_each_view_has_each_picture(self, phantom_output: tuple[Path, dict]) -> None:
        kinds = ("fixed", "moving", "warped", "before", "after", "grid", "jacobian")
        expected = {f"{view}-{kind}" for view in ("red", "yellow", "green") for kind in kinds}
        assert set(pictures(phantom_output[0])) == expected | {"montage"}

    def test_pictures_show_something(self, phantom_output: tuple[Path, dict]) -> None:
        assert not [name for name, pixels in pictures(phantom_output[0]).items() if pixels.std() < 10]

    def test_fusion_is_gray_where_registered(self, phantom_output: tuple[Path, dict]) -> None:
        shown = pictures(phantom_output[0])
        for view in ("red", "yellow", "green"):
            # Green is moving, magenta fixed: where they differ, so do the channels.
            before, after = (color(shown[f"{view}-{kind}"]) for kind in ("before", "after"))
            assert after < before

    def test_jacobian_picture_is_colored(self, phantom_output: tuple[Path, dict]) -> None:
        shown = pictures(phantom_output[0])
        assert color(shown["green-jacobian"]) > color(shown["green-fixed"])


def test_output_that_is_a_file_is_refused_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("text", encoding="ascii")
    command = [sys.executable, str(ROOT / "Testing" / "Tools" / "demo.py"), "--output", str(tmp_path / "taken")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert done.stderr == f"Error: {tmp_path / 'taken'} cannot be the output folder: File exists.\n"


@pytest.mark.slow
def test_two_png_files_register_as_one_slice(tmp_path: Path) -> None:
    pair = thorax.make_phantom(thorax.default_geometry((96, 96, 1), (3.0, 3.0, 3.0), flat=True))
    image = pytest.importorskip("PIL.Image", reason="pillow is not installed")
    for name, array in (("a", pair.fixed), ("b", pair.moving)):
        gray = np.clip((array[0] + 1000) / 5, 0, 255).astype(np.uint8)
        image.fromarray(gray).save(tmp_path / f"{name}.png")
    files = ("--fixed", tmp_path / "a.png", "--moving", tmp_path / "b.png")
    run_demo(tmp_path / "out", *files, "--method", "none", "--refinement-steps", "10")
    assert {name.split("-")[0] for name in pictures(tmp_path / "out")} == {"red", "montage"}


@needs_images
@pytest.mark.data
@pytest.mark.slow
class TestRealImages:
    def test_hippocampus_pair_improves(self, tmp_path: Path) -> None:
        folder = DATA / "hippocampus"
        fixed, moving = json.loads(SPLIT.read_text(encoding="ascii"))["validation"][:2]
        table = run_demo(tmp_path, *pair_options(folder, fixed, moving))
        assert rises(table["Dice, mean"], by=0.1)

    def test_full_size_brain_pair_improves(self, tmp_path: Path) -> None:
        folder = DATA / "brain_pair"
        fixed, moving = sorted(path.name for path in (folder / "images").glob("*.nii.gz"))[:2]
        table = run_demo(tmp_path, *pair_options(folder, fixed, moving), "--refinement-steps", "10")
        assert rises(table["Dice, mean"])


def pair_options(folder: Path, fixed: str, moving: str) -> tuple[str | Path, ...]:
    """Return the options for two images of a data folder and their labels, which have the same names."""
    files = {"fixed": folder / "images" / fixed, "moving": folder / "images" / moving}
    files |= {"fixed-labels": folder / "labels" / fixed, "moving-labels": folder / "labels" / moving}
    return tuple(part for name, path in files.items() for part in (f"--{name}", path))
