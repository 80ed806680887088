"""Short-axis cardiac cine MR: frames of one slice are a group, within which the heart moves."""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch

from cases import Case, CaseSet, relabelled
from DeepAttentionRegEngine.intensity import normalize

PIG = "pig_cine"
SUNNYBROOK = "sunnybrook_cine"
PIG_SPACING = (0.8203, 0.8203)
PHASES = 20
SUNNYBROOK_NAME = re.compile(r"(?P<patient>.+)-IM-\d+-(?P<number>\d+)\.dcm\.png")
# Label 1 is the cavity, which both sets have, label 2 the muscle around it.
VALUES = {PIG: [[2], [1]], SUNNYBROOK: [[255], []]}


def load_cine(folder: Path, names: list[str] | None) -> CaseSet:
    """Read frames of `pig_cine/images/<slice>/<frame>.png` and `sunnybrook_cine/images/<patient>-IM-*.png`.

    Args:
        folder: Holds one or both data sets.
        names: `pig_cine/<slice>` and `sunnybrook_cine/<patient>`; None for all there are.
    """
    if names is None:
        pig = {f"{PIG}/{path.name}" for path in (folder / PIG / "images").glob("s*")}
        found = (SUNNYBROOK_NAME.fullmatch(path.name) for path in (folder / SUNNYBROOK / "images").glob("*.png"))
        names = sorted(pig | {f"{SUNNYBROOK}/{match['patient']}" for match in found if match})
    cases: list[Case] = []
    for name in names:
        source, part = name.split("/")
        cases += _pig(folder / PIG, part) if source == PIG else _sunnybrook(folder / SUNNYBROOK, part)
    return CaseSet(cases)


def _pig(folder: Path, part: str) -> Iterator[Case]:
    for path in sorted((folder / "images" / part).glob("*.png")):
        yield _case(PIG, path, folder / "masks" / part / path.name, f"{PIG}/{part}", PIG_SPACING)


def _sunnybrook(folder: Path, patient: str) -> Iterator[Case]:
    """Yield the frames of a patient's slices; file numbers count 20 phases of the first slice, then of the next."""
    slices: dict[int, list[Path]] = {}
    for path in sorted((folder / "images").glob(f"{patient}-IM-*.png")):
        match = SUNNYBROOK_NAME.fullmatch(path.name)
        if match and match["patient"] == patient:
            slices.setdefault((int(match["number"]) - 1) // PHASES, []).append(path)
    for number, paths in slices.items():
        if len(paths) > 1:  # a slice with one frame has nothing to be registered to
            for path in paths:
                # Its spacing is lost.
                yield _case(SUNNYBROOK, path, folder / "labels" / path.name, f"{patient}, slice {number}", ())


def _case(source: str, path: Path, labels: Path, group: str, spacing: tuple[float, ...]) -> Case:
    label_map = None
    if labels.exists():
        label_map = relabelled(_grey(labels), VALUES[source])
    return Case(
        name=f"{group}, {path.name}",
        image=torch.from_numpy(normalize(_grey(path), path.name))[None],
        labels=None if label_map is None else torch.from_numpy(label_map),
        spacing=spacing,
        subset=source,
        group=group,
    )


def _grey(path: Path) -> np.ndarray:
    """Return the pixels of a grey PNG, which some programs store as three equal channels."""
    array = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
    return array[..., 0] if array.ndim == 3 else array
