"""Transform files, whose claims are checked before ITK allocates and fills what they claim."""

import math
import re
import struct
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import SimpleITK as sitk

from ..protocol.files import unfit, unreadable

FIELD_TRANSFORM_SUFFIXES = (".h5", ".hdf5", ".tfm")
TRANSFORM_SUFFIXES = (*FIELD_TRANSFORM_SUFFIXES, ".txt", ".mat")
TEXT_SUFFIXES, MATLAB_SUFFIX = (".tfm", ".txt"), ".mat"
# Transforms with so many numbers as a grid has points, of which the fixed parameters tell the size.
ON_A_GRID = re.compile(r"DisplacementField|VelocityField|Diffeomorphic|BSpline")
OVER_TIME = re.compile(r"VelocityField")
LINE = re.compile(r"^[ \t]*(Transform|Parameters|FixedParameters)[ \t]*:[ \t]*([^\r\n]*)", re.MULTILINE)
READ_IT = "import sys, SimpleITK; SimpleITK.ReadTransform(sys.argv[1])"
LONGEST_S = 300
MATRIX = struct.Struct("<5i")
LONGEST_NAME = 200


def load_transform(name: str) -> sitk.Transform:
    """Return the transform in a file, whatever it is.

    Raises:
        RuntimeError: If ITK cannot read it.
        EngineError: If it is of another kind, or claims what it does not hold.
    """
    if not name.lower().endswith(TRANSFORM_SUFFIXES):
        what = "is no transform file: its name ends in none of " + ", ".join(TRANSFORM_SUFFIXES)
        raise unfit(name, what, "Save it as tfm or h5.")
    if name.lower().endswith(TEXT_SUFFIXES):
        _require_text(name)
    elif name.lower().endswith(MATLAB_SUFFIX):
        _require_matlab(name)
    else:
        _require_survival(name)
    return sitk.ReadTransform(name)


def _require_text(name: str) -> None:
    text = Path(name).read_text(encoding="latin-1")
    if "ComponentTransformFile" in text:
        raise unfit(name, "refers to other files", "Save it as h5, which holds all in one file.")
    kind, count = "", 0
    for match in LINE.finditer(text):
        if match[1] == "Transform":
            kind, count = match[2].strip(), 0
        elif match[1] == "Parameters":
            count = len(match[2].split())
        else:
            _require_count(name, kind, count, [float(number) for number in match[2].split()])


def _require_matlab(name: str) -> None:
    """Check a file of matrices: for each transform one of parameters, with its kind as name, and one of fixed ones."""
    content, place, vectors = Path(name).read_bytes(), 0, []
    while place < len(content):
        kind, rows, columns, imaginary, length = MATRIX.unpack_from(content, place)
        place += MATRIX.size + length
        if kind not in (0, 10) or imaginary or min(rows, columns) < 0 or not 0 < length <= LONGEST_NAME:
            raise unreadable(name, "it holds what is no vector of numbers")
        size = rows * columns * (8 if kind == 0 else 4)
        if min(rows, columns) > 1 or place + size > len(content):
            raise unreadable(name, "it claims more numbers than it holds")
        title = content[place - length : place].rstrip(b"\0").decode("latin-1")
        vectors.append((title, struct.unpack_from(f"<{rows * columns}{'d' if kind == 0 else 'f'}", content, place)))
        place += size
    for (title, numbers), (_fixed, fixed) in zip(vectors[::2], vectors[1::2], strict=True):
        _require_count(name, title, len(numbers), fixed)


def _require_count(name: str, kind: str, count: int, fixed: Sequence[float]) -> None:
    """Refuse a transform on a grid whose size is another one than that of its numbers."""
    if not ON_A_GRID.search(kind):
        return
    axes = int(kind[-1])
    sizes = [int(number) for number in fixed[: axes + bool(OVER_TIME.search(kind))]]
    claimed = math.prod(sizes) * axes
    if claimed != count or min(sizes, default=-1) < 0:
        raise unreadable(name, f"it claims {claimed:.3g} numbers and holds {count}")


def _require_survival(name: str) -> None:
    """Read a file of a format too rich to be checked in a process of its own, which may die of it in our place."""
    if "python" not in Path(sys.executable or "").name.lower():
        return  # an application with Python in it, which would only be started once more
    try:
        done = subprocess.run(
            [sys.executable, "-c", READ_IT, name], capture_output=True, timeout=LONGEST_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise unreadable(name, "reading it does not end") from error
    # An error of Python ends with 1, and comes again here; all else is a crash, a signal or an exception of Windows.
    if done.returncode not in (0, 1):
        raise unreadable(name, "reading it would end the program")
