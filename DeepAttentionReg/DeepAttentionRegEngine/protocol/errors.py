"""The one exception that users see, and its codes."""

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
