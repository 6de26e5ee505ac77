"""The allocator keeps its pages, in a process of its own so that this one stays as it is."""

import platform
import subprocess
import sys

import pytest

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
assert faults() - before < 1000, faults() - before  # 64 MiB are 16,384 pages, each time without it
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has mallopt")
def test_freed_memory_is_used_again_without_asking_the_kernel() -> None:
    subprocess.run([sys.executable, "-c", CODE], check=True, timeout=120)
