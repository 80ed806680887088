"""What is passed on to others, such as reports, records, tables and logs, tells no folders and runs nothing.

A path of which a text tells loses its folders, which name users, patients and studies; the name of the file is left.
Standard library only.
"""

import csv
import dataclasses
import io
import logging
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import PurePath
from typing import Any, TypeVar

# Names of files and folders, whose words may be apart by single spaces.
WORD = r"(?:[^\s\\/:*?\"'<>|]|(?<=\w)'(?=\w))+"
NAME = rf"{WORD}(?: {WORD})*"
# What an absolute path begins with: of a link, of the home folder, of a drive, of a network share, and a bare slash.
START = r"(?:file:[\\/]+|~[\\/]+|(?<!\w)[A-Za-z]:[\\/]+|(?<![\w.\\/])\\\\+|(?<![\w.~\\/:<])/+|(?<=:)/(?!/))"
# What tells nothing of a computer, and much to whoever looks for a mistake.
CODE = r"(?:site-packages|DeepAttentionReg(?:Engine|Lib))[\\/]"
FOLDERS = re.compile(rf"{START}(?:(?!{CODE}){NAME}(?<![(\[{{,;=])[\\/]+)*(?={NAME})")
# What a spreadsheet takes a cell for a formula by, or leaves out before it does.
FORMULA = ("=", "+", "-", "@", "\t", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")

T = TypeVar("T")


def without_folders(text: str) -> str:
    """Return a text with the file names alone of the absolute paths in it.

    Examples:
        >>> without_folders("The file /srv/ann/Study 7/ct.nrrd is damaged.")
        'The file ct.nrrd is damaged.'
    """
    return FOLDERS.sub("", _home().sub("~", text))


def _home() -> re.Pattern[str]:
    """Return what finds the home folder, whose name need not be one of a path that `FOLDERS` finds."""
    path = PurePath(os.path.expanduser("~"))
    names = [re.escape(name) for name in path.parts if name != path.anchor]
    if not path.anchor or not names:
        return re.compile(r"(?!)")
    return re.compile(r"[\\/]+".join([re.escape(path.drive), *names]) + r"(?![\w-])", re.IGNORECASE)


def without_folders_within(value: T) -> T:
    """Return lists, dictionaries and dataclasses with `without_folders` done to every text in them."""
    result: Any = value
    if isinstance(value, str):
        result = without_folders(value)
    elif isinstance(value, dict):
        result = {without_folders_within(key): without_folders_within(item) for key, item in value.items()}
    elif isinstance(value, (list, tuple)):
        result = type(value)(map(without_folders_within, value))
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        items = {item.name: without_folders_within(getattr(value, item.name)) for item in dataclasses.fields(value)}
        result = dataclasses.replace(value, **items)
    return result


class Discreet(logging.Filter):
    """Lets every record of a log pass, without folders: the message, the trace, and where it was made."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Change a record; what was formatted once is not formatted again."""
        record.msg, record.args = without_folders(record.getMessage()), None
        if record.exc_info:
            record.exc_text = without_folders(logging.Formatter().formatException(record.exc_info))
        record.exc_info, record.pathname = None, record.filename
        return True


def discreet_logger(name: str) -> logging.Logger:
    """Return the logger of this name, discreet."""
    logger = logging.getLogger(name)
    if not logger.filters:
        logger.addFilter(Discreet())
    return logger


def csv_text(rows: Iterable[Sequence[Any]]) -> str:
    """Return rows as CSV in which no text is a formula; numbers stay numbers, and None is an empty cell."""
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows([_inert(cell) for cell in row] for row in rows)
    return stream.getvalue()


def _inert(cell: Any) -> Any:
    if not isinstance(cell, str):
        return cell
    text = cell.replace("\r\n", "\n").replace("\r", "\n")  # the csv module lets a lone return end the row
    return f"'{text}" if text.startswith(FORMULA) else text
