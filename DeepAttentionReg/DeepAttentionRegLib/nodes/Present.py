"""What is there, though it might have been missing."""

from typing import TypeVar

Value = TypeVar("Value")


def present(value: Value | None) -> Value:
    """Return a value that was found to be there before, such as a node that a check has let pass.

    :raises RuntimeError: if it is not there after all.
    """
    if value is None:
        msg = "something that was there before is missing now"
        raise RuntimeError(msg)
    return value
