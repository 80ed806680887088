"""Volumes, label maps, displacement fields and linear transforms from and to files.

What ITK lets pass without a word is refused: truncated files, values that are no labels, files that a full disk cut
short.
"""

import struct
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from ..protocol.files import read_file, require_space, unfit, unreadable, write_file
from .geometry import Geometry
from .linear import invalid
from .linear import linear_matrix as linear_matrix
from .linear import read_linear_transform as read_linear_transform
from .linear import to_affine as to_affine
from .linear import write_linear_transform as write_linear_transform
from .loading import HEADER_HINT, PICTURES, FileImage, load_meta_image, load_picture, metadata_of, read_image
from .nifti import load_nifti, write_nifti
from .nrrd import load_nrrd
from .points import read_markups as read_markups
from .points import read_points as read_points
from .points import write_curve as write_curve
from .points import write_points as write_points
from .transform_files import FIELD_TRANSFORM_SUFFIXES, TRANSFORM_SUFFIXES, load_transform

IMAGE_SUFFIXES = (".nrrd", ".nii.gz", ".nii", ".mha")
# What Slicer needs to see that a vector image is a displacement field, and in which direction it works.
FIELD_METADATA = {"intent_code": "1006", "displacement field type": "resampling"}
NIFTI_DISPLACEMENT = 1006
NIFTI_VECTORS = ("1006", "1007")  # intent codes of displacements, and of any vectors, as ANTs writes them
MOST_STEPS = 16  # different whole numbers, none below 0, in a field that somebody made by hand; a picture has more
NIFTI_SINGLE_SLICE = b"single slice"
NIFTI_RAS = np.array([-1, -1, 1], np.float32)
LOADERS = {
    (".nii", ".nii.gz", ".hdr", ".hdr.gz", ".img", ".img.gz"): load_nifti,
    (".nrrd", ".nhdr"): load_nrrd,
    (".mha", ".mhd"): load_meta_image,
    PICTURES: load_picture,
}
IMAGE_VALUES = 100  # more of them, changing from voxel to voxel, are no labels
JUDGED_VOXELS = 2**20
VECTORS = {value for name, value in vars(sitk).items() if name.startswith("sitkVector")}


@dataclass(frozen=True)
class Volume:
    """An array `(k, j, i)`, its grid, and sentences on what the file it comes from leaves open."""

    array: np.ndarray
    geometry: Geometry
    notes: tuple[str, ...] = ()


# What a volume can be given as: a file, a SimpleITK image, or an array `(k, j, i)` with its grid.
AnyImage = str | Path | sitk.Image | Volume | tuple[np.ndarray, Geometry]


def as_volume(image: AnyImage) -> Volume:
    """Return a scalar volume, however it is given; NaN is kept, a 2D image becomes a single slice.

    Raises:
        EngineError: If it cannot be read, array and grid differ in size, it is a colour or vector image, a time series,
            or without any number.

    Examples:
        >>> volume = as_volume(fixed)
        >>> as_volume((volume.array, volume.geometry)).geometry == volume.geometry
        True
    """
    if isinstance(image, (str, Path)):
        return read_volume(image)
    if isinstance(image, sitk.Image):
        return _scalar_volume(image, "The image")
    notes = image.notes if isinstance(image, Volume) else ()
    given = (image.array, image.geometry) if isinstance(image, Volume) else image
    if not (isinstance(given, tuple) and len(given) == 2 and isinstance(given[1], Geometry)):
        what = f"is of the type {type(image).__name__}, and says not where it lies"
        raise invalid("The image", what, "Give a file, a SimpleITK image, or an array with its Geometry.")
    array, geometry = _storable(np.asarray(given[0])), given[1]
    geometry.require_shape(array.shape, "image")
    return _require_numbers(Volume(array, geometry, notes), "The image")


def _storable(array: np.ndarray) -> np.ndarray:
    """Return an array in the byte order of the computer, and in the next type that ITK knows."""
    kind = array.dtype.newbyteorder("=")
    return array.astype({"?": "u1", "e": "f4", "g": "f8"}.get(kind.char, kind), copy=False)


def as_labels(image: AnyImage) -> Volume:
    """Return a label map, however it is given; whole numbers stored as floats become integers.

    Raises:
        EngineError: As `as_volume`, and if a value is no whole number.
    """
    return read_labels(image) if isinstance(image, (str, Path)) else _whole_numbers(as_volume(image), "The label map")


def read(path: str | Path) -> Volume:
    """Read a scalar volume; see `read_volume`."""
    return read_volume(path)


