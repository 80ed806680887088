"""The weights there are: those of the extension, and those that the user has imported and may delete.

Imported weights lie in a folder of the user, never in that of the extension: NAME.pt, and beside it NAME.json with what
registry.py of the engine reads there ("network", "extent_mm", "refinement", "anatomy", "structures", "recursions") and
what the panel tells of them: "method", "dimensions", "title", "licence", "training_data", "sha256" and "bytes".
Weights to import may come with such a file, which need not hold more than is known.
"""

import functools
import hashlib
import itertools
import json
import os
import re
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import slicer
from slicer.i18n import tr as _

from DeepAttentionRegEngine.protocol import errors, registry
from DeepAttentionRegEngine.protocol.errors import shown, unreachable
from DeepAttentionRegEngine.protocol.files import require_readable
from DeepAttentionRegEngine.protocol.privacy import discreet_logger
from DeepAttentionRegEngine.protocol.told import Told, told_beside

logger = discreet_logger(__name__)

SUFFIX = registry.WEIGHT_SUFFIX
AXES = (2, 3)
NON_COMMERCIAL = re.compile(r"\bnc\b|non-?\s?commercial|research|academic", re.IGNORECASE)


@dataclass(frozen=True)
class Entry:
    """Weights that are there, or should be.

    :param id: what a job takes as its weights: an id of weights.json, or the path of an imported file.
    :param title: name for people.
    :param serves: pairs of a method's name and the number of axes, 2 for single slices and 3 for volumes.
    :param licence: what the licence is called; empty if it is not known.
    :param trainingData: what they were trained on; empty if it is not known.
    :param bytes: size of the file.
    :param path: of the file.
    :param isImported: whether the user has imported them, and may delete them.
    :param problem: a sentence on why they cannot be used; empty if they can.
    :param anatomy: what the images show that they are for, as the methods' files call it; empty for anything.
    :param extentMm: shortest and longest field of view that they know; None for any.
    """

    id: str
    title: str
    serves: tuple[tuple[str, int], ...]
    licence: str
    trainingData: str
    bytes: int
    path: Path
    isImported: bool
    problem: str
    anatomy: str = ""
    extentMm: tuple[float, float] | None = None


def userFolder() -> Path:
    """Return the folder of imported weights, beside Slicer's settings; it need not be there yet."""
    application = getattr(slicer, "app", None)
    if application is None:
        return Path.home() / ".DeepAttentionReg" / "Weights"
    return Path(application.userSettings().fileName()).parent / "DeepAttentionReg" / "Weights"


def listWeights(folder: Path | None = None) -> list[Entry]:
    """Return all weights, those of the extension first.

    Their files are read to compare them with their SHA-256, but not again until they change.

    :param folder: of the imported ones; None takes the user's.
    """
    return [*_shippedEntries(), *map(_importedEntry, sorted((folder or userFolder()).glob("*.json")))]


def weightsFor(method: str, axes: int, folder: Path | None = None) -> list[Entry]:
    """Return the weights that serve a method on single slices (2 axes) or volumes (3)."""
    return [entry for entry in listWeights(folder) if (method, axes) in entry.serves]


def find(name: str | None) -> Entry | None:
    """Return the weights of an id or of the name of an imported file; None if there are none.

    :param name: as the engine or a record tells it; None if no weights were used.
    """
    entries = listWeights() if name is not None else []
    return next((entry for entry in entries if name in (entry.id, entry.isImported and entry.path.name)), None)


def licenceText(entry: Entry) -> str:
    """Return the sentence on the licence that has to be seen before use; empty if it allows any use."""
    if not entry.licence:
        text = _("The license of the weights {title} is not known; find out what it allows before you use them.")
    elif NON_COMMERCIAL.search(entry.licence):
        text = _("The weights {title} may be used for non-commercial purposes only ({licence}).")
    else:
        return ""
    return text.format(title=entry.title, licence=entry.licence)


