"""Private folders that go with the process that made them. Standard library only.

They hold images of patients that are on their way from one place to another. Nobody but the user can look into such a
folder (mode 0700). Its owner keeps a file in it locked as long as it lives, and the system ends the lock with the
process, however that ends; so whoever looks there next can tell what has been left behind, and removes it.

    remove_left(parent, prefix)
    with OwnedFolder(parent, prefix) as folder:
        (folder.path / "fixed.nrrd").write_bytes(voxels)
"""

import os
import platform
import re
import shutil
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType

PREFIX = ".deepattentionreg-"  # of those of the engine
LOCK = ".owner"
ATTEMPTS = 3
# Some network drives lock within a machine only, so what another one left is left alone for as long as nothing runs.
FOREIGN_AGE_S = 86400.0
NOTE_AGE_S = 30 * 86400.0

if sys.platform == "win32":
    import msvcrt

    def _lock(descriptor: int) -> None:
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)

else:
    import fcntl

    def _lock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


class OwnedFolder:
    """A new folder that only this user can look into; it is removed when it is closed, or after this process ended.

    Attributes:
        path: Where it is, relative if its parent is.
    """

    def __init__(self, parent: str | Path, prefix: str) -> None:
        """Make the folder.

        Args:
            parent: Folder that it is to lie in.
            prefix: What its name begins with, by which `remove_left` finds it; ends in a hyphen.

        Raises:
            OSError: If it cannot be made.
        """
        for _ in range(ATTEMPTS):  # somebody who cleans up may have removed the folder before it was locked
            name = Path(tempfile.mkdtemp(prefix=f"{prefix}{_machine()}-", dir=parent)).name
            self.path = Path(parent) / name
            try:
                self._descriptor = _locked(self.path / LOCK, os.O_RDWR | os.O_CREAT)
            except FileNotFoundError:
                continue
            except OSError:
                self.path.rmdir()
                raise
            if self._descriptor is not None or self.path.exists():  # where nothing can be locked, nothing is removed
                return
        msg = f"no folder in {parent} can be kept"
        raise OSError(msg)

    def close(self) -> None:
        """Remove the folder with all that is in it."""
        descriptor, self._descriptor = self._descriptor, None
        _remove(self.path, descriptor)

    def __enter__(self) -> "OwnedFolder":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def scratch_folder() -> OwnedFolder:
    """Return a folder in the temporary one of the system, where those before it have left nothing any more."""
    remove_left(tempfile.gettempdir(), PREFIX)
    return OwnedFolder(tempfile.gettempdir(), PREFIX)


def remove_left(parent: str | Path, prefix: str) -> None:
    """Remove the folders whose owners are gone.

    Args:
        parent: Folder that they lie in.
        prefix: What their names begin with.
    """
    with suppress(OSError):  # there may be no such folder, or none that can be listed
        for folder in [item for item in Path(parent).iterdir() if item.name.startswith(prefix)]:
            _remove_if_left(folder)


def note(folder: Path) -> None:
    """Remember where a folder is, as far as the user's own folder takes it, until `forget` is told of it."""
    with suppress(OSError, RuntimeError):
        _notes().mkdir(mode=0o700, parents=True, exist_ok=True)
        (_notes() / folder.name).write_bytes(os.fsencode(os.path.abspath(folder)))


def forget(folder: Path) -> None:
    """Take back `note`."""
    with suppress(OSError, RuntimeError):
        (_notes() / folder.name).unlink()


def remove_noted() -> None:
    """Remove the noted folders whose owners are gone, wherever they are; a drive that is not there has a month."""
    with suppress(OSError, RuntimeError):
        for item in list(_notes().iterdir()):
            folder = Path(os.fsdecode(item.read_bytes()))
            if folder.name == item.name:
                _remove_if_left(folder)
            is_away = not folder.parent.is_dir() and time.time() - item.stat().st_mtime < NOTE_AGE_S
            if folder.name != item.name or not (folder.exists() or is_away):
                item.unlink()


def _notes() -> Path:
    return Path.home() / ".DeepAttentionReg" / "Unfinished"


def _remove_if_left(folder: Path) -> None:
    """Remove a folder if its owner is gone, or if its owner was gone before anything was in it."""
    with suppress(OSError):
        if folder.is_symlink() or not folder.is_dir():
            return
        if f"-{_machine()}-" not in folder.name and time.time() - folder.stat().st_mtime < FOREIGN_AGE_S:
            return
        if not (folder / LOCK).exists():
            folder.rmdir()  # fails if there is anything in it
            return
        descriptor = _locked(folder / LOCK, os.O_RDWR)
        if descriptor is not None:
            _remove(folder, descriptor)


def _locked(file: Path, flags: int) -> int | None:
    """Return the descriptor of a file that is locked from now on; None if another process has it, or it is gone.

    Raises:
        OSError: If it cannot be opened.
    """
    descriptor = os.open(file, flags, 0o600)
    try:
        _lock(descriptor)
        if os.path.samestat(os.fstat(descriptor), os.stat(file)):
            return descriptor
    except OSError:
        pass
    os.close(descriptor)
    return None


def _remove(folder: Path, descriptor: int | None) -> None:
    """Remove a folder and let its lock go: afterwards, lest it be taken meanwhile, or first where it is in the way."""
    is_first = sys.platform == "win32"
    if is_first and descriptor is not None:
        os.close(descriptor)
    shutil.rmtree(folder, ignore_errors=True)
    if not is_first and descriptor is not None:
        os.close(descriptor)


def _machine() -> str:
    """Return the name of this machine as far as it suits a file name."""
    return re.sub(r"\W", "", platform.node(), flags=re.ASCII)[:20]
