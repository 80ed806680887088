"""IXI brains as TransMorph gives them: pickled pairs of image and FreeSurfer labels, atlas to patient."""

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..cases import CaseSet, ImageCase, relabelled

# Values of FreeSurfer's aseg in the files, and which of them are scored (30 structures), both after TransMorph.
ASEG = [0, *range(2, 6), 7, 8, *range(10, 19), 24, 26, 28, 30, 31, *range(41, 45), 46, 47, *range(49, 55)]
ASEG += [58, 60, 62, 63, 72, 77, 80, 85, *range(251, 256)]
SCORED = [1, 2, 3, *range(5, 17), 18, *range(20, 24), *range(25, 33), 34, 36]
STRUCTURES = [[ASEG[position]] for position in SCORED]


class _ArraysOnly(pickle.Unpickler):
    """Reads pickles of numpy arrays; anything else, which could run code, is refused."""

    ADMITTED = frozenset(
        {("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode")}
        | {
            (f"numpy.{core}.{module}", name)
            for core in ("core", "_core")
            for module, name in (("multiarray", "_reconstruct"), ("multiarray", "scalar"), ("numeric", "_frombuffer"))
        }
    )

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.ADMITTED:
            msg = f"the file wants {module}.{name}; it should hold arrays alone"
            raise pickle.UnpicklingError(msg)
        return super().find_class(module, name)


def read_arrays(path: Path) -> Any:
    """Return the arrays of a pickle file.

    Raises:
        pickle.UnpicklingError: If it holds anything but numpy arrays in lists, tuples or dictionaries.
    """
    return _ArraysOnly(io.BytesIO(path.read_bytes())).load()


def load_ixi(folder: Path, names: list[str] | None, *, part: str = "Train", atlas: str = "atlas.pkl") -> CaseSet:
    """Read `<part>/*.pkl`, each a pair (image in [0, 1], aseg labels), and the atlas, which moves to every patient.

    Args:
        folder: Holds the parts "Train", "Val", "Test" and the atlas.
        names: File names; None for all of the part.
        part: Folder.
        atlas: File.
    """
    paths = sorted((folder / part).glob("*.pkl"))
    paths = [path for path in paths if names is None or path.name in names]
    cases = [_case(path) for path in (folder / atlas, *paths)]
    return CaseSet(cases, [(fixed, 0) for fixed in range(1, len(cases))])


def _case(path: Path) -> ImageCase:
    image, labels = (np.asarray(array) for array in read_arrays(path))
    return ImageCase(
        name=path.name,
        image=torch.from_numpy(np.ascontiguousarray(image, np.float32)).reshape(1, *image.shape[-3:]),
        labels=torch.from_numpy(relabelled(labels.reshape(labels.shape[-3:]), STRUCTURES)),
        spacing=(1.0, 1.0, 1.0),
        subset="ixi",
    )
