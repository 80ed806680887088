"""A device that is not there: its tensors lie in main memory and compute there, but mix with no others, as on a GPU.

    with OtherDevice() as device:
        image = image.to(OTHER)

Whatever is made on it or computed of its tensors lies on it. An operation that takes tensors of it and others together
is refused as CUDA refuses it: only numbers without axes, and places to look up, may come from the CPU.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "elsewhere"
aten = torch.ops.aten
TRANSFERS = {aten._to_copy.default, aten.copy_.default}
LOOK_UPS = {aten.index.Tensor, aten.index_put_.default, aten.index_put.default}


class _Backend:
    """What PyTorch asks a device about."""

    @staticmethod
    def get_amp_supported_dtype() -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]

    is_initialized = is_available = staticmethod(lambda: True)
    current_device = staticmethod(lambda: 0)
    device_count = staticmethod(lambda: 1)
    _is_in_bad_fork = staticmethod(lambda: False)
    manual_seed_all = staticmethod(lambda seed: None)


_setup_privateuseone_for_python_backend(NAME, _Backend)
OTHER = torch.device(NAME, 0)


class _There(torch.Tensor):
    """A tensor of the device."""

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> "_There":
        layout = {"strides": inner.stride(), "storage_offset": inner.storage_offset(), "dtype": inner.dtype}
        return torch.Tensor._make_wrapper_subclass(cls, inner.size(), device=OTHER, **layout)

    def __init__(self, inner: torch.Tensor) -> None:
        self.inner = inner

    def new_tensor(self, data: Any) -> torch.Tensor:
        """Return a tensor of numbers, which PyTorch makes without asking a mode."""
        return torch.tensor(data, dtype=self.dtype, device=OTHER)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        msg = f"{func} computes on the other device after the test"
        raise RuntimeError(msg)


def _reaching(proper: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """Return a function that makes tensors of numbers on the device, too, which PyTorch does without asking a mode."""

    def make(*args: Any, **kwargs: Any) -> torch.Tensor:
        device = kwargs.get("device")
        if device is None or torch.device(device).type != NAME:
            return proper(*args, **kwargs)
        return proper(*args, **{**kwargs, "device": None}).to(OTHER)

    return make


class OtherDevice(TorchDispatchMode):
    """Makes the device known.

    Attributes:
        copied: Values of every tensor with axes that went to main memory.
        asked: How many single numbers did.
    """

    def __init__(self) -> None:
        super().__init__()
        self.copied: list[int] = []
        self.asked = 0
        self._proper = torch.tensor, torch.as_tensor

    def __enter__(self) -> "OtherDevice":
        torch.tensor, torch.as_tensor = map(_reaching, self._proper)
        return super().__enter__()

    def __exit__(self, *raised: Any) -> None:
        super().__exit__(*raised)
        torch.tensor, torch.as_tensor = self._proper

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        tensors = [item for item in tree_flatten((args, kwargs))[0] if isinstance(item, torch.Tensor)]
        there = {id(item.inner): item for item in tensors if isinstance(item, _There)}
        wanted = kwargs.get("device")
        is_there = bool(there) if wanted is None else torch.device(wanted).type == NAME
        if is_there and wanted is not None:
            kwargs["device"] = torch.device("cpu")
        if there:
            self._look(func, args, tensors, is_there)
        inner_args, inner_kwargs = tree_map(_inside, (args, kwargs))
        found = func(*inner_args, **inner_kwargs)

        def placed(item: Any) -> Any:
            if id(item) in there:  # what changed in place is the tensor that it was
                return there[id(item)]
            return _There(item) if is_there and isinstance(item, torch.Tensor) else item

        return tree_map(placed, found)

    def _look(self, func: Any, args: Any, tensors: list[torch.Tensor], is_there: bool) -> None:
        """Count what leaves the device, and refuse what mixes it with another one."""
        here = [item for item in tensors if not isinstance(item, _There) and item.ndim]
        may_mix = func in TRANSFERS or (func in LOOK_UPS and isinstance(args[0], _There))
        if here and not may_mix:
            msg = f"{func}: expected all tensors to be on the same device, but found {OTHER} and cpu"
            raise RuntimeError(msg)
        self.asked += func is aten._local_scalar_dense.default
        leaves = not is_there or (func is aten.copy_.default and not isinstance(args[0], _There))
        if leaves and func in TRANSFERS:
            self.copied += [item.numel() for item in tensors if isinstance(item, _There) and item.ndim]


def _inside(item: Any) -> Any:
    return item.inner if isinstance(item, _There) else item
