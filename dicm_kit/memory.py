"""Keeps freed memory inside the process, where the next step finds it again."""

import ctypes
import platform

_M_MMAP_THRESHOLD = -3
_M_TRIM_THRESHOLD = -1
_M_ARENA_MAX = -8
_KEEP = 2**30  # 1 GiB: larger than any activation of a batch that fits


def keep_pages() -> bool:
    """Tells glibc not to hand big freed blocks back to the kernel; returns whether it did (False without glibc).

    Else every large activation is a fresh mapping whose pages the kernel zeroes one by one: the forward of a
    convolutional net on CPU is several times slower. The price: the process keeps its peak memory.
    All threads share one arena: what a thread other than the first frees would go back to the kernel all the same.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    wanted = {_M_MMAP_THRESHOLD: _KEEP, _M_TRIM_THRESHOLD: 2 * _KEEP - 1, _M_ARENA_MAX: 1}
    return all(bool(mallopt(option, value)) for option, value in wanted.items())
