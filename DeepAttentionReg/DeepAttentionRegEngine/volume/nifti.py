"""NIfTI files: complete, with their NaN, and where their headers place them."""

import gzip
import math
import re
import shutil
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import SimpleITK as sitk

from ..protocol.files import unfit
from ..protocol.owned_folders import scratch_folder
from .geometry import Geometry
from .loading import HEADER_HINT, NO_PLACE, NO_SIZE, FileImage, metadata_of, read_image

FIELDS: dict[str, tuple[str, int]] = {  # numbers, and where they begin
    "length": ("i4", 0),
    "dim": ("8i2", 40),
    "type": ("i2", 70),
    "bits": ("i2", 72),
    "pixdim": ("8f4", 76),
    "start": ("f4", 108),
    "slope": ("f4", 112),
    "intercept": ("f4", 116),
    "units": ("u1", 123),
    "codes": ("2i2", 252),
    "quaternion": ("3f4", 256),
    "shift": ("3f4", 268),
    "rows": ("(3,4)f4", 280),
    "magic": ("S4", 344),
}
FORMATS, OFFSETS = zip(*FIELDS.values(), strict=True)
HEADER = np.dtype({"names": [*FIELDS], "formats": [*FORMATS], "offsets": [*OFFSETS], "itemsize": 348})
NIFTI_2_LENGTH = 540
GZIP_MARK = b"\x1f\x8b"
SLACK = 2**20  # so that the checksum at the end of all but strange files is compared, and none fills the memory
SINGLE_FILE = (352, b"n+1")  # where its voxels begin, and its mark
CODES = (2, 4, 8, 16, 64, 256, 512, 768, 1024, 1280)
KINDS = dict(zip(CODES, ("u1", "i2", "i4", "f4", "f8", "i1", "u2", "u4", "i8", "u8"), strict=True))
LOST_CONTRAST = 1e-4  # of the range of an image, below which single precision has to tell values apart
MILLIMETRES = {1: 1e3, 3: 1e-3}
ORDERS: tuple[Literal["<"], Literal[">"]] = ("<", ">")


def write_nifti(name: str, image: sitk.Image, changes: Sequence[tuple[int, bytes]] = ()) -> None:
    """Write an image as nii or nii.gz, which ITK would pack as well as it can, in ten times the time.

    Args:
        name: File to write.
        image: With its place.
        changes: Of the header: where they begin, and the bytes.
    """
    plain = name.removesuffix(".gz")
    try:
        sitk.WriteImage(image, plain)
        with open(plain, "r+b") as stream:
            for start, content in changes:
                stream.seek(start)
                stream.write(content)
        if plain != name:
            with open(plain, "rb") as source, gzip.open(name, "wb", compresslevel=1) as target:
                shutil.copyfileobj(source, target, 2**20)
    finally:
        if plain != name:
            Path(plain).unlink(missing_ok=True)


def load_nifti(name: str) -> FileImage:
    """Read a NIfTI-1 file: nii, nii.gz, hdr with img.

    NaN is kept, and a 2D image becomes a slice where its header places it.

    Raises:
        EOFError: If voxels are missing, which ITK would make up.
        EngineError: If the header gives voxels no size or place.
    """
    header_file, voxel_file = _files(name)
    content = _content(header_file, HEADER.itemsize)
    header = _header(name, content)
    if header is None:  # not NIfTI; ITK decides
        return FileImage(read_image(name))
    start, axes = int(header["start"]), header["dim"][1 : header["dim"][0] + 1].tolist()
    size = math.prod(axes) * int(header["bits"]) // 8
    if min(start, size, *axes) < 0:
        msg = "it has sizes below 0"
        raise ValueError(msg)
    voxels = _content(voxel_file, start + size)[start:]
    if size > len(voxels):
        msg = f"{size - len(voxels)} bytes are missing"
        raise EOFError(msg)
    _require_places(name, header)
    is_flat, is_hidden = header["dim"][0] == 2, name.lower().endswith(".gz") and Path(name[:-3]).exists()
    kind = KINDS.get(int(header["type"]))
    stored = None
    if kind is not None:
        stored = voxels[:size].view(np.dtype(kind).newbyteorder(header.dtype["type"].byteorder))
    if is_flat or is_hidden:
        image = _read_copy(content, header, voxels)
    elif stored is None or stored.size != math.prod(axes) or _scale(header) is not None:
        image = read_image(name)
    else:
        image = read_image(name, stored.reshape(axes[::-1]))
    if stored is not None:
        image = _with_lost_contrast(image, stored, header)
        image = _with_lost_numbers(image, stored) if stored.dtype.kind == "f" else image
    return FileImage(image, (*_contradiction(name, header, image), *_foreign_vectors(name, header, image)))


