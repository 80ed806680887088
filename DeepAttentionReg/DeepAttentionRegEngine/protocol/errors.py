"""The one exception that users see, its codes, and what errors of the system and of libraries mean to people."""

import errno
import re
from pathlib import Path

INPUT_MISSING = "input-missing"
INPUT_UNREADABLE = "input-unreadable"
INPUT_INVALID = "input-invalid"
NO_OVERLAP = "no-overlap"
MASK_OUTSIDE = "mask-outside"
OUTPUT_UNWRITABLE = "output-unwritable"
WEIGHTS_MISSING = "weights-missing"
WEIGHTS_CORRUPT = "weights-corrupt"
METHOD_UNKNOWN = "method-unknown"
OUT_OF_MEMORY = "out-of-memory"
DEVICE_UNAVAILABLE = "device-unavailable"
TORCH_MISSING = "torch-missing"
PACKAGE_MISSING = "package-missing"
CANCELLED = "cancelled"
CONTRACT = "contract"
INTERNAL = "internal"

# What libraries and loaders of libraries say when there is no memory left.
NO_MEMORY = re.compile(
    r"bad[_ ]alloc|alloc.*memory|memory.*alloc|unable to allocate|couldn't allocate|(out of|insufficient|enough) memory"
    r"|failed to map segment|paging file|alloc_failed",
    re.IGNORECASE | re.DOTALL,
)
NO_MEMORY_ON_WINDOWS = (8, 14, 1455)
LONGEST_SHOWN = 400
UNREACHABLE = {
    errno.EACCES: ("you have no permission", "Ask its owner for it, or for a copy."),
    errno.EPERM: ("you have no permission", "Ask its owner for it, or for a copy."),
    errno.ELOOP: ("its links lead in a circle", "Mend the links, or name the file that they stand for."),
    errno.ENAMETOOLONG: ("its name is too long", "Give it a shorter one, or check its path."),
}


class EngineError(Exception):
    """A problem the user can act on.

    Attributes:
        code: One of this module's constants, for programs.
        message: One sentence: what failed, with the value, and why.
        hint: One sentence: what to do.
    """

    def __init__(self, code: str, message: str, hint: str = "") -> None:
        super().__init__(f"{message} {hint}".strip())
        self.code, self.message, self.hint = code, message, hint


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error, of whatever library, says that there is no memory left.

    Examples:
        >>> [is_out_of_memory(error) for error in (RuntimeError("std::bad_alloc"), OSError("no such file"))]
        [True, False]
    """
    told = getattr(error, "errno", None) == errno.ENOMEM or getattr(error, "winerror", None) in NO_MEMORY_ON_WINDOWS
    return told or isinstance(error, MemoryError) or bool(NO_MEMORY.search(str(error)))


def is_text(value: str) -> bool:
    """Return whether a text can name a file here and everywhere: no NUL, no half of a character, no undecoded bytes."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in value


def shown(value: object) -> str:
    """Return a value that came from outside so that it fits into a sentence: printable, and not without end.

    Examples:
        >>> shown("scan\\n1.nrrd")
        'scan\\\\x0a1.nrrd'
    """
    text = "".join(sign if sign.isprintable() else f"\\x{ord(sign):02x}" for sign in str(value)[: 10 * LONGEST_SHOWN])
    half = LONGEST_SHOWN // 2
    return text if len(text) <= LONGEST_SHOWN else f"{text[:half]}...{text[-half:]}"


def unreachable(path: str | Path, error: OSError | ValueError) -> EngineError:
    """Return why a file cannot be looked at, as the system tells it."""
    name = shown(path)
    if isinstance(error, ValueError):  # NUL, half of a surrogate pair, or bytes that are no text
        return EngineError(
            INPUT_UNREADABLE,
            f"The file {name} cannot be read: its name holds what is no character.",
            "Give it another name.",
        )
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return EngineError(INPUT_MISSING, f"The file {name} does not exist.", "Check its path.")
    why = (error.strerror or type(error).__name__).lower()
    reason, hint = UNREACHABLE.get(error.errno or 0, (why, "Check the disk or the network that it lies on."))
    return EngineError(INPUT_UNREADABLE, f"The file {name} cannot be read: {reason}.", hint)
