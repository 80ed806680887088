"""Arrays to tensors and back, and the choice of device."""

import numpy as np
import torch
from torch import Tensor

from ..protocol import errors


def to_tensor(array: np.ndarray, device: torch.device, kind: type[np.floating] = np.float32) -> Tensor:
    """Copy an array to a tensor of single or, if asked for, double precision.

    Goes through DLPack, because `torch.from_numpy` fails where torch was built for another numpy generation.
    """
    return torch.from_dlpack(np.array(array, dtype=kind, order="C")).to(device)


def to_array(tensor: Tensor) -> np.ndarray:
    """Copy a tensor to a writable array of the same type."""
    return np.array(np.from_dlpack(tensor.detach().cpu().contiguous()))


def choose_device(name: str) -> torch.device:
    """Return the device of a job: "auto" takes the first GPU, else the CPU.

    Raises:
        EngineError: If a GPU is asked for by name and is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise errors.EngineError(
            errors.DEVICE_UNAVAILABLE, f"The device {name!r} is unknown.", "Choose auto, cpu, cuda or cuda:0."
        ) from error
    if device.type == "cpu":
        return device
    if device.type != "cuda" or (device.index or 0) >= torch.cuda.device_count():
        raise errors.EngineError(
            errors.DEVICE_UNAVAILABLE,
            f"The device {name!r} is not available on this computer ({torch.cuda.device_count()} CUDA devices found).",
            "Choose auto or cpu, or repair the graphics driver.",
        )
    return device


def use_full_precision() -> None:
    """Have GPUs convolve in true single precision; TensorFloat-32, their default, keeps three digits only."""
    torch.backends.cudnn.allow_tf32 = False


def describe_devices() -> list[dict[str, object]]:
    """Return name and free and total memory in bytes of every CUDA device; memory is None if it cannot be asked."""
    devices: list[dict[str, object]] = []
    for index in range(torch.cuda.device_count()):
        try:
            free, total = torch.cuda.mem_get_info(index)
        except RuntimeError:
            free, total = None, None
        name = torch.cuda.get_device_name(index)
        devices.append({"id": f"cuda:{index}", "name": name, "free": free, "total": total})
    return devices
