"""Four hosts, one rank on each, started by torchrun: the same result as one process, and an end when a link is cut."""

import json
import re
import subprocess
import time
from collections.abc import Callable, Iterator
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


# --- a cut link ---

TIMEOUT = 5  # trainer.timeout
CUT = 2
SLACK = 3  # seconds; the processor is shared
TORCHRUNS = 30  # seconds that torchrun may take to end after its rank has
ENDLESS = ["trainer.max_epochs=1000000", "trainer.validate_every=1000000"]  # nothing but steps


def test_a_link_that_is_cut_in_the_middle_of_a_step_ends_the_run_everywhere(four: Hosts, shop: Path) -> None:
    processes = start(four, shop, "cut", *ENDLESS, f"trainer.timeout={TIMEOUT}")
    wait_until(lambda: steps_in(shop / "cut/run" / METRICS_FILE) >= 20, "twenty steps", 120, shop)
    assert [process.poll() for process in processes] == [None] * 4
    four.cut(CUT)
    wait_until(lambda: all("RankError" in each for each in said(shop, "cut")), "four errors", TIMEOUT + SLACK, shop)
    assert wait_for_all(processes, TORCHRUNS) == [1] * 4
    for rank, output in enumerate(said(shop, "cut")):
        (told,) = re.findall(rf"^RankError: rank {rank}: (.*)$", output, re.MULTILINE)
        if rank != CUT:
            assert re.fullmatch(rf"rank {CUT} has been silent for \d s, last heard of at step [1-9]\d*, \w.*", told)
        else:  # it hears nobody
            assert re.match(r"ranks 0, 1 and 3 have been silent for \d s, last heard of rank 0 at step ", told)
            assert told.endswith("nobody else is heard, so the fault may be this rank's own network")


def steps_in(log: Path) -> int:
    return len(log.read_text().splitlines()) - 1 if log.is_file() else 0


def wait_until(is_so: Callable[[], bool], what: str, seconds: float, shop: Path) -> None:
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end, f"no {what} in {seconds} s\n" + "\n".join(said(shop, "cut"))
        time.sleep(0.05)
