"""Where a run writes until all that it makes is there. Standard library only.

    with Outputs(read=[fixed, moving]) as outputs:
        write_transform(outputs.place("transform.nrrd"))
        write_volume(outputs.place("warped.nrrd"))

At the end of the block both files take their places, together. If it fails, or one of them cannot take its place, all
is as it was before. Until then they lie beside their places, in folders that vanish with the process (owned_folders).
"""

import errno
import os
import shutil
import signal
import stat
import threading
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from . import errors
from .errors import is_text, shown
from .owned_folders import PREFIX, OwnedFolder, forget, note, remove_left

INTERRUPTIONS = (signal.SIGINT, signal.SIGTERM)


def unwritable(path: Path, why: str) -> errors.EngineError:
    """Return the error of a file or folder that cannot be written."""
    return errors.EngineError(
        errors.OUTPUT_UNWRITABLE,
        f"The file {shown(path)} cannot be written: {why}.",
        "Check the name, the folder, its permissions and the free disk space.",
    )


def reason(path: Path, error: Exception) -> str:
    """Return why a file could not be written, as far as that is known."""
    if not os.path.isdir(path.parent):
        return f"the folder {shown(path.parent)} does not exist"
    if not os.access(path.parent, os.W_OK):
        return f"the folder {shown(path.parent)} is read-only"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return "the disk may be full, or the format cannot hold such data"


def require_name(path: Path) -> None:
    """Check that a file or folder can have its name.

    Raises:
        EngineError: If it cannot.
    """
    if not is_text(str(path)):
        raise unwritable(path, "its name holds what is no character")


def require_place(path: Path) -> None:
    """Check that a file can be put somewhere.

    Raises:
        EngineError: If a folder has its name, or nothing can be written into the folder it is to lie in.
    """
    require_name(path)
    try:
        is_folder = stat.S_ISDIR(os.stat(path).st_mode)
    except FileNotFoundError:
        is_folder = False
    except OSError as error:  # a name that is too long, links in a circle, no permission
        raise unwritable(path, reason(path, error)) from error
    if is_folder:
        raise unwritable(path, "it is a folder")
    if not os.path.isdir(path.parent) or not os.access(path.parent, os.W_OK):
        raise unwritable(path, reason(path, OSError()))


@dataclass(frozen=True)
class _Identity:
    """What tells files apart whatever their paths look like."""

    node: tuple[int, int] | None
    name: str

    def is_of(self, other: "_Identity") -> bool:
        """Return whether both are one file: by what the file system says where both are there, else by their paths."""
        if self.node is not None and other.node is not None:
            return self.node == other.node
        return self.name == other.name


class Places:
    """Files and folders by what they are, not by how their paths are written: links and case make no difference."""

    def __init__(self, paths: Iterable[str | Path] = ()) -> None:
        """Start with some."""
        self._known: dict[object, list[_Identity]] = {}
        for path in paths:
            self.add(path)

    def add(self, path: str | Path) -> None:
        """Add one, which need not be there."""
        identity = _identity(path)
        for key in (identity.node, identity.name):
            self._known.setdefault(key, []).append(identity)

    def __contains__(self, path: str | Path) -> bool:
        identity = _identity(path)
        near = [*self._known.get(identity.node, ()), *self._known.get(identity.name, ())]
        return any(identity.is_of(other) for other in near)


def _identity(path: str | Path) -> _Identity:
    try:
        # File systems that ignore case may also write accents in another way.
        name = unicodedata.normalize("NFC", os.path.realpath(path)).casefold()
    except ValueError:  # no path at all
        return _Identity(None, str(path))
    try:
        state = os.stat(path)
    except OSError:
        return _Identity(None, name)
    return _Identity((state.st_dev, state.st_ino), name)