def _files(name: str) -> tuple[str, str]:
    """Return the files with header and voxels: one, or a pair of hdr and img."""
    stem = re.sub(r"\.(hdr|img)(\.gz)?$", "", name, flags=re.IGNORECASE)
    if stem == name:
        return name, name
    ends = (".hdr", ".hdr.gz"), (".img", ".img.gz")
    header, voxels = (next((stem + end for end in pair if Path(stem + end).is_file()), name) for pair in ends)
    return header, voxels


def _content(name: str, most: int) -> np.ndarray:
    """Return the bytes of a file, unpacked if it is compressed, and then so many and few more.

    What follows the compressed data is none of them.
    """
    if Path(name).stat().st_size == 0:
        msg = "it is empty"
        raise EOFError(msg)
    with open(name, "rb") as stream:
        if stream.read(2) != GZIP_MARK:
            return np.memmap(name, np.uint8, "r")
    packed, parts, left = Path(name).read_bytes(), [], most + SLACK
    while packed.startswith(GZIP_MARK) and left > 0:
        member = zlib.decompressobj(16 + zlib.MAX_WBITS)
        parts.append(member.decompress(packed, left))
        left -= len(parts[-1])
        if not member.eof and left > 0:
            msg = "its compressed data end too early"
            raise EOFError(msg)
        packed = member.unused_data
    return np.frombuffer(parts[0] if len(parts) == 1 else b"".join(parts), np.uint8)


def _header(name: str, content: np.ndarray) -> np.void | None:
    """Return the fields of the header; None if it is no NIfTI-1 file."""
    if len(content) < HEADER.itemsize:
        msg = "it is shorter than its header"
        raise EOFError(msg)
    for mark in ORDERS:
        header = np.frombuffer(content[: HEADER.itemsize], HEADER.newbyteorder(mark))[0]
        if header["length"] == NIFTI_2_LENGTH:
            raise unfit(name, "is in the format NIfTI-2, which is not known here", "Convert it to NIfTI-1 or NRRD.")
        if header["length"] == HEADER.itemsize and 1 <= header["dim"][0] <= 7:
            return header
    return None


def _require_places(name: str, header: np.void) -> None:
    """Refuse sizes of voxels that ITK would replace by 1 mm, and places that are none."""
    axes = [axis for axis in (1, 2, 3) if axis <= header["dim"][0] and header["dim"][axis] > 1]
    if not all(np.isfinite(header["pixdim"][axis]) and header["pixdim"][axis] != 0 for axis in axes):
        raise unfit(name, NO_SIZE, HEADER_HINT)
    for code, fields in zip(header["codes"], (("quaternion", "shift"), ("rows",)), strict=True):
        if code > 0 and not all(np.isfinite(header[field]).all() for field in fields):
            raise unfit(name, NO_PLACE, HEADER_HINT)
    if header["codes"][1] > 0 and not all(header["rows"][:, axis - 1].any() for axis in axes):
        raise unfit(name, NO_SIZE, HEADER_HINT)


def _read_copy(content: np.ndarray, header: np.void, voxels: np.ndarray) -> sitk.Image:
    """Read an unpacked copy, which ITK cannot take for an unpacked file beside it.

    A 2D image is read as a volume of one slice, so that ITK keeps its place and its axes.
    """
    single = content[: HEADER.itemsize].copy()
    fields = single.view(header.dtype)
    if header["dim"][0] == 2:
        fields["dim"][0, [0, 3]] = 3, 1
        fields["pixdim"][0, 3] = abs(header["pixdim"][3]) or 1
    fields["start"], fields["magic"] = SINGLE_FILE
    with scratch_folder() as folder:
        path = folder.path / "copy.nii"
        path.write_bytes(single.tobytes().ljust(SINGLE_FILE[0], b"\0") + voxels.tobytes())
        return read_image(str(path))


