"""Reads weights only as they were published or imported, and fetches, on request alone, what an installation lacks.

The package for pip holds no weights whose licence forbids commercial use. The repository holds all; a file is taken
from the tag of this very version and kept only if its SHA-256 is the listed one. Whoever wants the space back deletes
it from `registry.fetched_folder()`.
"""

import hashlib
import http.client
import os
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from .. import __version__
from . import errors, registry
from .errors import shown
from .files import read_content, write_together
from .told import told_beside

REPOSITORY = "https://raw.githubusercontent.com/DeepAttentionReg/SlicerDeepAttentionReg"
TIMEOUT_S = 60


def address(entry: registry.Weights) -> str:
    """Return where a weight file of this version is published."""
    return f"{REPOSITORY}/v{__version__}/DeepAttentionReg/Resources/Models/{entry.file}"


def download(url: str) -> bytes:
    """Return what an address holds.

    Raises:
        OSError: If it cannot be had.
    """
    with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer:
        return bytes(answer.read())


def fetch(identifier: str, get: Callable[[str], bytes] = download) -> Path:
    """Return the file of listed weights, fetched if it is not there.

    Args:
        identifier: Id in weights.json.
        get: Returns the content of an address.

    Raises:
        EngineError: If they are not listed, cannot be fetched or kept, or are not what was published.
    """
    entry = registry.listed_weights(identifier)
    path = registry.stored_file(entry)
    if path is not None and _is_right(read_content(path), entry):
        return path
    url = address(entry)
    try:
        content = get(url)
    except (OSError, http.client.HTTPException) as error:
        raise errors.EngineError(
            errors.WEIGHTS_MISSING,
            f"The weights {identifier!r} could not be fetched from {url} ({error}).",
            f"Check the network; or fetch the file by hand and put it into {registry.fetched_folder()}.",
        ) from error
    if not _is_right(content, entry):
        raise errors.EngineError(
            errors.WEIGHTS_CORRUPT,
            f"What {url} holds is not the file that was published ({len(content)} bytes, expected {entry.bytes}).",
            "Try again, or install the newest version.",
        )
    target = registry.fetched_folder() / entry.file
    with suppress(OSError):  # what is wrong with the folder is said when writing
        target.parent.mkdir(parents=True, exist_ok=True)
    write_together({target: content})
    return target


def _is_right(content: bytes, entry: registry.Weights) -> bool:
    return hashlib.sha256(content).hexdigest() == entry.sha256


def weight_content(identifier: str) -> bytes:
    """Return the very bytes of a weight file whose hash was checked: a listed one, or an imported one of the user's.

    A file of the user's own has a hash only if the JSON file beside it tells one.

    Raises:
        EngineError: If the file is not listed, missing, cannot be read, or is damaged.
    """
    if identifier.endswith(registry.WEIGHT_SUFFIX):
        path = Path(identifier)
        if not os.path.lexists(path):
            raise errors.EngineError(
                errors.WEIGHTS_MISSING, f"The weight file {shown(path)} does not exist.", "Check its path."
            )
        sha256, hint = told_beside(path, lambda told: told.sha256), "Import the weights again."
    else:
        entry = registry.listed_weights(identifier)
        sha256, hint = entry.sha256, "Install the extension again."
        found = registry.stored_file(entry)
        if found is None:
            raise _missing(entry)
        path = found
        if path.parent == registry.fetched_folder():
            hint = f"Delete {path} and fetch it again."
    content = read_content(path)
    if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256:
        what = f"The weight file {shown(path.name)} is damaged, or not the one that was published or imported"
        raise errors.EngineError(errors.WEIGHTS_CORRUPT, f"{what} ({len(content)} bytes).", hint)
    return content


def _missing(entry: registry.Weights) -> errors.EngineError:
    if registry.resources().name == registry.PACKAGE:
        return errors.EngineError(
            errors.WEIGHTS_MISSING,
            f"The weights {entry.id!r} ({entry.licence}) are not part of the package for pip.",
            f"Fetch them once with: deepattentionreg fetch {entry.id}",
        )
    return errors.EngineError(
        errors.WEIGHTS_MISSING, f"The weight file {entry.file} is missing.", "Install the extension again."
    )
