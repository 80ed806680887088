"""Files written byte by byte, with headers that no library writes."""

import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np

MILLIMETRE_UNIT, MICROMETRE_UNIT, METRE_UNIT = 2, 3, 1
TYPES = {"uint8": (2, "uchar"), "int16": (4, "short"), "float32": (16, "float"), "float64": (64, "double")}
SKEWED = np.array([[0, 0, 4.0, 10.0], [2.0, 0, 0, 20.0], [0, 3.0, 0, 30.0]])  # i towards y, j towards z, k towards x
SPACE = ("space: right-anterior-superior", "space directions: (0,2,0) (0,0,3) (4,0,0)", "space origin: (10,20,30)")


def nifti(
    array: np.ndarray,
    *,
    rows: np.ndarray = SKEWED,
    codes: tuple[int, int] = (0, 1),
    quaternion: Sequence[float] = (0.5, 0.5, 0.5),
    pixdim: Sequence[float] = (2.0, 3.0, 4.0),
    units: int = MILLIMETRE_UNIT,
) -> bytes:
    """Return a NIfTI-1 file; by default qform and sform, of which the codes take the latter, agree."""
    header, sizes = bytearray(352), array.shape[::-1]
    struct.pack_into("<i", header, 0, 348)
    struct.pack_into("<8h", header, 40, len(sizes), *sizes, *[1] * (7 - len(sizes)))
    struct.pack_into("<2h", header, 70, TYPES[str(array.dtype)][0], array.dtype.itemsize * 8)
    struct.pack_into("<8f", header, 76, 1, *pixdim, *[1] * 4)
    struct.pack_into("<3f", header, 108, 352, 1, 0)
    header[123] = units
    struct.pack_into("<2h", header, 252, *codes)
    struct.pack_into("<6f", header, 256, *quaternion, *rows[:, 3])
    struct.pack_into("<12f", header, 280, *rows.ravel())
    header[344:348] = b"n+1\0"
    return bytes(header) + array.tobytes()


def nrrd(array: np.ndarray, *fields: str) -> bytes:
    """Return a NRRD file with these lines in its header."""
    sizes = " ".join(str(size) for size in array.shape[::-1])
    kind = TYPES[str(array.dtype)][1]
    head = ["NRRD0005", f"type: {kind}", f"dimension: {array.ndim}", f"sizes: {sizes}", "encoding: raw"]
    return "\n".join([*head, "endian: little", *fields, "", ""]).encode() + array.tobytes()


def meta_image(array: np.ndarray, *fields: str) -> bytes:
    """Return a MetaImage file of 16-bit integers with these lines in its header."""
    sizes = " ".join(str(size) for size in array.shape[::-1])
    head = ["ObjectType = Image", f"NDims = {array.ndim}", "BinaryData = True", f"DimSize = {sizes}", *fields]
    return "\n".join([*head, "ElementType = MET_SHORT", "ElementDataFile = LOCAL", ""]).encode() + array.tobytes()


def written(path: Path, content: bytes) -> Path:
    """Write a file and return its path."""
    path.write_bytes(content)
    return path
