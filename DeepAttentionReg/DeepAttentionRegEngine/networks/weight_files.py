"""Reads the weight files that PyTorch writes without PyTorch's own reader, and without running anything they hold.

`torch.save` writes a zip archive: the numbers of each tensor as they are, and a program for Python's unpickler that
puts them together. A program can call whatever Python has; `torch.load` of releases before 2.6 can be made to, and
before 2.10 to read and write beyond its memory. Here the program is not run but read: of its instructions, those that a
dictionary of tensors needs are known, they make plain values, and a call is either that of a tensor or nothing.
"""

import io
import math
import pickletools
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NoReturn

import torch
from torch import Tensor

LARGEST_PROGRAM = 2**24
TYPES = {
    f"{name}Storage": kind
    for name, kind in {
        "Double": torch.float64,
        "Float": torch.float32,
        "Half": torch.float16,
        "BFloat16": torch.bfloat16,
        "Long": torch.int64,
        "Int": torch.int32,
        "Short": torch.int16,
        "Char": torch.int8,
        "Byte": torch.uint8,
        "Bool": torch.bool,
    }.items()
}
MARK = object()


@dataclass(frozen=True)
class Name:
    """What the program names by module and name; it is never looked up."""

    module: str
    name: str


class Archive:
    """The zip archive, whose parts together are no larger than it is."""

    def __init__(self, content: bytes) -> None:
        self._zip = zipfile.ZipFile(io.BytesIO(content))
        parts = self._zip.infolist()
        if any(part.compress_type != zipfile.ZIP_STORED for part in parts):
            _refuse("its parts are compressed, which PyTorch never does")
        if sum(part.file_size for part in parts) > len(content):
            _refuse("its parts are larger than the file")
        programs = [part.filename for part in parts if part.filename.endswith("/data.pkl")]
        if len(programs) != 1:
            _refuse("it is no file of one dictionary of tensors")
        self._folder = programs[0].removesuffix("data.pkl")
        order = f"{self._folder}byteorder"
        if order in self._zip.namelist() and self._zip.read(order) != b"little":
            _refuse("it comes from a computer of another byte order")

    def program(self) -> bytes:
        """Return the program."""
        return self._zip.read(f"{self._folder}data.pkl")[:LARGEST_PROGRAM]

    def storage(self, key: str, kind: torch.dtype, count: int) -> Tensor:
        """Return so many numbers of a type."""
        numbers = self._zip.read(f"{self._folder}data/{key}")
        if not 0 <= count <= len(numbers) // kind.itemsize:
            _refuse("a tensor has less numbers than it says")
        return torch.frombuffer(bytearray(numbers), dtype=kind, count=count) if count else torch.empty(0, dtype=kind)


def read_state(content: bytes) -> dict[str, Tensor]:
    """Return the dictionary of tensors that a weight file holds.

    Args:
        content: Of the file.

    Raises:
        ValueError: If it holds anything else; zipfile's errors and `KeyError`, `TypeError` and `IndexError` likewise.

    Examples:
        >>> stream = io.BytesIO()
        >>> torch.save({"bias": torch.arange(3)}, stream)
        >>> read_state(stream.getvalue())
        {'bias': tensor([0, 1, 2])}
    """
    state = _Machine(Archive(content)).run()
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in state.items()
    ):
        _refuse("it holds other things than tensors by name, as a state dict has them")
    # Before they become floats: views of few numbers can claim to be many.
    if sum(value.numel() for value in state.values()) > len(content):
        _refuse("it names more numbers than it holds")
    return state


def _refuse(why: str) -> NoReturn:
    raise ValueError(why)


def _tensor(storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: object) -> Tensor:
    """Return a part of a storage as `torch._utils._rebuild_tensor_v2` does, if it is one."""
    whole = (offset, *size, *stride)
    if not isinstance(storage, Tensor) or not all(type(number) is int and number >= 0 for number in whole):
        _refuse("a tensor is described by what are no sizes")
    last = offset + sum((count - 1) * step for count, step in zip(size, stride, strict=True))
    numbers = int(math.prod(size))
    if numbers > storage.numel() or (numbers and last >= storage.numel()):
        _refuse("a tensor reaches beyond its numbers")
    return torch.as_strided(storage, size, stride, offset)


# Whatever else is called, refuses the file.
CALLS: dict[Name, Callable[..., Any]] = {
    Name("torch._utils", "_rebuild_tensor_v2"): _tensor,
    Name("torch._utils", "_rebuild_parameter"): lambda tensor, *_: tensor,
    Name("collections", "OrderedDict"): lambda *_: {},
}