def importWeights(
    path: str | Path, method: str | None = None, axes: int | None = None, folder: Path | None = None
) -> Entry:
    """Copy weights into the user's folder, unless they are there already.

    :param path: a .pt file, the state dict of a method's network.
    :param method: name of the method that they serve; None takes it from the JSON file beside them.
    :param axes: 2 for single slices, 3 for volumes; None takes it from that file, or else takes both.
    :param folder: where to; None takes the user's folder.
    :return: the imported weights; their `id` is what a registration takes.
    :raises ValueError: in a sentence, if they cannot be used or not be copied; then nothing is left behind.
    """
    path, folder = Path(path), folder or userFolder()
    with _inOneSentence(path, folder):
        told = _checkFile(path)
        serves = _servedBy(path, told, method, axes)
        digest = _sha256(*_stamp(path))
        same = [entry for entry in listWeights(folder) if _holds(entry, digest, serves)]
        if same:
            return same[0]
        described = {**asdict(told), "method": serves[0][0], "dimensions": [axis for _name, axis in serves]}
        described.update(title=told.title or path.stem, sha256=digest, bytes=path.stat().st_size)
        return _importedEntry(_copyIn(path, described, folder))


def deleteWeights(entry: Entry) -> None:
    """Remove imported weights for good.

    :raises ValueError: in a sentence, if they belong to the extension or cannot be removed.
    """
    if not entry.isImported:
        text = _("The weights {title} belong to the extension and are removed with it.")
        raise ValueError(text.format(title=entry.title))
    try:
        entry.path.with_suffix(".json").unlink(missing_ok=True)
        entry.path.unlink(missing_ok=True)
    except OSError as error:
        text = _("The weights {title} could not be deleted: {reason}.")
        raise ValueError(text.format(title=entry.title, reason=error.strerror)) from error


def _shippedEntries() -> list[Entry]:
    """Return the weights of the extension; damaged descriptions, of which the log tells, are left out."""
    try:
        listed = registry.load_weights().values()
    except errors.EngineError as error:
        logger.warning("%s", error)
        return []
    methods = registry.resources() / "Methods"
    variants = _variantsByWeights(methods, methods.stat().st_mtime_ns)
    entries = []
    for weights in listed:
        path = registry.resources() / "Models" / weights.file
        problem = _problemOf(path, weights.sha256, _("Install the extension again."))
        served = variants.get(weights.id, ())
        serves = tuple((name, variant.dimensions) for name, variant in served)
        texts = weights.id, weights.id, serves, weights.licence, weights.training_data
        entry = Entry(*texts, weights.bytes, path, isImported=False, problem=problem)
        known = served[0][1] if served else None
        entries.append(replace(entry, anatomy=known.anatomy, extentMm=known.extent_mm) if known else entry)
    return entries


@functools.lru_cache(maxsize=1)
def _variantsByWeights(_folder: Path, _modified: int) -> dict[str | None, tuple[tuple[str, registry.Variant], ...]]:
    """Return the methods that have the weights of the extension, and how; the arguments change when its methods do."""
    variants: dict[str | None, tuple[tuple[str, registry.Variant], ...]] = {}
    for name in registry.method_names():
        with suppress(errors.EngineError):
            for variant in registry.load_method(name).variants:
                variants[variant.weights] = (*variants.get(variant.weights, ()), (name, variant))
    return variants


def _importedEntry(description: Path) -> Entry:
    """Return imported weights from their JSON file."""
    path = description.with_suffix(SUFFIX)
    hint = _("Delete these weights and import them again.")
    try:
        told = told_beside(path, _completeOnly)
        serves = tuple((str(told.method), axis) for axis in told.dimensions)
        texts, size = (str(told.title), serves, told.licence, told.training_data), told.bytes
        known: dict[str, Any] = {"anatomy": told.anatomy, "extentMm": told.extent_mm}
        problem = _problemOf(path, str(told.sha256), hint)
    except (errors.EngineError, ValueError) as error:
        texts, size, known, problem = (description.stem, (), "", ""), 0, {}, str(error)
        if getattr(error, "code", errors.WEIGHTS_CORRUPT) == errors.WEIGHTS_CORRUPT:
            problem = _("The file {name} is damaged. {hint}").format(name=description.name, hint=hint)
    return Entry(str(path), *texts, size, path, isImported=True, problem=problem, **known)


def _completeOnly(told: Told) -> Told:
    """Return what is told of imported weights, if nothing is missing that the import has noted."""
    isComplete = None not in (told.method, told.title, told.sha256) and isinstance(told.dimensions, list)
    if not isComplete or not all(type(axis) is int for axis in told.dimensions):
        msg = "what an import notes is missing"
        raise ValueError(msg)
    return told


def _problemOf(path: Path, sha256: str, hint: str) -> str:
    try:
        require_readable(path)
        isRight = _sha256(*_stamp(path)) == sha256
    except errors.EngineError as error:
        isMissing = error.code == errors.INPUT_MISSING
        return _("The file {name} is missing. {hint}").format(name=path.name, hint=hint) if isMissing else str(error)
    except OSError as error:
        return str(unreachable(path, error))
    return "" if isRight else _("The file {name} is damaged. {hint}").format(name=path.name, hint=hint)


