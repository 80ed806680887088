"""Measure how fluid the inspection of a large volume is: milliseconds a step, redrawn slice views included.

    python Testing/Tools/bench_interaction.py --size 256

One volume, a smooth field with a node every second voxel, three slice views of 400 x 400 pixels drawn by software;
median and slowest of each. Of what takes longer, the second table has the longest time for which the application cannot
react.
"""

import argparse
import functools
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import numpy as np
import slicer

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "DeepAttentionReg"), str(ROOT / "Testing" / "Python" / "support")]

import slicer_stand_ins

slicer_stand_ins.install()

import mrml_scene
from DeepAttentionRegEngine.protocol import contract
from DeepAttentionRegEngine.protocol.reporting import Pause
from DeepAttentionRegEngine.volume.geometry import Geometry
from DeepAttentionRegLib.evidence import Corrections, Maps, Readout, Scrubber, SegmentNodes, Segments
from DeepAttentionRegLib.nodes import Deformation, EvidenceFiles, Overlays, Record, Transforms, Warping
from DeepAttentionRegLib.nodes.Overlays import Map
from DeepAttentionRegLib.views import Comparison
from DeepAttentionRegLib.views.ComparisonModes import Mode
from DeepAttentionRegLib.views.WarpedView import WarpedView

Act = Callable[[int], object]

TURNS = 12
LARGEST_MM = 8.0
PIXELS = (400, 400)
REACH_MM = 20.0
VIEWS = {"Red": "Axial", "Yellow": "Sagittal", "Green": "Coronal"}


