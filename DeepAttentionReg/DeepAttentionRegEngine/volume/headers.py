"""Headers that ITK's readers do not survive, refused before these see them: they crash, or never end."""

import re
from pathlib import Path

from ..protocol.file_use import META, NRRD, header_text, require_beside
from ..protocol.files import unfit, unreadable

MOST_AXES, MOST_NRRD_AXES = 10, 16  # what MetaImage and NRRD can hold; ITK itself reads five
LONGEST_LINE = 1000  # what the NRRD reader has room for when it complains of a line
# Of NRRD, fields with an entry per axis.
PER_AXIS = (
    "sizes",
    "spacings",
    "thicknesses",
    "axismins",
    "axismaxs",
    "centers",
    "centerings",
    "labels",
    "units",
    "kinds",
)
LINKED = (".spr", ".sdt")  # Stimulate, whose headers name files anywhere


def require_sound_header(name: str) -> None:
    """Refuse a header that would take the reader with it, or that names voxels elsewhere.

    Raises:
        EngineError: If it does.
    """
    lower = name.lower()
    if lower.endswith(LINKED):
        raise unfit(name, "is of a kind whose header may name any file as its voxels", "Convert it to NRRD.")
    require_beside(name)
    if lower.endswith(META):
        _require_meta_axes(name)
    elif lower.endswith(NRRD):
        _require_nrrd_lines(name)


def _require_meta_axes(name: str) -> None:
    text = header_text(Path(name)).partition("ElementDataFile")[0]
    for value in re.findall(r"NDims[ \t]*[=:][ \t]*([^\r\n]*)", text):
        if not (value.strip().isdecimal() and len(value) < 4 and 1 <= int(value) <= MOST_AXES):
            raise unreadable(name, "its number of axes makes no sense")


def _require_nrrd_lines(name: str) -> None:
    header = re.split(r"\r?\n\r?\n", header_text(Path(name)), maxsplit=1)[0]
    for line in re.split(r"\r?\n", header):
        if len(line) > LONGEST_LINE and ":=" not in line[:LONGEST_LINE]:  # which may hold texts of any length
            raise unreadable(name, f"a line of its header has {len(line)} characters")
        field, _, value = line.partition(":")
        key = field.strip().lower().replace(" ", "")
        if key in PER_AXIS and len(re.findall(r'"[^"]*"|\S+', value)) > MOST_NRRD_AXES:
            raise unreadable(name, f"it has more {field.strip()} than a file can have axes")
