"""The memory of this process and of this machine; and the allocator, told to keep what is freed for the next step."""

import ctypes
import platform
from pathlib import Path

_M_MMAP_THRESHOLD = -3
_M_TRIM_THRESHOLD = -1
_M_ARENA_MAX = -8
_KEEP = 2**30  # 1 GiB: larger than any activation of a batch that fits


def keep_pages() -> bool:
    """Tells glibc not to hand big freed blocks back to the kernel; returns whether it did (False without glibc).

    Else every large activation is a fresh mapping whose pages the kernel zeroes one by one: the forward of a
    convolutional net on CPU is several times slower. The price: the process keeps its peak memory, and more than the
    peak where blocks of many sizes come and go (docs/how_to/memory.md).
    All threads share one arena: what a thread other than the first frees would go back to the kernel all the same.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    wanted = {_M_MMAP_THRESHOLD: _KEEP, _M_TRIM_THRESHOLD: 2 * _KEEP - 1, _M_ARENA_MAX: 1}
    return all(bool(mallopt(option, value)) for option, value in wanted.items())


def resident() -> int | None:
    """Returns the bytes of memory that this process has now; None where the system does not say (not Linux)."""
    return _status("VmRSS")


def peak_resident() -> int | None:
    """Returns the most that it ever had; not `getrusage`'s, which begins with that of the process that started it."""
    return _status("VmHWM")


def memory_of_machine(proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Returns the bytes that this machine, or the container that this process is in, has; None where nobody says."""
    try:
        lines = dict(line.split(":", 1) for line in (proc / "meminfo").read_text().splitlines())
    except OSError:
        return None
    limits = [1024 * int(lines["MemTotal"].split()[0])]
    for line in (proc / "self" / "cgroup").read_text().splitlines() if (proc / "self" / "cgroup").exists() else ():
        _, controllers, name = line.split(":", 2)
        below = {"": "", "memory": "memory"}.get(controllers)
        if below is None:
            continue
        top = cgroups / below
        # A limit holds for everything below it. Inside a container the top is the container's own.
        for folder in [top / name.lstrip("/"), *(top / name.lstrip("/")).parents]:
            for file in (folder / "memory.max", folder / "memory.limit_in_bytes"):
                if file.is_file() and (text := file.read_text().strip()) != "max":
                    limits.append(int(text))
            if folder == cgroups:
                break
    return min(limits)


def _status(name: str) -> int | None:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:")), None)
