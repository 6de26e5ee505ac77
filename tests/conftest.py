"""What all tests share: golden files, one thread, and the rule that a test leaves nothing behind."""

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

_GOLDEN = Path(__file__).parent / "golden"

_LIGHTNINGS = {
    "PL_GLOBAL_SEED",
    "PL_SEED_WORKERS",
    "MASTER_ADDR",
    "MASTER_PORT",
    "WORLD_SIZE",
    "NODE_RANK",
    "LOCAL_RANK",
}
"""Lightning sets them for its child processes and never takes them back; the guard does."""
_TORCHS = {"PYTORCH_NVML_BASED_CUDA_CHECK", "TORCHINDUCTOR_CACHE_DIR"}
"""Set when Lightning looks for devices, and when torch's compiler is first imported."""
_PYTESTS = {"PYTEST_CURRENT_TEST"}


def pytest_configure() -> None:
    torch.set_num_threads(1)  # here, for fixtures of modules and sessions, which come before `nothing_left_behind`


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write the golden files anew instead of comparing")


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """Compares a text with tests/golden/<name>; `pytest --update-golden` writes it."""

    def compare(name: str, text: str) -> None:
        file = _GOLDEN / name
        if request.config.getoption("--update-golden"):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
        assert file.is_file(), f"tests/golden/{name} is missing; `pytest --update-golden` writes it"
        assert text == file.read_text(encoding="utf-8"), f"tests/golden/{name} differs; if meant: --update-golden"

    return compare


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """Fails a test that leaves a process group, environment variables, a default dtype or a thread behind.

    What was left is put right first, so that the tests after it are not judged by it.
    """
    environment, dtype, threads = dict(os.environ), torch.get_default_dtype(), set(threading.enumerate())
    torch.set_num_threads(1)  # tests run beside each other, and sums come out in one order
    yield
    left = [*_process_groups(), *_variables(environment), *_threads(threads)]
    if torch.get_default_dtype() != dtype:
        left.append(f"default dtype {torch.get_default_dtype()}")
        torch.set_default_dtype(dtype)
    assert left == [], "the test left these behind"


def _process_groups() -> list[str]:
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return []
    torch.distributed.destroy_process_group()
    return ["a process group of torch.distributed"]


def _variables(before: dict[str, str]) -> list[str]:
    changed = {name for name in before.keys() | os.environ.keys() if before.get(name) != os.environ.get(name)}
    for name in changed - _PYTESTS:
        if name in before:
            os.environ[name] = before[name]
        else:
            del os.environ[name]
    return [f"environment variable {name}" for name in sorted(changed - _PYTESTS - _LIGHTNINGS - _TORCHS)]


def _threads(before: set[threading.Thread]) -> list[str]:
    new = [thread for thread in threading.enumerate() if thread not in before and not thread.daemon]
    for thread in new:
        thread.join(timeout=2)  # one that is about to end is no leftover
    return [f"thread {thread.name}" for thread in new if thread.is_alive()]
