"""Temporary folders, which hold images of patients: for this user alone, and removed whatever becomes of Slicer."""

import tempfile
from typing import Any

import slicer
from slicer.i18n import tr as _

from DeepAttentionRegEngine.protocol.owned_folders import OwnedFolder, remove_left
from DeepAttentionRegEngine.protocol.watchdog import FOLDER_PREFIX


def application() -> Any:
    """Return the Slicer application, which has an event loop; None where only its libraries are in use."""
    return getattr(slicer, "app", None)


def removeLeft() -> None:
    """Remove the folders of applications that have ended without doing so; those of running ones are left alone."""
    remove_left(_place(), FOLDER_PREFIX)


def makeFolder() -> OwnedFolder:
    """Return a new folder, after removing what others have left.

    :raises RuntimeError: in a sentence, if it cannot be made.
    """
    try:
        removeLeft()
        return OwnedFolder(_place(), FOLDER_PREFIX)
    except OSError as error:
        raise unwritable(error) from error


def unwritable(error: OSError) -> RuntimeError:
    """Return the error of a temporary folder that is full, gone or read-only."""
    text = _("Nothing can be written into the temporary folder ({reason}); free some space there or choose another.")
    return RuntimeError(text.format(reason=error.strerror or error))


def _place() -> str:
    return application().temporaryPath if application() is not None else tempfile.gettempdir()