@dataclass
class _Machine:
    """Follows the instructions that put a state dict together; `pickletools` says what each of them is."""

    archive: Archive
    stack: list[Any] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)
    storages: dict[str, Tensor] = field(default_factory=dict)

    def run(self) -> Any:
        """Return what is on the stack in the end."""
        for instruction, argument, _place in pickletools.genops(self.archive.program()):
            name = instruction.name
            if name in VALUES:
                self.stack.append(VALUES[name](argument))
            elif name in ACTIONS:
                ACTIONS[name](self, argument)
            elif name not in ("PROTO", "FRAME", "STOP"):
                _refuse(f"it holds {name}, which no state dict needs")
        return self.stack.pop()

    def remember(self, number: int | None) -> None:
        self.memo[len(self.memo) if number is None else number] = self.stack[-1]

    def recall(self, number: int) -> None:
        self.stack.append(self.memo[number])

    def since_mark(self) -> list[Any]:
        found = []
        while (value := self.stack.pop()) is not MARK:
            found.append(value)
        return found[::-1]

    def last(self, count: int) -> list[Any]:
        found = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        return found

    def name(self, argument: str | None) -> None:
        """Put a name on the stack, given as "module name" or by the two values before."""
        parts = self.last(2) if argument is None else argument.split(" ", 1)
        self.stack.append(Name(*(str(part) for part in parts)))

    def call(self, _argument: None) -> None:
        target, arguments = self.last(2)
        if target not in CALLS:
            shown = f"{target.module}.{target.name}" if isinstance(target, Name) else "something without a name"
            _refuse(f"it asks for {shown}, which no state dict needs")
        self.stack.append(CALLS[target](*arguments))

    def load(self, _argument: None) -> None:
        """Put the numbers that a description `("storage", type, key, device, count)` stands for on the stack."""
        what, kind, key, _device, count = self.stack.pop()
        if what != "storage" or not isinstance(kind, Name) or kind.module != "torch":
            _refuse("it refers to what are no numbers")
        if key not in self.storages:
            self.storages[key] = self.archive.storage(key, TYPES[kind.name], count)
        storage = self.storages[key]
        if (storage.dtype, storage.numel()) != (TYPES[kind.name], count):
            _refuse("it has two descriptions of the same numbers")
        self.stack.append(storage)

    def fill(self, pairs: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, dict):
            _refuse("it puts entries into what is no dictionary")
        target.update(zip(pairs[::2], pairs[1::2], strict=True))

    def extend(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, list):
            _refuse("it appends to what is no list")
        target.extend(items)


# Instructions that put a value on the stack: their argument, or what is made here.
ARGUMENTS = ("BINUNICODE", "SHORT_BINUNICODE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT")
VALUES: dict[str, Callable[[Any], Any]] = {
    **dict.fromkeys(ARGUMENTS, lambda argument: argument),
    "EMPTY_DICT": lambda _: {},
    "EMPTY_LIST": lambda _: [],
    "EMPTY_TUPLE": lambda _: (),
    "NONE": lambda _: None,
    "NEWTRUE": lambda _: True,
    "NEWFALSE": lambda _: False,
    "MARK": lambda _: MARK,
}
ACTIONS: dict[str, Callable[[_Machine, Any], None]] = {
    "BINPUT": _Machine.remember,
    "LONG_BINPUT": _Machine.remember,
    "MEMOIZE": _Machine.remember,
    "BINGET": _Machine.recall,
    "LONG_BINGET": _Machine.recall,
    "GLOBAL": _Machine.name,
    "STACK_GLOBAL": _Machine.name,
    "REDUCE": _Machine.call,
    "BINPERSID": _Machine.load,
    # What a dictionary has besides its entries, as that of a module's state, is left out.
    "BUILD": lambda machine, _: machine.stack.pop() and None,
    "TUPLE": lambda machine, _: machine.stack.append(tuple(machine.since_mark())),
    "TUPLE1": lambda machine, _: machine.stack.append(tuple(machine.last(1))),
    "TUPLE2": lambda machine, _: machine.stack.append(tuple(machine.last(2))),
    "TUPLE3": lambda machine, _: machine.stack.append(tuple(machine.last(3))),
    "SETITEM": lambda machine, _: machine.fill(machine.last(2)),
    "SETITEMS": lambda machine, _: machine.fill(machine.since_mark()),
    "APPEND": lambda machine, _: machine.extend(machine.last(1)),
    "APPENDS": lambda machine, _: machine.extend(machine.since_mark()),
}
