"""The machine's memory; and the allocator keeps its pages, in a process of its own so that this one stays as it is."""

import platform
import subprocess
import sys
from pathlib import Path

import pytest

from dicm_kit.memory import memory_of_machine, peak_resident, resident

CODE = """
import resource, threading, torch
from dicm_kit.memory import keep_pages
assert keep_pages()
def faults(): return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def work(): return torch.ones(16 * 2**20)
def work_in_a_thread():
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
for _ in range(10):  # the small rests of aligned blocks lie in the way at first
    work()
before = faults()
for _ in range(5):
    work()
work_in_a_thread()
work_in_a_thread()
# 64 MiB are 16,384 pages, each time without it. Once something small may lie in the way: in one of some five processes.
assert faults() - before < 20_000, faults() - before
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has mallopt")
def test_freed_memory_is_used_again_without_asking_the_kernel() -> None:
    subprocess.run([sys.executable, "-c", CODE], check=True, timeout=120)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has /proc")
def test_the_memory_of_this_process() -> None:
    now, peak = resident(), peak_resident()
    assert now is not None
    assert peak is not None
    assert 10 * 2**20 < now <= peak


@pytest.mark.parametrize(
    ("cgroup", "file", "text", "found"),
    [
        ("0::/a/b", "a/b/memory.max", "4096", 4096),
        ("0::/a/b", "a/memory.max", "4096", 4096),  # a limit holds for what is below
        ("0::/a/b", "memory.max", "4096", 4096),  # inside a container
        ("0::/a/b", "a/b/memory.max", "max", 8192),
        ("0::/a/b", "c/memory.max", "4096", 8192),
        ("4:memory:/a", "memory/a/memory.limit_in_bytes", "4096", 4096),
        ("4:memory:/a", "memory/a/memory.limit_in_bytes", str(2**63 - 4096), 8192),  # none
        ("4:cpu:/a", "memory/a/memory.limit_in_bytes", "4096", 8192),
    ],
)
def test_the_memory_of_the_machine_or_container(tmp_path: Path, cgroup: str, file: str, text: str, found: int) -> None:
    proc, cgroups = tmp_path / "proc", tmp_path / "cgroups"
    (proc / "self").mkdir(parents=True)
    (proc / "meminfo").write_text("MemTotal:       8 kB\nMemFree:        4 kB\n")
    (proc / "self" / "cgroup").write_text(f"7:blkio:/\n{cgroup}\n")
    (cgroups / file).parent.mkdir(parents=True)
    (cgroups / file).write_text(f"{text}\n")
    assert memory_of_machine(proc, cgroups) == found


def test_a_system_that_does_not_say(tmp_path: Path) -> None:
    assert memory_of_machine(tmp_path / "nowhere", tmp_path) is None
