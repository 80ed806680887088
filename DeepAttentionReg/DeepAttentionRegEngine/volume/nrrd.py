"""NRRD files: in mm, and slices where their headers place them."""

import re
import shutil
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from ..protocol.file_use import require_beside
from ..protocol.files import unfit
from ..protocol.owned_folders import scratch_folder
from .loading import HEADER_HINT, NO_SIZE, FileImage, in_millimetres, read_image

LONGEST_HEADER = 2**20
VOXELS = "voxels"
# Fields with an entry per axis that a slice does without when it gets a third one.
PER_AXIS = ("spacings", "thicknesses", "axis mins", "axis maxs", "centers", "centerings", "labels", "units", "kinds")


def load_nrrd(name: str) -> FileImage:
    """Read an NRRD file (nrrd, nhdr); its unit counts, and a 2D image in space becomes a slice where it lies.

    Raises:
        EngineError: If the header gives voxels no size or place, or several units.
    """
    header, end = _header(name)
    fields = dict(line.split(": ", 1) for line in header if ": " in line and not line.startswith("#"))
    fields = {key.lower(): value.strip() for key, value in fields.items()}
    axes = re.findall(r"\([^)]*\)", fields.get("space directions", ""))
    is_slice_in_space = fields.get("dimension") == "2" and len(axes) == 2 and axes[0].count(",") == 2
    image = _read_slice(name, header, end, axes) if is_slice_in_space else read_image(name)
    spacings = fields.get("spacings", "").lower().split()
    if spacings and sum(spacing != "nan" for spacing in spacings) < image.GetDimension():
        raise unfit(name, NO_SIZE, HEADER_HINT)
    units = fields.get("space units") or ("" if axes else fields.get("units", ""))
    return in_millimetres(name, image, re.findall(r'"([^"]*)"', units)[:3])


def _header(name: str) -> tuple[list[str], int]:
    """Return the lines of the header, and where the data begin."""
    with open(name, "rb") as stream:
        content = stream.read(LONGEST_HEADER)
    end = re.search(rb"\r?\n\r?\n", content)
    length = len(content) if end is None else end.end()
    return content[:length].decode("latin-1").split("\n"), length


def _read_slice(name: str, header: list[str], end: int, axes: list[str]) -> sitk.Image:
    """Read a 2D image in 3D space as a volume of one slice, 1 thick: ITK refuses it as it is."""
    first, second = (np.array([float(number) for number in axis.strip("()").split(",")]) for axis in axes)
    normal = np.cross(first, second)
    normal /= np.linalg.norm(normal) or 1
    require_beside(name)
    changed = {
        "dimension": lambda _: "3",
        "sizes": lambda sizes: f"{sizes} 1",
        "space directions": lambda _: " ".join([*axes, f"({','.join(repr(float(number)) for number in normal)})"]),
        "data file": lambda _: VOXELS,
    }
    with scratch_folder() as folder:
        lines = []
        for line in (line.strip() for line in header if line.strip()):
            key, _, value = line.partition(": ")
            key = key.lower()
            if key == "data file":
                shutil.copy(Path(name).parent / value, folder.path / VOXELS)
            if key in changed:
                line = f"{key}: {changed[key](value)}"
            if key not in PER_AXIS:
                lines.append(line)
        path = folder.path / "slice.nrrd"
        path.write_bytes("\n".join([*lines, "", ""]).encode("latin-1") + Path(name).read_bytes()[end:])
        return read_image(str(path))
