"""Headers that ITK's readers do not survive, refused before these see them: they crash, or never end."""

import re
from pathlib import Path

from ..protocol.file_use import LONGEST_HEADER, META, NRRD, header_text, require_beside
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
HEADER_ENDS = {META: re.compile(r"ElementDataFile[ \t]*[=:](?![ \t]*LIST)"), NRRD: re.compile(r"\r?\n\r?\n")}
LINKED = (".spr", ".sdt")  # Stimulate, whose headers name files anywhere


def require_sound_header(name: str) -> None:
    """Refuse a header that would take the reader with it, or that names voxels elsewhere.

    Raises:
        EngineError: If it does.
    """
    lower = name.lower()
    if lower.endswith(LINKED):
        raise unfit(name, "is of a kind whose header may name any file as its voxels", "Convert it to NRRD.")
    kind = next((kind for kind in HEADER_ENDS if lower.endswith(kind)), None)
    if kind is None:
        return
    text = header_text(Path(name))
    if len(text) == LONGEST_HEADER and not HEADER_ENDS[kind].search(text):  # what comes later is not seen here
        raise unreadable(name, "its header does not end")
    require_beside(name)
    (_require_meta_axes if kind == META else _require_nrrd_lines)(name, text)


def _require_meta_axes(name: str, text: str) -> None:
    for value in re.findall(r"NDims[ \t]*[=:][ \t]*([^\r\n]*)", text.partition("ElementDataFile")[0]):
        if not (value.strip().isdecimal() and len(value) < 4 and 1 <= int(value) <= MOST_AXES):
            raise unreadable(name, "its number of axes makes no sense")


def _require_nrrd_lines(name: str, text: str) -> None:
    for line in re.split(r"\r?\n", HEADER_ENDS[NRRD].split(text, maxsplit=1)[0]):
        if len(line) > LONGEST_LINE and ":=" not in line[:LONGEST_LINE]:  # which may hold texts of any length
            raise unreadable(name, f"a line of its header has {len(line)} characters")
        field, _, value = line.partition(":")
        key = field.strip().lower().replace(" ", "")
        if key in PER_AXIS and len(re.findall(r'"[^"]*"|\S+', value)) > MOST_NRRD_AXES:
            raise unreadable(name, f"it has more {field.strip()} than a file can have axes")
