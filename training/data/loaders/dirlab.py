"""DIR-Lab 4DCT and COPDgene: headerless volumes and 300 landmark pairs a case, checked before anything is reported."""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch

from ..cases import CaseSet, ImageCase

TOLERANCE_MM = 0.05
AIR = -1000


@dataclass(frozen=True)
class Known:
    """What is published of a case: size x, y, z; spacing in mm along x, y (alike) and z; mean landmark distance."""

    size: tuple[int, int, int]
    spacing: tuple[float, float]
    identity_mm: float


_SIZES = [94, 112, 104, 99, 106, 128, 136, 128, 128, 120]
_SPACINGS = [0.97, 1.16, 1.15, 1.13, 1.10, 0.97, 0.97, 0.97, 0.97, 0.97]
_ERRORS = [3.89, 4.34, 6.94, 9.83, 7.48, 10.89, 11.03, 14.99, 7.92, 7.30]
_COPD_SIZES = [121, 102, 126, 126, 131, 119, 112, 115, 116, 135]
_COPD_SPACINGS = [0.625, 0.645, 0.652, 0.590, 0.647, 0.633, 0.625, 0.586, 0.664, 0.742]
_COPD_ERRORS = [26.33, 21.79, 12.64, 29.58, 30.08, 28.46, 21.60, 26.46, 14.86, 21.81]
CASES = {
    f"case{n}": Known((256 if n <= 5 else 512,) * 2 + (size,), (spacing, 2.5), error)
    for n, (size, spacing, error) in enumerate(zip(_SIZES, _SPACINGS, _ERRORS, strict=True), start=1)
} | {
    f"copd{n}": Known((512, 512, size), (spacing, 2.5), error)
    for n, (size, spacing, error) in enumerate(zip(_COPD_SIZES, _COPD_SPACINGS, _COPD_ERRORS, strict=True), start=1)
}
# The two states with landmarks, the fixed one (inhaled) first, as they are called in file names.
STATES = {"case": ("t00", "t50"), "copd": ("ibh", "ebh")}


def states_of(case: str) -> tuple[str, str]:
    """Return how file names call the fixed and the moving state of a case."""
    return STATES[case.rstrip("0123456789")]


def find(folder: Path, case: str, kind: str) -> list[Path]:
    """Return the files of a case whose name, in lower case, matches a pattern; names vary between downloads."""
    pattern = re.compile(rf"{case}(?!\d).*{kind}")
    return sorted(path for path in folder.rglob("*") if path.is_file() and pattern.fullmatch(path.name.lower()))