def save(path: str | Path, volume: Volume) -> None:
    """Write a volume; see `write_volume`."""
    write_volume(path, volume.array, volume.geometry)


def from_sitk(image: sitk.Image) -> Volume:
    """Return a 2D or 3D SimpleITK image as a volume; 2D becomes a single slice, 1 mm thick."""
    if image.GetDimension() == 2:
        image = sitk.JoinSeries(image)
    return Volume(sitk.GetArrayFromImage(image), image_geometry(image))


def image_geometry(image: sitk.Image) -> Geometry:
    """Return the grid of a 3D SimpleITK image."""
    return Geometry(image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection())


def to_sitk(array: np.ndarray, geometry: Geometry) -> sitk.Image:
    """Return a SimpleITK image of an array `(k, j, i)` or `(k, j, i, components)`.

    Raises:
        EngineError: If array and grid differ in size.
    """
    geometry.require_shape(array.shape[:3], "volume")
    image = sitk.GetImageFromArray(np.ascontiguousarray(array), isVector=array.ndim == 4)
    image.SetSpacing(geometry.spacing)
    image.SetOrigin(geometry.origin)
    image.SetDirection(geometry.direction)
    return image


def load_image(name: str) -> FileImage:
    """Read an image that means what its header says; a series of one volume is that volume.

    Raises:
        EngineError: If its header makes no sense, or the axes are sheared.
    """
    loader = next((loader for ends, loader in LOADERS.items() if name.lower().endswith(ends)), None)
    loaded = FileImage(read_image(name)) if loader is None else loader(name)
    image = loaded.image
    if image.GetDimension() == 4 and image.GetSize()[3] == 1:
        image = image[:, :, :, 0]
    if image.GetNumberOfComponentsPerPixel() == 1 and image.GetPixelID() in VECTORS:  # a list of one volume
        image = sitk.VectorIndexSelectionCast(image, 0)
    return replace(loaded, image=image)


def read_volume(path: str | Path) -> Volume:
    """Read a scalar volume; a 2D image becomes a single slice, a gray picture stored in color one channel.

    NaN is kept.

    Raises:
        EngineError: If the file is missing, unreadable, a colour or vector image, a time series, or without any number.
    """
    loaded = read_file(path, load_image)
    return replace(_scalar_volume(loaded.image, f"The file {path}"), notes=loaded.notes)


def _scalar_volume(image: sitk.Image, subject: str) -> Volume:
    if image.GetDimension() > 3:
        size = " x ".join(str(n) for n in image.GetSize())
        raise invalid(subject, f"is a series of volumes ({size})", "Extract one volume first.")
    image = _without_repeated_channels(image)
    if image.GetNumberOfComponentsPerPixel() != 1:
        components = image.GetNumberOfComponentsPerPixel()
        raise invalid(
            subject, f"has {components} values per voxel, as color images and series have", "Convert it to one value."
        )
    return _require_numbers(from_sitk(image), subject)


def _require_numbers(volume: Volume, subject: str) -> Volume:
    if volume.array.dtype.kind not in "iufc":
        raise invalid(subject, f"holds {volume.array.dtype}, not numbers", "Convert it to numbers.")
    if np.iscomplexobj(volume.array):
        raise invalid(subject, "holds complex numbers", "Export its magnitude.")
    if not (volume.array.size if volume.array.dtype.kind in "iu" else np.isfinite(volume.array).any()):
        raise invalid(subject, "holds no finite value", "Check how it was exported.")
    return volume


def _without_repeated_channels(image: sitk.Image) -> sitk.Image:
    """Return one channel of a gray picture that is stored as red, green and blue; leave any other image."""
    if image.GetNumberOfComponentsPerPixel() != 3 or image.GetPixelID() != sitk.sitkVectorUInt8:
        return image
    array = sitk.GetArrayViewFromImage(image)
    is_gray = (array[..., :1] == array).all()
    return sitk.VectorIndexSelectionCast(image, 0) if is_gray else image


def read_labels(path: str | Path) -> Volume:
    """Read a label map; whole numbers stored as floats become integers.

    Raises:
        EngineError: As `read_volume`, and if a value is no whole number.
    """
    return _whole_numbers(read_volume(path), f"The file {path}")


def _whole_numbers(volume: Volume, subject: str) -> Volume:
    array = volume.array
    if array.dtype.kind == "f":
        array = _integers(array, subject)
    if _looks_like_an_image(array):
        what = f"holds more than {IMAGE_VALUES} values that change from voxel to voxel, as those of an image do"
        raise invalid(subject, what, "Choose a label map, not an image.")
    return replace(volume, array=array)


