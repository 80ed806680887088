"""Readers of data sets, by name: `loader(folder, names, **options) -> CaseSet`."""

import inspect
from collections.abc import Callable
from dataclasses import replace

from ...configs.schema import ConfigError, Data
from ..cases import CaseSet, data_folder, read_split, reduced
from .anatomies import load_anatomies
from .chest import load_chest_xray
from .cine import load_cine
from .dirlab import load_dirlab
from .folders import load_folders
from .ixi import load_ixi
from .learn2reg import load_learn2reg
from .phantoms import load_phantoms
from .structures import load_structures

LOADERS: dict[str, Callable[..., CaseSet]] = {
    "anatomies": load_anatomies,
    "chest_xray": load_chest_xray,
    "cine": load_cine,
    "dirlab": load_dirlab,
    "folders": load_folders,
    "ixi": load_ixi,
    "learn2reg": load_learn2reg,
    "phantoms": load_phantoms,
    "structures": load_structures,
}
MAKERS = ("phantoms",)  # make their cases and read no folder


def load(data: Data, part: str, *, whole: bool = False) -> CaseSet:
    """Return the cases of one part of a data set.

    Args:
        data: Configuration.
        part: "train" or "validation".
        whole: Keep the images' own grid instead of reducing them to the network's.

    Raises:
        ConfigError: For an unknown loader or option, or without a folder where one is read.
        FileNotFoundError: If the data are not there.
    """
    if data.loader not in LOADERS:
        msg = f"data: loader {data.loader!r} is unknown; known: {', '.join(LOADERS)}"
        raise ConfigError(msg)
    if not data.folder and data.loader not in MAKERS:
        msg = f"data: loader {data.loader!r} needs a folder"
        raise ConfigError(msg)
    folder = data_folder(data.folder) if data.folder else None
    names = None if data.split is None else read_split(data.split)[part]
    loader = LOADERS[data.loader]
    options = {**data.options, **(data.validation_options if part == "validation" else {})}
    if "percentiles" in inspect.signature(loader).parameters:
        options["percentiles"] = data.normalization
    try:
        inspect.signature(loader).bind(folder, names, **options)
    except TypeError as error:
        msg = f"data: options of loader {data.loader!r}: {error}"
        raise ConfigError(msg) from error
    found = loader(folder, names, **options)
    if whole:
        return found
    return replace(found, cases=[reduced(case, data.shape, data.labels) for case in found.cases])