def read_landmarks(folder: Path, case: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the landmarks of the fixed and the moving state, `(300, 3)` voxels from 0, array axis order.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If their mean distance is not the published one: then spacing, order or index base is wrong.
    """
    found = []
    for state in states_of(case):
        paths = find(folder, case, rf"300.*{state}.*xyz.*\.txt")
        if not paths:
            msg = f"no landmarks of {case} {state} below {folder}"
            raise FileNotFoundError(msg)
        found.append((np.loadtxt(paths[0], dtype=np.float32)[:, :3] - 1)[:, ::-1].copy())  # files count from 1
    fixed, moving = found
    error = identity_error(case, fixed, moving)
    if abs(error - CASES[case].identity_mm) > TOLERANCE_MM:
        msg = f"landmarks of {case} are {error:.2f} mm apart, published are {CASES[case].identity_mm} mm"
        raise ValueError(msg)
    return fixed, moving


def spacing_of(case: str) -> tuple[float, float, float]:
    """Return mm per voxel along z, y, x."""
    plane, between = CASES[case].spacing
    return (between, plane, plane)


def identity_error(case: str, fixed: np.ndarray, moving: np.ndarray) -> float:
    """Return the mean distance of landmarks `(N, 3)` in mm."""
    return float(np.linalg.norm((fixed - moving) * np.array(spacing_of(case)), axis=1).mean())


def read_volume(path: Path, case: str) -> np.ndarray:
    """Return a volume `(z, y, x)` in Hounsfield units.

    Raises:
        ValueError: If the file has another size than the published one.
    """
    values, size = np.fromfile(path, dtype="<i2"), CASES[case].size
    if values.size != np.prod(size):
        msg = f"{path.name} holds {values.size} voxels, {case} has {np.prod(size)}"
        raise ValueError(msg)
    volume = values.reshape(size[::-1]).astype(np.float32)
    padding = volume < -1500
    # Some files count from -1024, others from 0: tell by the air, which fills much of every volume.
    if np.percentile(volume[~padding], 5) > -500:
        volume -= 1024
    volume[padding] = AIR
    return volume


def lung_box(volume: np.ndarray, margin: tuple[int, ...]) -> tuple[slice, ...]:
    """Return the box around the air inside the body, with a margin in voxels; the whole volume if there is none.

    Args:
        volume: `(z, y, x)` Hounsfield units.
        margin: Along each axis.
    """
    air = sitk.ConnectedComponent(sitk.GetImageFromArray((volume < -400).astype(np.uint8)))
    parts = sitk.GetArrayFromImage(air)
    outside = np.unique(np.concatenate([parts[:, edge].ravel() for edge in (0, -1)] + [parts[..., 0].ravel()]))
    counts = np.bincount(parts.ravel())
    counts[outside] = 0
    counts[0] = 0
    lungs = np.isin(parts, np.flatnonzero(counts > 0.05 * max(counts.max(), 1)))
    if not lungs.any():
        return tuple(slice(0, n) for n in volume.shape)
    places = np.argwhere(lungs)
    low, high = places.min(0), places.max(0) + 1
    return tuple(
        slice(max(0, int(a) - m), min(n, int(b) + m))
        for a, b, m, n in zip(low, high, margin, volume.shape, strict=True)
    )


def load_dirlab(
    folder: Path, names: list[str] | None, *, window: tuple[float, float] = (-1000, 500), margin_mm: float = 20
) -> CaseSet:
    """Read all states of the cases and pair those with landmarks; each case is a group.

    Args:
        folder: Holds the files of all cases, in any folders.
        names: "case1" to "case10", "copd1" to "copd10"; None for the 4DCT cases.
        window: Hounsfield units that become 0 and 1.
        margin_mm: Around the lungs of the fixed state, to which all states are cropped.
    """
    cases: list[ImageCase] = []
    pairs: list[tuple[int, int]] = []
    for name in names or [case for case in CASES if case.startswith("case")]:
        states = _states(folder, name, window, margin_mm)
        pairs.append((len(cases), len(cases) + 1))
        cases += states
    return CaseSet(cases, pairs)


def _states(folder: Path, case: str, window: tuple[float, float], margin_mm: float) -> list[ImageCase]:
    """Return fixed state, moving state, then the others, which have no landmarks."""
    landmarks = dict(zip(states_of(case), read_landmarks(folder, case), strict=True))
    spacing = spacing_of(case)
    paths = find(folder, case, r".*\.img")
    ordered = [path for state in landmarks for path in paths if state in path.name.lower()]
    if len(ordered) != 2:
        msg = f"{case}: found {len(ordered)} volumes of the states {', '.join(landmarks)} below {folder}, need 2"
        raise FileNotFoundError(msg)
    ordered += [path for path in paths if path not in ordered]
    volumes = [read_volume(path, case) for path in ordered]
    box = lung_box(volumes[0], tuple(round(margin_mm / mm) for mm in spacing))
    start = np.array([part.start for part in box], np.float32)
    points = [torch.from_numpy(found - start) for found in landmarks.values()] + [None] * (len(volumes) - 2)
    low, high = window
    return [
        ImageCase(
            name=path.name,
            image=torch.from_numpy(np.clip((volume[box] - low) / (high - low), 0, 1).astype(np.float32))[None],
            spacing=spacing,
            subset=case,
            group=case,
            points=places,
        )
        for path, volume, places in zip(ordered, volumes, points, strict=True)
    ]
