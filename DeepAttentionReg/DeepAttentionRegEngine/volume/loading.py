"""Files as SimpleITK images that mean what their headers say, in mm and in 3D.

What ITK's readers drop, make up or take for something else is put right here, told, or refused.
"""

import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from ..protocol.errors import is_text
from ..protocol.file_use import with_data
from ..protocol.files import unfit
from .geometry import ORTHONORMAL_TOLERANCE, SHEARED_HINT
from .headers import require_sound_header
from .units import common_unit

SHEARED = "has sheared axes, not at right angles to each other"
NO_SIZE = "gives its voxels no size: a spacing is zero or not a number"
NO_PLACE = "gives an axis or a position that is not a number"
HEADER_HINT = "Correct its header, or export it again from where it comes from."
PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
# A file that is smaller by more than any compression makes it does not hold what its header claims.
BEST_COMPRESSION, LARGEST_CLAIM = 10_000, 2**24
# What ITK and its libraries say of files that are whole but make no sense, and how it is told.
SENSELESS = (
    (r"orthonormal", SHEARED, SHEARED_HINT),
    (r"Zero-valued spacing|axis \d+ spacing \(", NO_SIZE, HEADER_HINT),
    (r"space vector coefficients|Bad direction", NO_PLACE, HEADER_HINT),
)
READING_BYTES, BYTES_A_VALUE = 64 << 20, 4  # what a reader may take besides, and for every value


@dataclass(frozen=True)
class FileImage:
    """An image, and sentences on what its file leaves open."""

    image: sitk.Image
    notes: tuple[str, ...] = ()


def open_image(name: str) -> sitk.ImageFileReader:
    """Return a reader that knows the header of an image, whose voxels are still to be read.

    Raises:
        RuntimeError: If ITK cannot read it.
        EOFError: If the header claims more voxels than its files can hold.
        EngineError: If the header would crash ITK, or names voxels elsewhere.
    """
    require_sound_header(name)
    reader = sitk.ImageFileReader()
    reader.SetFileName(name)
    reader.ReadImageInformation()
    held = sum(os.path.getsize(file) for file in with_data(Path(name)) if file.is_file())
    claimed = math.prod(reader.GetSize()) * reader.GetNumberOfComponents()
    if claimed > LARGEST_CLAIM + BEST_COMPRESSION * held:
        msg = f"its header claims {claimed} voxels, which {held} bytes cannot hold"
        raise EOFError(msg)
    return reader


def read_image(name: str, voxels: np.ndarray | None = None) -> sitk.Image:
    """Read an image as ITK does.

    Args:
        name: Its file.
        voxels: What was read and unpacked of it already, axes slowest first; not taken if ITK reads another size or
            type.

    Raises:
        RuntimeError: If it cannot.
        EOFError: As `open_image`.
        MemoryError: If there is none for it.
        EngineError: As `open_image`, and if the header gives sheared axes, or voxels without size or position.
    """
    try:
        reader = open_image(name)
        _require_memory(math.prod(reader.GetSize()) * reader.GetNumberOfComponents())
        image = reader.Execute() if voxels is None else _with_voxels(reader, voxels)
    except RuntimeError as error:
        for mark, what, hint in SENSELESS:
            if re.search(mark, str(error)):
                raise unfit(name, what, hint) from error
        raise
    axes = np.reshape(image.GetDirection(), [image.GetDimension()] * 2)
    if np.abs(axes.T @ axes - np.eye(len(axes))).max() > ORTHONORMAL_TOLERANCE:
        raise unfit(name, SHEARED, SHEARED_HINT)
    return image


def _with_voxels(reader: sitk.ImageFileReader, voxels: np.ndarray) -> sitk.Image:
    """Return the image of a reader with voxels that need not be read again."""
    plain = voxels.astype(voxels.dtype.newbyteorder("="), copy=False)
    if reader.GetSize() != plain.shape[::-1] or reader.GetNumberOfComponents() != 1:
        return reader.Execute()
    image = sitk.GetImageFromArray(plain)
    if image.GetPixelID() != reader.GetPixelID():
        return reader.Execute()
    image.SetSpacing(reader.GetSpacing())
    image.SetOrigin(reader.GetOrigin())
    image.SetDirection(reader.GetDirection())
    for key, value in metadata_of(reader).items():
        image.SetMetaData(key, value)
    return image