def make_deformation(edge: int) -> Deformation.Deformation:
    """Put two volumes of `edge` voxels of 1 mm a side, a deformation and its two steps into the scene."""
    geometry = Geometry((edge,) * 3, (1.0,) * 3, (0.0,) * 3, tuple(np.eye(3).ravel()))
    noise = np.random.default_rng(0).random(geometry.shape, dtype=np.float32)
    fixed, moving = (mrml_scene.add_volume(array, geometry, name) for array, name in ((noise, "f"), (1 - noise, "m")))
    own = geometry.resized((edge // 2,) * 3)
    field = smooth_field(own)
    node = Transforms.createGridTransform(Transforms.makeGridTransform(field, own), "deformation", fixed, moving)
    Record.remember(node, Record.Record())
    result = contract.Result(values={"alignment": np.eye(4).tolist()})
    EvidenceFiles.commit(EvidenceFiles.read(result, field, own), node)
    return Deformation.ofTransform(node)


def smooth_field(geometry: Geometry) -> np.ndarray:
    """Return a displacement `(k, j, i, 3)` in mm whose components are waves over the volume."""
    k, j, i = (np.sin(np.linspace(0, 2 * np.pi, n, dtype=np.float32)) for n in geometry.shape)
    wave = k[:, None, None] * j[None, :, None] * i[None, None, :]
    return LARGEST_MM * np.stack([wave, -wave, 0.5 * wave], -1)


@contextmanager
def compare(
    deformation: Deformation.Deformation, views: list[mrml_scene.SliceView], mode: Mode, name: str
) -> Iterator[Act]:
    """Give what changes one option of a comparison."""
    comparison = Comparison.Comparison(deformation)
    for view in views:
        view.show(deformation.fixed, deformation.moving)
    comparison.show(Comparison.ComparisonOptions(mode))
    yield lambda turn: comparison.show(Comparison.ComparisonOptions(mode, **{name: turn / TURNS}))
    comparison.close()


def threshold(deformation: Deformation.Deformation, views: list[mrml_scene.SliceView]) -> Act:
    """Return what changes the threshold of a map."""
    node = Maps.create(deformation, Map.JACOBIAN)
    for view in views:
        view.show(deformation.fixed, node)
    return lambda turn: Overlays.hideUnremarkable(node, Map.JACOBIAN, 2.0 + turn)


@contextmanager
def scrub(deformation: Deformation.Deformation, views: list[mrml_scene.SliceView], *, grid: bool) -> Iterator[Act]:
    """Give what goes from step to step."""
    for view in views:
        view.show(deformation.fixed)
    scrubber = Scrubber.Scrubber(deformation)
    scrubber.show(withGrid=grid)
    yield lambda turn: setattr(scrubber.evidence, "step", turn % 2)
    scrubber.close()


@contextmanager
def correct(deformation: Deformation.Deformation) -> Iterator[Act]:
    """Give what corrects one place more or another, with the moving volume shown as it is warped then."""
    view = WarpedView(deformation.fixed, deformation.moving, "corrected")
    view.show(deformation.transformNode)
    corrections = Corrections.Corrections(deformation)
    size = np.array(deformation.fixed.GetImageData().GetDimensions())
    middle = size / 2 * (-1, -1, 1)
    yield lambda turn: corrections.add(middle + 5 * turn, middle + 5 * turn + 4, REACH_MM, onMoving=False)
    view.close()


def ball(edge: int, shift: int) -> np.ndarray:
    """Return labels (k, j, i) of two balls, one around the other."""
    k, j, i = np.ogrid[:edge, :edge, :edge]
    distance = np.sqrt((k - edge // 2) ** 2 + (j - edge // 2) ** 2 + (i - edge // 2 - shift) ** 2)
    return (distance < edge / 4).astype(np.uint8) + (distance < edge / 6)


def add_labels(volume: slicer.vtkMRMLScalarVolumeNode, labels: np.ndarray) -> slicer.vtkMRMLLabelMapVolumeNode:
    """Add a label map on the grid of a volume."""
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", f"{volume.GetName()} labels")
    slicer.util.updateVolumeFromArray(node, labels)
    node.CopyOrientation(volume)
    return node


def works(deformation: Deformation.Deformation, edge: int) -> dict[str, Callable[[Pause], object]]:
    """Return what takes longer than a moment, by its name."""
    labels = add_labels(deformation.fixed, ball(edge, 0)), add_labels(deformation.moving, ball(edge, edge // 32))
    kinds = (Map.JACOBIAN, Map.MAGNITUDE, Map.SIMILARITY_BEFORE, Map.SIMILARITY_AFTER)
    return {
        **{kind.label(): functools.partial(Maps.create, deformation, kind) for kind in kinds},
        "folds": functools.partial(Maps.createFolds, deformation),
        "warp": lambda pause: Warping.warp(deformation.moving, deformation.transformNode, pause=pause),
        "compare segments": lambda pause: SegmentNodes.create(Segments.compare(deformation, *labels, pause)),
    }


def measure_blocks(work: Callable[[Pause], object]) -> str:
    """Return seconds of a work, and its longest milliseconds without a pause."""
    times = [time.perf_counter()]
    work(lambda: times.append(time.perf_counter()))
    times.append(time.perf_counter())
    return f"{times[-1] - times[0]:.1f} | {1000 * max(np.diff(times)):.0f}"


def measure(act: Act, views: list[mrml_scene.SliceView]) -> str:
    """Return median and slowest milliseconds of an action, and of it and drawing together; the first is left out."""
    alone, drawn = [], []
    for turn in range(TURNS + 1):
        started = time.perf_counter()
        act(turn)
        alone.append(1000 * (time.perf_counter() - started))
        for view in views:
            view.grab()
        drawn.append(1000 * (time.perf_counter() - started))
    return " | ".join(f"{value:.0f}" for spent in (alone[1:], drawn[1:]) for value in (np.median(spent), max(spent)))


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=256, help="voxels along each edge (default: %(default)s)")
    edge = parser.parse_args().size
    application = mrml_scene.boot()
    views = [mrml_scene.SliceView(application, name, orientation, PIXELS) for name, orientation in VIEWS.items()]
    deformation = make_deformation(edge)
    along = np.linspace(-0.3, -0.7, TURNS + 1)  # the volume lies at negative R and A
    interactions: dict[str, Callable[[], AbstractContextManager[Act]]] = {
        "readout": lambda: nullcontext(
            lambda turn: Readout.read(deformation, edge * along[turn] * np.array([1, 1, -1]))
        ),
        "map threshold": lambda: nullcontext(threshold(deformation, views)),
        "fade": lambda: compare(deformation, views, Mode.FADE, "opacity"),
        "reveal": lambda: compare(deformation, views, Mode.REVEAL, "position"),
        "scrub": lambda: scrub(deformation, views, grid=False),
        "scrub with grid": lambda: scrub(deformation, views, grid=True),
        "correct by hand": lambda: correct(deformation),
    }
    print("| interaction | ms, median | slowest | with drawing, median | slowest |\n|---|---|---|---|---|")
    for name, prepare in interactions.items():
        with prepare() as act:
            print(f"| {name} | {measure(act, views)} |", flush=True)
    print("\n| work | s | without a pause at most, ms |\n|---|---|---|")
    for name, work in works(deformation, edge).items():
        print(f"| {name} | {measure_blocks(work)} |", flush=True)


if __name__ == "__main__":
    main()