def _stamp(path: Path) -> tuple[Path, int, int]:
    """Return what changes when a file does."""
    status = path.stat()
    return path, status.st_mtime_ns, status.st_size


@functools.lru_cache(maxsize=64)
def _sha256(path: Path, _modified: int, _size: int) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(2**20):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def _inOneSentence(path: Path, folder: Path) -> Iterator[None]:
    """Say in one sentence why weights cannot be imported."""
    try:
        yield
    except errors.EngineError as error:
        raise ValueError(str(error)) from error
    except OSError as error:
        text = _("{name} could not be copied to {folder}: {reason}.")
        raise ValueError(text.format(name=path.name, folder=folder, reason=error.strerror or error)) from error


def _checkFile(path: Path) -> Told:
    """Return what the JSON file beside weights tells, nothing without one.

    PyTorch writes a zip archive, of parts as they are, whose checksums can be verified without PyTorch.

    :raises ValueError: if the weights are damaged.
    :raises EngineError: if a file cannot be read, or the JSON file is damaged.
    """
    require_readable(path)
    try:
        with zipfile.ZipFile(path) as archive:
            isPlain = all(part.compress_type == zipfile.ZIP_STORED for part in archive.infolist())
            isState = any(name.endswith("/data.pkl") for name in archive.namelist())
            isRight = isPlain and isState and archive.testzip() is None
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError):
        isRight = False
    if not isRight or path.suffix != SUFFIX:
        text = _("{name} is no {suffix} file of PyTorch, or it is damaged or truncated; export or copy it again.")
        raise ValueError(text.format(name=path.name, suffix=SUFFIX))
    return told_beside(path, lambda told: told)


def _servedBy(path: Path, told: Told, name: str | None, axes: int | None) -> tuple[tuple[str, int], ...]:
    """Return the method and the axes that weights serve.

    :raises EngineError: if they cannot serve them.
    """
    name = name or told.method
    if name is None:
        raise ValueError(_("Choose the method that {name} is for.").format(name=path.name))
    method = registry.load_method(str(name))
    found = axes or told.dimensions or told.network.get("nd") or AXES
    chosen = found if isinstance(found, (list, tuple)) else [found]
    if not all(type(axis) is int and axis in AXES for axis in chosen):
        text = _("{name} is for {axes} dimensions; only 2 and 3 are known.")
        raise ValueError(text.format(name=path.name, axes=shown(found)))
    for axis in chosen:
        registry.choose_variant(method, axis, str(path))
    return tuple((method.name, axis) for axis in chosen)


def _holds(entry: Entry, digest: str, serves: tuple[tuple[str, int], ...]) -> bool:
    """Return whether imported weights are the same and serve the same."""
    isSound = entry.isImported and not entry.problem
    return isSound and set(serves) <= set(entry.serves) and _sha256(*_stamp(entry.path)) == digest


def _copyIn(path: Path, described: dict[str, Any], folder: Path) -> Path:
    """Copy weights into a folder and return their description, from whose appearance on they count."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = re.sub(r"[^\w.-]+", "-", path.stem).strip(".-") or "weights"
    names = (stem if number == 1 else f"{stem}-{number}" for number in itertools.count(1))
    target = next(folder / f"{name}.json" for name in names if not (folder / f"{name}.json").exists())
    try:
        with path.open("rb") as source:
            _write(target.with_suffix(SUFFIX), lambda stream: shutil.copyfileobj(source, stream), described["sha256"])
        text = json.dumps(described, indent=2).encode("ascii")
        _write(target, lambda stream: stream.write(text), hashlib.sha256(text).hexdigest())
    except BaseException:
        target.with_suffix(SUFFIX).unlink(missing_ok=True)
        raise
    return target


def _write(target: Path, fill: Callable[[BinaryIO], object], sha256: str) -> None:
    """Write a file under a temporary name, compare it with its hash and only then give it its own.

    :raises OSError: if that cannot be done, or not all of it has arrived.
    """
    handle, name = tempfile.mkstemp(dir=target.parent)
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as stream:
            fill(stream)
            stream.flush()
            os.fsync(stream.fileno())
        if _sha256(*_stamp(temporary)) != sha256:
            raise OSError(_("only a part of it has arrived"))
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
