"""Versions that a result depends on."""

import platform

import numpy as np
import SimpleITK as sitk
import torch

from .. import __version__


def versions() -> dict[str, str]:
    """Return the versions that a result depends on."""
    # Asked of the packages themselves: those that an application brings along need not be registered with pip.
    packages = {"torch": torch.__version__, "numpy": np.__version__, "SimpleITK": sitk.Version.VersionString()}
    return {"engine": __version__, "python": platform.python_version(), **packages}
