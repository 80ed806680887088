"""Keeps memory that was freed, for a process that makes tensors of the same size over and over."""

import ctypes
import sys

# Of mallopt(3) in glibc's malloc.h.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
TOP_PAD = 64 * 2**20


def keep_freed_memory() -> bool:
    """Have glibc reuse what was freed; returns whether it does, which other C libraries do by themselves or not at all.

    Usually it takes each large tensor from the kernel and gives it back, and a kernel that clears pages at every step
    of a descent takes as long as the arithmetic. For programs that own their process.
    """
    if not sys.platform.startswith("linux"):
        return False
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version"):
        return False
    return bool(libc.mallopt(M_MMAP_MAX, 0) and libc.mallopt(M_TRIM_THRESHOLD, -1) and libc.mallopt(M_TOP_PAD, TOP_PAD))
