"""What recursions of a made-up network leave behind, with known truth: the stand-in for the engine writes it."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from DeepAttentionRegEngine.protocol import contract
from DeepAttentionRegEngine.protocol.result_files import STRUCTURE_FILES, STRUCTURES
from DeepAttentionRegEngine.volume import images, recursions
from DeepAttentionRegEngine.volume.geometry import Geometry
from DeepAttentionRegEngine.volume.segment_pairs import Segment
from DeepAttentionRegEngine.volume.segments import Segments, write_segments

STRIDE = 4  # voxels per token
SHARP = 40.0  # so that a token looks at one other alone
LAYER, RELEVANCE, MASK = "level 2", "relevance, level 1", "attention mask"
SIGMA_MM = (6.0, 4.0, 3.0)
STRUCTURE_COLORS = {"liver": (221, 130, 101), "spleen": (157, 108, 162)}


def similarity_after(step: int) -> float:
    """Return the similarity after a number of recursions."""
    return 0.5 + 0.1 * step


def looks_ahead(grid: Geometry) -> recursions.Attention:
    """Return attention in which each token looks at the next one along i, the last one at itself."""
    size = tuple(-(-n // STRIDE) for n in grid.shape)
    index = np.indices(size)
    index[2] = np.minimum(index[2] + 1, size[2] - 1)
    code = SHARP * np.eye(int(np.prod(size)), dtype=np.float32)
    return recursions.Attention(
        code[np.ravel_multi_index(tuple(index), size).ravel()][None], code[None], size, size, STRIDE, STRIDE
    )


def ramp(shape: tuple[int, ...]) -> np.ndarray:
    """Return numbers that rise from 0 to 1 along i."""
    return np.broadcast_to(np.linspace(0, 1, shape[2], dtype=np.float32), shape).copy()


def gaussian(grid: Geometry, step: int) -> dict[str, list]:
    """Return a Gaussian at the center of a grid that pushes to the left, further with every step."""
    return {
        "center_lps": grid.center_lps.tolist(),
        "axes_lps": np.eye(3).tolist(),
        "sigma_mm": list(SIGMA_MM),
        "vector_lps": [2.0 * step, 0.0, 0.0],
    }


def write_evidence(folder: Path, grid: Geometry, number: int) -> recursions.Step:
    """Write what was attended to in a recursion, counted from 1, and return its entry without a field."""
    step = recursions.Step("", similarity_after(number), 0.0)
    for name, image in ((RELEVANCE, "fixed"), (MASK, "moving")):
        file = f"recursion_{number}_{image}.nrrd"
        images.write_volume(folder / file, number * ramp(grid.shape), grid)
        step.maps.append({"name": name, "image": image, "file": file})
    file = f"recursion_{number}_attention.npz"
    recursions.write_attention(folder / file, looks_ahead(grid))
    step.attention.append({"name": LAYER, "file": file})
    step.gaussians.append(gaussian(grid, number))
    return step


def shifts(grid: Geometry, lengths_mm: list[float]) -> list[np.ndarray]:
    """Return fields (k, j, i, 3) that shift by these lengths to the left."""
    return [np.broadcast_to(np.array([length, 0, 0], np.float32), (*grid.shape, 3)) for length in lengths_mm]


def write_recursions(folder: Path, grid: Geometry, displacements: list[np.ndarray]) -> contract.Result:
    """Write what recursions with these fields (k, j, i, 3) left behind, and return what the engine says of it."""
    index = recursions.Index("rman", grid, np.eye(4), [])
    for number, field in enumerate(displacements, start=1):
        images.write_displacement(folder / f"field_{number}.nrrd", field, grid)
        index.recursions.append(replace(write_evidence(folder, grid, number), displacement=f"field_{number}.nrrd"))
    recursions.write_index(folder, index)
    similarity = [similarity_after(number) for number in range(len(displacements) + 1)]
    return contract.Result({"recursions": str(folder / recursions.INDEX)}, {"similarity": similarity})


def write_structures(folder: Path, grids: dict[str, Geometry]) -> tuple[str, dict]:
    """Write two boxes as structures on grids by "fixed", "moving" and "warped"; return their index and measures."""
    folder.mkdir()
    items = [
        Segment(name, number, 0, {"Color": " ".join(str(part / 255) for part in color)})
        for number, (name, color) in enumerate(STRUCTURE_COLORS.items(), start=1)
    ]
    for side, grid in grids.items():
        labels = np.zeros(grid.shape, np.uint8)
        labels[1:4, 2:5, 2:5], labels[1:4, 2:5, 6:9] = 1, 2
        write_segments(folder / STRUCTURE_FILES[side], Segments([labels], grid, items))
    (folder / STRUCTURES).write_text("{}", encoding="ascii")
    scores = {"hd95_mm": 2.0, "assd_mm": 1.0}
    states = {"before": 0.5, "aligned": 0.6, "after": 0.8}
    keys = [*STRUCTURE_COLORS, "mean"]
    values = {
        state: {name: dict.fromkeys(keys, value) for name, value in {"dice": dice, **scores}.items()}
        for state, dice in states.items()
    }
    volumes = {name: {"fixed": 2.0, "moving": 4.0, "warped": 3.0} for name in STRUCTURE_COLORS}
    ones = ("minimum", "maximum", "mean", "sd", "fold_percent", "sd_log_jacobian", "sd_log_jacobian_l2r")
    jacobian = {"liver": {**dict.fromkeys(ones, 1.0), "folds": 3}}
    return str(folder / STRUCTURES), {"predicted": True, **values, "volume_ml": volumes, "jacobian": jacobian}