def _require_memory(values: int) -> None:
    """Ask for the memory that reading takes, and give it back untouched: some of ITK's readers never end without it.

    Raises:
        MemoryError: If there is too little.
    """
    np.empty(READING_BYTES + BYTES_A_VALUE * values, np.uint8)


def metadata_of(source: sitk.Image | sitk.ImageFileReader) -> dict[str, str]:
    """Return what a header says besides the grid; bytes that are no text are left out of it, as are such keys."""
    keys = [key for key in source.GetMetaDataKeys() if is_text(key)]
    return {key: source.GetMetaData(key).encode(errors="replace").decode() for key in keys}


def in_millimetres(name: str, image: sitk.Image, units: list[str]) -> FileImage:
    """Scale spacing and origin of an image to mm.

    Args:
        name: Its file.
        image: With spacing and origin as in the file.
        units: Those of the file, of one axis or of each; empty if it names none.

    Raises:
        EngineError: If the units differ.
    """
    try:
        factor, note = common_unit(units)
    except ValueError as error:
        raise unfit(name, str(error), HEADER_HINT) from error
    if factor != 1:
        factors = [factor] * 3 + [1.0] * (image.GetDimension() - 3)  # the fourth axis is time
        image.SetSpacing([a * b for a, b in zip(image.GetSpacing(), factors, strict=False)])
        image.SetOrigin([a * b for a, b in zip(image.GetOrigin(), factors, strict=False)])
    return FileImage(image, (f"The file {name} {note}.",) if note else ())


def load_meta_image(name: str) -> FileImage:
    """Read a MetaImage file (mha, mhd), whose unit ITK ignores."""
    image = read_image(name)
    with open(name, "rb") as stream:
        header = stream.read(2**16).partition(b"ElementDataFile")[0].decode("latin-1")
    return in_millimetres(name, image, re.findall(r"^DistanceUnits\s*=\s*(\S+)", header, re.MULTILINE))


def load_picture(name: str) -> FileImage:
    """Read a PNG, JPEG, TIFF or BMP file; how large to print it is not how large it was."""
    image = read_image(name)
    if image.GetDimension() == 2 and _has_physical_size(name, image):
        return FileImage(image)
    if _is_by_itk(image):
        return FileImage(
            image, (f"The file {name} does not hold the distance of its slices, which was taken as 1 mm.",)
        )
    image.SetSpacing([1.0] * image.GetDimension())
    return FileImage(image, (f"The file {name} holds no physical size, so a pixel counts as 1 mm.",))


def is_print_density(name: str, spacing: Sequence[float]) -> bool:
    """Return whether the spacing of an image (i, j and more) only says how large to print the picture it was read from.

    Args:
        name: File of the picture.
        spacing: As a reader gave it that takes the density in the file for mm.

    Raises:
        RuntimeError: If it cannot be read.
        EngineError: If its header makes no sense.
    """
    image = read_image(name)
    density, spacing = image.GetSpacing()[:2], tuple(spacing[:2])
    return density != (1, 1) and np.allclose(density, spacing) and not _has_physical_size(name, image)


def _has_physical_size(name: str, image: sitk.Image) -> bool:
    """Return whether the spacing within the slices of a picture is one in mm.

    Only ITK itself writes such into pictures: into PNG in a field of its own, into TIFF with its name.
    """
    return _is_by_itk(image) or (Path(name).suffix.lower() == ".png" and image.GetSpacing() != (1, 1))


def _is_by_itk(image: sitk.Image) -> bool:
    return "Software" in image.GetMetaDataKeys() and image.GetMetaData("Software") == "InsightToolkit"
