"""The settings of a registration as options of a command line. Standard library only."""

import argparse
import types
import typing
from collections.abc import Sequence
from dataclasses import Field, fields
from typing import Any

from .protocol.settings import Settings


def add_settings(parser: argparse.ArgumentParser, leave_out: Sequence[str] = ()) -> None:
    """Add an option for each setting: its name, type, default, choices and help are those of `Settings`.

    Args:
        parser: To which they are added, in groups.
        leave_out: Settings not to offer.
    """
    hints = typing.get_type_hints(Settings)
    groups: dict[str, Any] = {"": parser}
    for item in fields(Settings):
        if item.name in leave_out:
            continue
        title = item.metadata["group"]
        if title not in groups:
            groups[title] = parser.add_argument_group(title)
        groups[title].add_argument(option_of(item.name), **_arguments(item, _plain(hints[item.name])))


def option_of(name: str) -> str:
    """Return the option of a setting."""
    return "--" + name.replace("_", "-")


def _plain(hint: Any) -> type:
    """Return the type of a value that is given; that it may be left open does not matter here."""
    kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    return next(kind for kind in kinds if kind is not type(None))


def _arguments(item: "Field[Any]", kind: type) -> dict[str, Any]:
    told = {"help": item.metadata["help"], "default": item.default}
    if kind is bool:
        return {**told, "action": argparse.BooleanOptionalAction}
    if item.metadata["choices"]:
        return {**told, "choices": tuple(item.metadata["choices"])}
    return {**told, "type": kind, "metavar": item.metadata["unit"] or None}
