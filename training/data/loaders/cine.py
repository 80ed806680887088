"""Short-axis cardiac cine MR: frames of one slice are a group, within which the heart moves."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch

from DeepAttentionRegEngine.volume.intensity import PERCENTILES, normalize

from ..cases import CaseSet, ImageCase, relabelled

PIG = "pig_cine"
SUNNYBROOK = "sunnybrook_cine"
SPACING = {PIG: (0.8203, 0.8203), SUNNYBROOK: ()}  # mm; that of Sunnybrook is lost
PHASES = 20
SUNNYBROOK_NAME = re.compile(r"(?P<patient>.+)-IM-\d+-(?P<number>\d+)\.dcm\.png")
# Label 1 is the cavity, which both sets have, label 2 the muscle around it.
VALUES = {PIG: [[2], [1]], SUNNYBROOK: [[255], []]}


@dataclass(frozen=True)
class Frame:
    """Files of one frame, the data set it is of and the slice."""

    source: str
    image: Path
    labels: Path
    group: str


def load_cine(
    folder: Path,
    names: list[str] | None,
    *,
    labelled: bool = False,
    percentiles: tuple[float, float] = PERCENTILES,
) -> CaseSet:
    """Read frames of `pig_cine/images/<slice>/<frame>.png` and `sunnybrook_cine/images/<patient>-IM-*.png`.

    Args:
        folder: Holds one or both data sets.
        names: `pig_cine/<slice>` and `sunnybrook_cine/<patient>`; None for all there are.
        labelled: Leave out frames without label map, for losses of labels.
        percentiles: Of each image, which become 0 and 1.
    """
    if names is None:
        pig = {f"{PIG}/{path.name}" for path in (folder / PIG / "images").glob("s*")}
        found = (SUNNYBROOK_NAME.fullmatch(path.name) for path in (folder / SUNNYBROOK / "images").glob("*.png"))
        names = sorted(pig | {f"{SUNNYBROOK}/{match['patient']}" for match in found if match})
    cases: list[ImageCase] = []
    for name in names:
        source, part = name.split("/")
        frames = _pig(folder / PIG, part) if source == PIG else _sunnybrook(folder / SUNNYBROOK, part)
        cases += [_case(frame, percentiles) for frame in frames if frame.labels.exists() or not labelled]
    return CaseSet(cases)


def _pig(folder: Path, part: str) -> Iterator[Frame]:
    for path in sorted((folder / "images" / part).glob("*.png")):
        yield Frame(PIG, path, folder / "masks" / part / path.name, f"{PIG}/{part}")


def _sunnybrook(folder: Path, patient: str) -> Iterator[Frame]:
    """Yield the frames of a patient's slices; file numbers count 20 phases of the first slice, then of the next."""
    slices: dict[int, list[Path]] = {}
    for path in sorted((folder / "images").glob(f"{patient}-IM-*.png")):
        match = SUNNYBROOK_NAME.fullmatch(path.name)
        if match and match["patient"] == patient:
            slices.setdefault((int(match["number"]) - 1) // PHASES, []).append(path)
    for number, paths in slices.items():
        if len(paths) > 1:  # a slice with one frame has nothing to be registered to
            yield from (
                Frame(SUNNYBROOK, path, folder / "labels" / path.name, f"{patient}, slice {number}") for path in paths
            )


def _case(frame: Frame, percentiles: tuple[float, float]) -> ImageCase:
    labels = None
    if frame.labels.exists():
        labels = torch.from_numpy(relabelled(_grey(frame.labels), VALUES[frame.source]))
    return ImageCase(
        name=f"{frame.group}, {frame.image.name}",
        image=torch.from_numpy(normalize(_grey(frame.image), frame.image.name, percentiles))[None],
        labels=labels,
        spacing=SPACING[frame.source],
        subset=frame.source,
        group=frame.group,
    )


def _grey(path: Path) -> np.ndarray:
    """Return the pixels of a grey PNG, which some programs store as three equal channels."""
    array = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
    return array[..., 0] if array.ndim == 3 else array
