"""Fetches listed weights that an installation leaves out, on request alone, and only as they were published.

The package for pip holds no weights whose licence forbids commercial use. The repository holds all; a file is taken
from the tag of this very version and kept only if its SHA-256 is the listed one. Whoever wants the space back deletes
it from `registry.fetched_folder()`.
"""

import hashlib
import http.client
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from .. import __version__
from . import errors, registry
from .files import write_together

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
    if path is not None and _is_right(path.read_bytes(), entry):
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