def _integers(array: np.ndarray, subject: str) -> np.ndarray:
    """Return whole numbers stored as floats as integers that hold all of them."""
    whole = np.isfinite(array) & (array == np.rint(array))
    if not whole.all():
        value = array[~whole][0]
        raise invalid(subject, f"holds {value:g}, which is no label", "Choose a label map, not an image.")
    largest, exact = float(np.abs(array).max()), 2.0 ** (np.finfo(array.dtype).nmant + 1)
    if largest >= exact:
        what = f"holds labels up to {largest:.0f} as {array.dtype}, which tells them apart below {exact:.0f} only"
        raise invalid(subject, what, "Save it with whole numbers.")
    return array.astype(np.int32 if largest < 2**31 else np.int64)


def _looks_like_an_image(labels: np.ndarray) -> bool:
    """Return whether most neighbours differ and there are many values, judged by lines along the longest axis."""
    lines = np.moveaxis(labels, int(np.argmax(labels.shape)), -1)
    lines = lines.reshape(-1, lines.shape[-1])
    lines = lines[:: max(1, lines.size // JUDGED_VOXELS)]
    values, counts = np.unique(lines, return_counts=True)
    if len(values) <= IMAGE_VALUES:
        return False
    inside = lines != values[counts.argmax()]
    pairs = inside[:, 1:] & inside[:, :-1]
    return bool(pairs.any() and (lines[:, 1:] != lines[:, :-1])[pairs].mean() > 0.5)


def write_volume(path: str | Path, array: np.ndarray, geometry: Geometry) -> None:
    """Write a volume `(k, j, i)` as nrrd, nii.gz, nii or mha in its own type, or the next one that ITK knows.

    Raises:
        EngineError: If array and grid differ in size or it cannot be written; an existing file is then untouched.
    """
    array = _storable(array)
    image = to_sitk(array, geometry)
    # Floats would shrink by a tenth at ten times the time.
    compress = bool(np.issubdtype(array.dtype, np.integer))

    def write(name: str) -> None:
        if name.endswith(".nii.gz"):
            write_nifti(name, image)
        else:
            sitk.WriteImage(image, name, useCompression=compress, compressionLevel=1)

    def complete(name: str) -> bool:
        written = load_image(name).image
        return _is_same(sitk.GetArrayViewFromImage(written), array)

    write_file(path, IMAGE_SUFFIXES, write, complete)


def _is_same(first: np.ndarray, second: np.ndarray) -> bool:
    """Return whether two arrays hold the same, NaN included, without copies of them."""
    same_size = first.shape == second.shape
    return same_size and all(np.array_equal(first[k], second[k], equal_nan=True) for k in range(len(first)))


def write_displacement(path: str | Path, displacement_lps_mm: np.ndarray, geometry: Geometry) -> None:
    """Write a displacement field as an image (nrrd, nii.gz, nii, mha; float32) or ITK transform (h5, tfm; float64).

    Slicer loads all of them as the transform that resamples the moving volume.

    Args:
        path: File to write.
        displacement_lps_mm: `(k, j, i, 3)`.
        geometry: Its grid.

    Raises:
        EngineError: If a vector is not finite, field and grid differ in size, or the file cannot be written; an
            existing file is then untouched.
    """
    field = displacement_lps_mm.astype(np.float32)
    if not np.isfinite(field).all():
        raise unfit(path, "was not written, because the displacement is not finite everywhere", "Report this.")
    # HDF5 crashes the process at its end after a write that met a full disk, so that is found out before.
    require_space(Path(path), 2 * field.nbytes)

    def write(name: str) -> None:
        if name.endswith(FIELD_TRANSFORM_SUFFIXES):
            image = to_sitk(field.astype(np.float64), geometry)
            sitk.WriteTransform(sitk.DisplacementFieldTransform(image), name)
        elif name.endswith((".nii", ".nii.gz")):
            _write_nifti_field(name, field, geometry)
        else:
            image = to_sitk(field, geometry)
            for key, value in FIELD_METADATA.items():
                image.SetMetaData(key, value)
            sitk.WriteImage(image, name, useCompression=_is_coarse(field), compressionLevel=1)

    def complete(name: str) -> bool:
        return np.array_equal(read_displacement(name)[0], field)

    write_file(path, (*IMAGE_SUFFIXES, *FIELD_TRANSFORM_SUFFIXES), write, complete)


def _is_coarse(field: np.ndarray) -> bool:
    """Return whether the last binary digit of all values is 0; other floats do not shrink."""
    return not (np.ascontiguousarray(field).view(np.uint32) & np.uint32(1)).any()


def _write_nifti_field(name: str, field: np.ndarray, geometry: Geometry) -> None:
    """Write a field with NIfTI's intent for displacements, which SimpleITK cannot set; its vectors are RAS."""
    is_slice = geometry.size[2] == 1
    if is_slice:  # ITK reads one slice of vectors as 2D and forgets where it was, so it is written twice
        i, j, _ = geometry.size
        field = np.concatenate([field, field])
        geometry = Geometry((i, j, 2), geometry.spacing, geometry.origin, geometry.direction)
    mark = (NIFTI_SINGLE_SLICE if is_slice else b"").ljust(16, b"\0")
    changes = [(68, struct.pack("=h", NIFTI_DISPLACEMENT)), (328, mark)]
    write_nifti(name, to_sitk(field * NIFTI_RAS, geometry), changes)


def read_displacement(path: str | Path) -> tuple[np.ndarray, Geometry]:
    """Read a displacement field from an image or a transform file.

    Returns:
        float32 `(k, j, i, 3)` LPS mm and its grid. A 2D field becomes a single slice without motion across.

    Raises:
        EngineError: If the file is missing, unreadable or holds something else.
    """
    notes: tuple[str, ...] = ()
    if str(path).lower().endswith(TRANSFORM_SUFFIXES):
        image = _field_of_transform(path, read_file(path, load_transform))
    else:
        loaded = read_file(path, load_image)
        image, notes = loaded.image, loaded.notes
    metadata = metadata_of(image)
    if metadata.get("displacement field type") == "modeling":
        raise unfit(path, "maps moving to fixed points (a modeling transform)", "Invert it in Slicer first.")
    if metadata.get("intent_name", "").encode() == NIFTI_SINGLE_SLICE:
        image = image[:, :, :1]
    components = image.GetNumberOfComponentsPerPixel()
    if _is_picture(image):
        raise unfit(
            path, "is a color image, not a displacement field", "Choose the transform that a registration wrote."
        )
    if image.GetDimension() not in (2, 3) or components != image.GetDimension():
        what = f"has {components} values per voxel in {image.GetDimension()} dimensions, so it is no displacement field"
        raise unfit(path, what, "Choose the transform that a registration wrote.")
    if notes:  # vectors that are elsewhere or in another unit are of no use
        raise invalid("The displacement field", f"is open to doubt. {notes[0]}".rstrip("."), HEADER_HINT)
    volume = from_sitk(image)
    field = volume.array.astype(np.float32, copy=False)
    if components < 3:
        field = np.pad(field, [(0, 0)] * 3 + [(0, 3 - components)])
    if not np.isfinite(field).all():
        raise unfit(path, "holds displacements that are not finite", "Run the registration that wrote it again.")
    return field, volume.geometry


def _is_picture(image: sitk.Image) -> bool:
    """Return whether an image of vectors holds colors: integers, or many whole numbers, none below 0, as floats."""
    values = sitk.GetArrayViewFromImage(image)
    if image.GetNumberOfComponentsPerPixel() not in (3, 4) or not values.size:
        return False
    if values.dtype.kind in "iu":
        return True
    metadata = metadata_of(image)
    is_declared = metadata.get("intent_code") in NIFTI_VECTORS or "displacement field type" in metadata
    if is_declared or not (values >= 0).all() or not (values == np.rint(values)).all():
        return False
    return len(np.unique(values)) > MOST_STEPS


def _field_of_transform(path: str | Path, transform: sitk.Transform) -> sitk.Image:
    """Return the field in a transform, unwrapped from a composite of one, as which Slicer saves some transforms."""
    if transform.GetTransformEnum() == sitk.sitkComposite:
        composite = sitk.CompositeTransform(transform)
        if composite.GetNumberOfTransforms() == 1:
            transform = composite.GetNthTransform(0)
    if transform.GetTransformEnum() != sitk.sitkDisplacementField:
        raise unfit(path, f"holds a {transform.GetName()}, not a displacement field", "Choose a field file.")
    image = sitk.DisplacementFieldTransform(transform).GetDisplacementField()
    if 0 in image.GetSize():  # ITK makes an empty field of a truncated tfm file
        raise unreadable(path, "its displacement field is empty")
    return image
