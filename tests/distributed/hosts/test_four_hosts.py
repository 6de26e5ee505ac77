"""Four hosts, one rank on each, started by torchrun: the same result as one process, and an end when a link is cut."""

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from distributed.hosts.namespaces import Hosts, hosts, log_of, refusal, torchrun, wait_for_all
from recipes.debug_runs import arguments, debug

from dicm_kit import run
from dicm_kit.artifacts.metrics_file import METRICS_FILE

STEPS = 6
ON_FOUR = ["trainer.num_nodes=4", "trainer.devices=1", "trainer.strategy=image_server"]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the prepared dataset and one process's run; the hosts share it, as they would a file system."""
    folder = tmp_path_factory.mktemp("hosts")
    torch.set_num_threads(1)
    run.run(debug(folder, f"trainer.max_steps={STEPS}"))
    return folder


@pytest.fixture
def four() -> Iterator[Hosts]:
    reason = refusal()
    if reason:
        pytest.skip(f"no hosts can be made here: {reason}")
    with hosts(4) as made:
        yield made


def start(four: Hosts, shop: Path, name: str, *overrides: str) -> list["subprocess.Popen[bytes]"]:
    (shop / name).mkdir()
    given = arguments(shop, *ON_FOUR, *overrides, run_dir=f"{name}/run")
    return torchrun(four, shop / name, "-m", "dicm_kit", "run", "recipes/debug.yaml", *given)


def said(shop: Path, name: str) -> list[str]:
    return [log_of(shop / name, host).read_text() for host in range(4)]


def test_four_hosts_train_what_one_process_trains(four: Hosts, shop: Path) -> None:
    processes = start(four, shop, "four", f"trainer.max_steps={STEPS}")
    assert wait_for_all(processes, 120) == [0] * 4, "\n".join(said(shop, "four"))
    result, wanted = (json.loads((shop / each / "test.json").read_text()) for each in ("four/run", "run"))
    assert result["steps"] == wanted["steps"] == STEPS
    assert result["test"].keys() == wanted["test"].keys()
    assert {name: value for name, value in result["test"].items() if value == value} == pytest.approx(
        {name: value for name, value in wanted["test"].items() if value == value}, abs=1e-4
    )
    pictures = result["pictures"]
    assert pictures["ways"]["ams"]["how"] == "measured"
    assert pictures["distinct"] == wanted["pictures"]["distinct"], "each computed once over all hosts"


TIMEOUT = 5
CUT = 2


def test_a_link_that_is_cut_ends_the_run_everywhere(four: Hosts, shop: Path) -> None:
    processes = start(four, shop, "cut", "trainer.max_epochs=100000", f"trainer.timeout={TIMEOUT}")
    wait_for_steps(shop / "cut/run" / METRICS_FILE, 20, processes)
    four.cut(CUT)
    start_of_silence = time.monotonic()
    codes = wait_for_all(processes, 60)
    print(time.monotonic() - start_of_silence, codes)
    print("\n-----\n".join(said(shop, "cut")))
    assert 0


def wait_for_steps(log: Path, steps: int, processes: list["subprocess.Popen[bytes]"]) -> None:
    """Returns when the run's log has so many steps, which is then in the middle of one."""
    end = time.monotonic() + 120
    while not log.is_file() or len(log.read_text().splitlines()) <= steps:
        assert time.monotonic() < end, "the training does not begin"
        assert [process.poll() for process in processes] == [None] * 4, "a rank has ended"
        time.sleep(0.05)