class Outputs:
    """The outputs of one run, which take their places together or not at all."""

    def __init__(self, read: Iterable[str | Path] = ()) -> None:
        """Prepare.

        Args:
            read: Files that the run reads, none of which it may replace.
        """
        self._read, self._written = Places(read), Places()
        self._placed: dict[Path, Path] = {}  # by what is written now, what it is to be
        self._folders: dict[Path, OwnedFolder] = {}  # by the folder they lie in
        self._made: list[Path] = []

    def place(self, path: str | Path, name: str | None = None) -> str:
        """Return where to write a file for now.

        Args:
            path: What it is to be.
            name: What it is called meanwhile; None for its own name.

        Raises:
            EngineError: If it is read or written by this run already, or cannot be written.
        """
        path = Path(path)
        require_place(path)
        return self._place(path, path.parent, name or path.name)

    def place_folder(self, path: str | Path) -> str:
        """Return where to fill a folder for now; what it will replace is to be files of the same names alone.

        Raises:
            EngineError: If nothing can be written there.
        """
        path = Path(path)
        require_name(path)
        above = next(folder for folder in (path, *path.parents) if os.path.exists(folder))
        if not above.is_dir():
            raise unwritable(path, f"{above} is a file")
        if not os.access(above, os.W_OK):
            raise unwritable(path, f"the folder {above} is read-only")
        filled = self._place(path, above, path.name or "folder")
        try:
            Path(filled).mkdir()
        except OSError as error:
            raise unwritable(path, reason(path, error)) from error
        return filled

    def make_folder(self, path: str | Path) -> None:
        """Make a folder unless it is there; if the run fails, it goes again.

        Raises:
            EngineError: If it cannot be made.
        """
        path = Path(path)
        try:
            for folder in reversed([path, *path.parents]):
                if not folder.is_dir():
                    folder.mkdir()
                    self._made.append(folder)
        except OSError as error:
            raise unwritable(path, reason(path, error)) from error

    def require_unread(self, path: Path) -> None:
        """Check that the run does not read what it is about to write.

        Raises:
            EngineError: If it does.
        """
        if path in self._read:
            what = f"The file {path} would be both read and written."
            raise errors.EngineError(errors.OUTPUT_UNWRITABLE, what, "Choose another name.")

    def final(self, path: str | Path) -> str:
        """Return what something that is written now is going to be."""
        path = Path(path)
        for written, place in self._placed.items():
            if path.is_relative_to(written):
                return str(place / path.relative_to(written))
        return str(path)

    def files(self) -> dict[Path, Path]:
        """Return every file that is written so far, by what it is to be."""
        return {place: written for written, place in self._moves(whole=False)}

    def __enter__(self) -> "Outputs":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with _undisturbed():
            done = False
            try:
                if error is None:
                    self._commit()
                    done = True
                elif isinstance(error, errors.EngineError):
                    self._name_places(error)
            finally:
                self._clean_up(done)

    def _clean_up(self, done: bool) -> None:
        for folder in self._folders.values():
            folder.close()
            forget(folder.path)
        for made in () if done else reversed(self._made):
            with suppress(OSError):  # others have put something there meanwhile
                made.rmdir()

    def _place(self, path: Path, beside: Path, name: str) -> str:
        self.require_unread(path)
        if path in self._written:
            what = f"The file {path} would be written twice."
            raise errors.EngineError(errors.OUTPUT_UNWRITABLE, what, "Choose another name.")
        if beside not in self._folders:
            remove_left(beside, PREFIX)
            try:
                self._folders[beside] = OwnedFolder(beside, PREFIX)
            except OSError as error:
                raise unwritable(path, reason(path, error)) from error
            if not any(part.startswith(PREFIX) for part in beside.parts):  # else it goes with the one around it
                note(self._folders[beside].path)
        written = self._folders[beside].path / name
        self._written.add(path)
        self._placed[written] = path
        return str(written)

    def _name_places(self, error: errors.EngineError) -> None:
        """Speak of files in an error as they were named, not of where they lay for a while."""
        for written, place in self._placed.items():
            error.message = error.message.replace(str(written), str(place))
        error.args = (f"{error.message} {error.hint}".strip(),)

    def _moves(self, *, whole: bool) -> Iterator[tuple[Path, Path]]:
        """Yield what is to be moved, and where to; a folder as a whole, if wanted, where there is none."""
        for written, place in self._placed.items():
            if not written.is_dir() or (whole and not place.exists()):
                if written.exists():
                    yield written, place
                continue
            for file in sorted(item for item in written.rglob("*") if not item.is_dir()):
                yield file, place / file.relative_to(written)

    def _commit(self) -> None:
        """Move everything to its place, or nothing.

        Raises:
            EngineError: If something cannot take its place.
        """
        done: list[tuple[Path, Path, Path]] = []
        place = Path()
        try:
            for number, (written, place) in enumerate(list(self._moves(whole=True))):
                self.require_unread(place)
                self.make_folder(place.parent)
                former = written.with_name(f".former{number}")
                done.append((written, place, former))
                _take_place(written, place, former)
        except BaseException as error:
            for moved in reversed(done):
                _put_back(*moved)
            if isinstance(error, OSError):
                raise unwritable(place, reason(place, error)) from error
            raise


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Hold back what interrupts this process until a few moves are done."""
    held: list[int] = []
    former: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        former = {number: handler for number in INTERRUPTIONS if callable(handler := signal.getsignal(number))}
    for number in former:
        signal.signal(number, lambda caught, _frame: held.append(caught))
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
        if held:
            signal.raise_signal(held[0])


def _take_place(written: Path, place: Path, former: Path) -> None:
    """Move a file or a new folder to its place, of which there is never nothing once there was something."""
    if place.is_dir():
        raise IsADirectoryError(errno.EISDIR, "Is a directory")
    if os.path.lexists(place):
        try:
            os.link(place, former, follow_symlinks=False)
        except (OSError, NotImplementedError):  # not every file system has links
            shutil.copy2(place, former, follow_symlinks=False)
    os.replace(written, place)


def _put_back(written: Path, place: Path, former: Path) -> None:
    """Undo what `_take_place` has done so far."""
    with suppress(OSError):
        if os.path.lexists(written):
            return
        if os.path.lexists(former):
            os.replace(former, place)
        else:
            os.replace(place, written)
