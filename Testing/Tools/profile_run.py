"""Show where a registration on the command line spends time and memory, stage by stage.

    python Testing/Tools/profile_run.py                                 a chest CT of 512 x 512 x 220, drawn
    python Testing/Tools/profile_run.py --size 128x128x60 --labels      a smaller one, with labels and landmarks
    python Testing/Tools/profile_run.py --fixed a.nrrd --moving b.nrrd --functions 20 --alignment rigid

Every other option is one of `deepattentionreg register`. Without any of its outputs the transform and the warped image
are written. The run is a process of its own (profile_stages.py), to which nothing is added but the watching.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "DeepAttentionReg"))

from DeepAttentionRegEngine.phantom import thorax
from DeepAttentionRegEngine.volume import images
from DeepAttentionRegEngine.volume.geometry import Geometry

CHEST_CT = "512x512x220"
EXTENT_MM = (358.4, 358.4, 330.0)
DRAWN_VOXELS = 2_000_000  # more would take minutes to draw, so that the rest is interpolated
NOISE, LOWEST = 8.0, -1024.0
OUTPUTS = {"transform": "transform.nrrd", "warped": "warped.nrrd"}
MEASURED = ("fixed_labels", "moving_labels", "fixed_points", "moving_points")


def parse(arguments: Sequence[str] | None = None) -> tuple[argparse.Namespace, list[str]]:
    """Return the options of the command line, and those that are for the registration."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    add = parser.add_argument
    add("--fixed", type=Path, help="image that stays; without a pair one is drawn")
    add("--moving", type=Path, help="image to deform onto it")
    add("--size", default=CHEST_CT, metavar="IxJxK", help="voxels of the pair to draw (default: %(default)s)")
    add("--labels", action="store_true", help="measure with the labels and landmarks of the pair that is drawn")
    add("--functions", type=int, default=0, metavar="N", help="also list the functions that take longest")
    options, rest = parser.parse_known_args(arguments)
    if (options.fixed is None) != (options.moving is None):
        parser.error("give both --fixed and --moving, or neither")
    return options, rest


def draw(folder: Path, size: tuple[int, int, int]) -> dict[str, Path]:
    """Write the thorax phantom as 16-bit images of any size, with labels and landmarks, and return the files."""
    spacing = [extent / n for extent, n in zip(EXTENT_MM, size, strict=True)]
    grid = Geometry.from_arrays(size, spacing, (0.0, 0.0, 0.0), np.eye(3))
    factor = max(1.0, (np.prod(size) / DRAWN_VOXELS) ** (1 / 3))
    i, j, k = (max(1, round(n / factor)) for n in size)
    pair = thorax.make_phantom(grid.resized((i, j, k)), settings=thorax.PhantomSettings(noise=0))
    reference, random = images.to_sitk(np.empty(grid.shape, np.uint8), grid), np.random.default_rng(0)
    files = {name: folder / f"{name}.nrrd" for name in ("fixed", "moving", *MEASURED[:2])}
    for name, file in files.items():
        drawn = images.to_sitk(getattr(pair, name), pair.fixed_geometry)
        is_image = name in ("fixed", "moving")
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
        mode = sitk.sitkLinear if is_image else sitk.sitkNearestNeighbor
        resampler = sitk.ResampleImageFilter()
        resampler.SetReferenceImage(reference)
        resampler.SetInterpolator(mode)
        resampler.UseNearestNeighborExtrapolatorOn()
        array = sitk.GetArrayFromImage(resampler.Execute(drawn))
        if is_image:
            array += NOISE * random.standard_normal(array.shape, dtype=np.float32)
            array = np.maximum(array, LOWEST).astype(np.int16)
        images.write_volume(file, array, grid)
    for name, points in zip(MEASURED[2:], (pair.fixed_points_lps, pair.moving_points_lps), strict=True):
        files[name] = folder / f"{name}.csv"
        images.write_points(files[name], points)
    return files


def measure(command: Sequence[str], folder: Path, functions: int = 0) -> dict[str, Any]:
    """Run `deepattentionreg` with some arguments in a process of its own, and return its stages and functions.

    Raises:
        RuntimeError: If it failed; says how.
    """
    report = folder / "report.json"
    script = str(Path(__file__).with_name("profile_stages.py"))
    line = [sys.executable, script, str(report), str(functions), *command]
    # As Slicer starts the engine: threads that spin while they wait would be measured along.
    surroundings = {"OMP_WAIT_POLICY": "PASSIVE", **os.environ}
    done = subprocess.run(line, capture_output=True, text=True, check=False, env=surroundings)
    if done.returncode:
        msg = f"The run ended with code {done.returncode}:\n{done.stderr}"
        raise RuntimeError(msg)
    return json.loads(report.read_text())


def table(found: dict[str, Any]) -> str:
    """Return what was measured as text, a row a stage."""
    lines = [f"{'stage':<12}{'wall s':>9}{'user s':>9}{'system s':>10}{'peak MB':>10}"]
    stages: dict[str, dict[str, float]] = dict(found["stages"])
    total = {name: sum(stage[name] for stage in stages.values()) for name in ("wall", "user", "system")}
    stages["total"] = {**total, "peak": max(stage["peak"] for stage in stages.values())}
    for name, stage in stages.items():
        seconds = f"{stage['wall']:>9.2f}{stage['user']:>9.2f}{stage['system']:>10.2f}"
        lines.append(f"{name:<12}{seconds}{stage['peak'] / 1e6:>10.0f}")
    if found["functions"]:
        lines += ["", f"{'own s':>8}{'total s':>9}{'calls':>9}  function"]
    for row in found["functions"]:
        lines.append(f"{row['own']:>8.2f}{row['total']:>9.2f}{row['calls']:>9}  {row['function']}")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    options, rest = parse(arguments)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = {"fixed": options.fixed, "moving": options.moving}
        if options.fixed is None:
            i, j, k = (int(n) for n in options.size.split("x"))
            files = draw(folder, (i, j, k))
        command = ["register", str(files["fixed"]), str(files["moving"]), *rest]
        if options.labels and options.fixed is None:
            command += [part for key in MEASURED for part in (f"--{key.replace('_', '-')}", str(files[key]))]
        if not any(option.startswith("--output") for option in rest):
            command += [part for key, file in OUTPUTS.items() for part in (f"--output-{key}", str(folder / file))]
        print(table(measure(command, folder, options.functions)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