def _with_lost_contrast(image: sitk.Image, stored: np.ndarray, header: np.void) -> sitk.Image:
    """Return a scaled image in double precision where the single one of ITK would round its contrast away."""
    scale = _scale(header)
    if scale is None or image.GetPixelID() != sitk.sitkFloat32 or image.GetNumberOfPixels() != stored.size:
        return image
    slope, intercept = scale
    finite = stored[np.isfinite(stored)].astype(float)
    low, high = (slope * finite.min(), slope * finite.max()) if finite.size else (0.0, 0.0)
    step = float(np.spacing(np.float32(max(abs(low + intercept), abs(high + intercept)))))
    if step <= LOST_CONTRAST * abs(high - low):
        return image
    array = stored.reshape(sitk.GetArrayViewFromImage(image).shape).astype(float) * slope + intercept
    return _like(image, array)


def _scale(header: np.void) -> tuple[float, float] | None:
    """Return by what to multiply the voxels, and what to add then; None if they are to be taken as they are."""
    slope, intercept = float(header["slope"]), float(header["intercept"])
    is_scaled = np.isfinite([slope, intercept]).all() and slope != 0 and (slope, intercept) != (1, 0)
    return (slope, intercept) if is_scaled else None


def _like(image: sitk.Image, array: np.ndarray) -> sitk.Image:
    """Return an image of other values with the place and the header of an image."""
    made = sitk.GetImageFromArray(array, isVector=image.GetNumberOfComponentsPerPixel() > 1)
    made.CopyInformation(image)
    for key, value in metadata_of(image).items():
        made.SetMetaData(key, value)
    return made


def _with_lost_numbers(image: sitk.Image, stored: np.ndarray) -> sitk.Image:
    """Return an image with the NaN and infinities of its file, which ITK replaces by 0."""
    lost = ~np.isfinite(stored)
    components = image.GetNumberOfComponentsPerPixel()
    if not lost.any() or image.GetNumberOfPixels() * components != stored.size:
        return image
    array = sitk.GetArrayFromImage(image)
    # The components are the slowest axis in the file and the fastest in the array.
    lost, stored = (part.reshape(components, -1).T.reshape(array.shape) for part in (lost, stored))
    array[lost] = stored[lost]
    return _like(image, array)


def _contradiction(name: str, header: np.void, image: sitk.Image) -> tuple[str, ...]:
    """Return a sentence if the header places the voxels elsewhere too than where ITK, and so Slicer, takes them."""
    if image.GetDimension() != 3:
        return ()
    grid = Geometry(image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection())
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in grid.size])).reshape(3, -1).T
    corners = np.hstack([corners, np.ones((len(corners), 1))])
    apart = [np.linalg.norm(corners @ (grid.ijk_to_ras[:3] - stated).T, axis=1).max() for stated in _places(header)]
    if max(apart, default=0) <= min(grid.spacing) / 2:
        return ()
    return (
        f"The header of {name} gives two places to its voxels (qform, sform or pixdim), up to {max(apart):.3g} mm"
        " apart; they were taken as Slicer takes them.",
    )


def _foreign_vectors(name: str, header: np.void, image: sitk.Image) -> tuple[str, ...]:
    """Return a sentence if the grid of vectors is in another unit, which ITK brings to mm without the vectors."""
    if image.GetNumberOfComponentsPerPixel() == 1 or int(header["units"]) & 7 not in MILLIMETRES:
        return ()
    return (f"The grid of {name} is in another unit than mm, and the header does not say that of its vectors.",)


def _places(header: np.void) -> list[np.ndarray]:
    """Return the maps of voxels to RAS mm, 3x4, of qform and sform as far as the header gives them."""
    factor, found = MILLIMETRES.get(int(header["units"]) & 7, 1.0), []
    if header["codes"][0] > 0:
        vector = header["quaternion"].astype(float)
        real = math.sqrt(max(0.0, 1 - float(vector @ vector)))
        rotation = np.reshape(sitk.VersorTransform((*vector.tolist(), real)).GetMatrix(), (3, 3))
        flip = (1, 1, -1 if header["pixdim"][0] < 0 else 1)
        found.append(np.column_stack([rotation * header["pixdim"][1:4] * flip, header["shift"]]) * factor)
    if header["codes"][1] > 0:
        found.append(header["rows"].astype(float) * factor)
    return found
