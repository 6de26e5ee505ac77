"""Law 3: no rank waits for ever. Real runs in fresh processes, in which a rank is killed, stopped, or fails."""

import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from recipes.debug_runs import DEBUG, REPOSITORY, alive, arguments

from dicm_kit.training.checkpoint_files import find_resumable, read_checkpoint

SCRIPT = REPOSITORY / "tests/distributed/faulty_run.py"
TIMEOUT = 6  # trainer.timeout
LAUNCHERS = {
    "lightning": [sys.executable, str(SCRIPT)],
    "torchrun": [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node={}", str(SCRIPT)],
}


@dataclass
class Ended:
    """A run that is over."""

    code: int
    output: str
    seconds: float
    """From the first accident on."""


def faulty(launcher: str, ranks: int, fault: str, rank: int, places: str, folder: Path, *overrides: str) -> Ended:
    """Runs until no process is left but those that cannot end, since they are stopped."""
    command = [part.format(ranks) for part in LAUNCHERS[launcher]]
    several = f"trainer.devices={ranks}", "trainer.strategy=image_server", f"trainer.timeout={TIMEOUT}", "--overwrite"
    with (folder / "output").open("w") as output:
        process = subprocess.Popen(
            [*command, fault, str(rank), places, str(DEBUG), *arguments(folder, *several, *overrides)],
            cwd=REPOSITORY,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)},
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    deadline = time.time() + 120
    while alive(process.pid, "TZ") and time.time() < deadline:
        time.sleep(0.1)
    now = time.time()
    left = alive(process.pid, "TZ")
    for pid in alive(process.pid):
        os.kill(pid, signal.SIGKILL)
    code = process.wait()
    text = (folder / "output").read_text()
    accident = re.search(r"^accident (.*)$", text, re.MULTILINE)
    assert not left, text
    assert accident, text
    return Ended(code, text, now - float(accident[1]))


def told(ended: Ended, rank: int) -> str:
    """Returns why a rank says that it ended, in one line."""
    found = re.findall(rf"^RankError: rank {rank}: (.*)$", ended.output, re.MULTILINE)
    assert len(found) == 1, ended.output
    return found[0]


def died(rank: int, at: str) -> str:
    return f"rank {rank} has died: its process ended without a word; it was last heard of at {at}"


@pytest.mark.parametrize(
    ("launcher", "rank", "place", "at"),
    [
        ("lightning", 1, "keys@5", "step 5, forward, exchange of keys"),
        ("lightning", 0, "backward@20", "step 20, backward"),
        ("torchrun", 2, "optimizer@3", "step 3, optimizer"),
    ],
)
def test_a_rank_is_killed(launcher: str, rank: int, place: str, at: str, shop: Path) -> None:
    ended = faulty(launcher, 3, "kill", rank, place, shop, "trainer.look_ahead=false")
    assert ended.code
    for other in {0, 1, 2} - {rank}:
        assert told(ended, other) == died(rank, at)
    assert ended.seconds < TIMEOUT
    last = find_resumable(shop / "run")  # rank 0 keeps what it has learnt, unless it is the one
    if rank and "optimizer" not in place:
        assert last is not None
        assert last.name == "last.ckpt"


@pytest.mark.parametrize("fault", ["kill", "stop"])
def test_a_rank_goes_while_it_asks_for_the_next_step(fault: str, shop: Path) -> None:
    """By a thread of its own, so its main thread may be anywhere, or waits for the keys in the next step."""
    ended = faulty("lightning", 3, fault, 1, "ahead-keys@5", shop)
    for other in (0, 2):
        assert re.fullmatch(r"rank 1 has (died|been silent).* last heard of at step [56], .*", told(ended, other))
    assert ended.seconds < TIMEOUT + 1


@pytest.mark.parametrize(
    ("launcher", "rank", "place", "at"),
    [
        ("lightning", 1, "gradients@2", "step 2, backward, exchange of gradients"),
        ("lightning", 0, "validation@16", "step 16, validation"),
        ("torchrun", 1, "checkpoint@16", "step 16, checkpoint"),
    ],
)
def test_a_rank_falls_silent(launcher: str, rank: int, place: str, at: str, shop: Path) -> None:
    ended = faulty(launcher, 3, "stop", rank, place, shop)
    for other in {0, 1, 2} - {rank}:
        found = re.fullmatch(rf"rank {rank} has been silent for (\d+) s, last heard of at (.*)", told(ended, other))
        assert found, told(ended, other)
        assert int(found[1]) < TIMEOUT
        assert found[2] == at
    if launcher == "lightning":  # torchrun gives the stopped one half a minute
        assert ended.seconds < TIMEOUT + 1


def test_a_rank_fails_with_an_error(shop: Path) -> None:
    ended = faulty("lightning", 2, "broken data", 1, "reading@4", shop)
    assert "DataError: lane-002.parquet: cannot be read" in ended.output
    error = "DataError: lane-002.parquet: cannot be read"
    assert told(ended, 0) == f"rank 1 has ended with an error at step 4, reading: {error}"
    assert ended.code == 1
    assert ended.seconds < TIMEOUT


def test_more_distinct_pictures_at_one_owner_than_allowed(shop: Path) -> None:
    """As with every error that only one owner has, such as a missing picture."""
    ended = faulty("lightning", 2, "sleep 0", 0, "reading@0", shop, "images.max_distinct=25")
    assert ended.code == 1
    (first,) = re.findall(r"^ImageError: `images.max_distinct`: (a step has .*)$", ended.output, re.MULTILINE)
    (other,) = re.findall(r"^RankError: (.*)$", ended.output, re.MULTILINE)
    assert re.fullmatch(
        rf"rank \d: rank \d has ended with an error at step \d+, forward, exchange of lookup, begun ahead: "
        rf"ImageError: `images.max_distinct`: {re.escape(first)}",
        other,
    )


def test_a_rank_fails_in_torch(shop: Path) -> None:
    ended = faulty("torchrun", 2, "no memory", 0, "forward@1", shop)
    assert told(ended, 1) == "rank 0 has ended with an error at step 1, forward: RuntimeError: out of memory"
    assert ended.code == 1


def test_a_long_batch_validation_or_checkpoint_is_no_false_alarm(shop: Path) -> None:
    places = "reading@0,validation@16,checkpoint@16"
    ended = faulty("lightning", 2, "sleep 4", 1, places, shop, "trainer.timeout=3")
    assert ended.code == 0, ended.output
    assert ended.output.count("accident") == 3
    assert "RankError" not in ended.output


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_sigterm_stops_all_ranks_after_the_same_step(launcher: str, shop: Path) -> None:
    ended = faulty(launcher, 2, "terminate", 1, "optimizer@5", shop)
    assert ended.code
    assert "RankError" not in ended.output
    # Lightning's rank 0 kills the others when it has stopped, and they may have said it by then
    assert ended.output.count("Interrupted.") in ((2,) if launcher == "torchrun" else (1, 2))
    last = find_resumable(shop / "run")
    assert last is not None
    assert 5 < read_checkpoint(last)["global_step"] <= 8
