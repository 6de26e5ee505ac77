"""Kills a training again and again, resumes it each time, and compares its end with that of one nobody touched.

    python tests/distributed/chaos.py FOLDER --kills 100 --ranks 2 --seed 0

The debug recipe with sharded id tables. Each attempt is killed by SIGKILL: one rank or all of them, in a phase of a
step that is drawn, or in the middle of writing a checkpoint. Ranks that are left must end by themselves within the
timeout. Ranks are forks of this process, which has imported everything, so an attempt costs a second or two.
"""

import argparse
import json
import os
import random
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_only

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2]))
from distributed.faulty_run import Accident
from recipes.debug_runs import DEBUG, arguments, debug

from dicm_kit import cli, run, session
from dicm_kit.training import checkpoint as checkpoints
from dicm_kit.training.checkpoint_files import find_resumable, read_checkpoint

TIMEOUT = 5  # trainer.timeout
EPOCHS = 4
PHASES = ["reading", "forward", "keys", "compute", "vectors", "backward", "gradients", "optimizer"]
AT_EPOCHS_END = ["validation", "checkpoint", "writing"]


def overrides(folder: Path, name: str, ranks: int) -> list[str]:
    """Returns what all runs have in common."""
    tables = ["features.user.user_id.placement=sharded", "features.target.item_id.placement=sharded"]
    several = ["trainer.strategy=image_server", f"trainer.devices={ranks}", f"trainer.timeout={TIMEOUT}"]
    often = [f"trainer.max_epochs={EPOCHS}", "checkpoint.every=4", "checkpoint.keep=2", "data.workers=0"]
    return arguments(folder, *tables, *several, *often, run_dir=name)


def start(arguments: list[str], ranks: int, log: Path, victims: dict[int, tuple[str, int]]) -> list[int]:
    """Forks the ranks; `victims`: phase and step at which a rank kills itself. Returns their processes."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    processes = []
    for rank in range(ranks):
        process = os.fork()
        if process == 0:
            with log.open("a") as output:
                os.dup2(output.fileno(), 1)
                os.dup2(output.fileno(), 2)
            os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), LOCAL_RANK=str(rank), NODE_RANK="0")
            rank_zero_only.rank = rank
            if rank in victims:
                _prepare_victim(rank, *victims[rank])
            os._exit(cli.main(["run", str(DEBUG), *arguments]))
        processes.append(process)
    return processes


def _prepare_victim(rank: int, phase: str, step: int) -> None:
    make = session.Session._trainer
    callback: Callback = _HalfWritten(step) if phase == "writing" else Accident("kill", rank, f"{phase}@{step}", wait=0)

    def with_accident(self: session.Session) -> Trainer:
        trainer = make(self)
        trainer.callbacks.insert(0, callback)
        return trainer

    session.Session._trainer = with_accident  # type: ignore[method-assign]


class _HalfWritten(Callback):
    """Dies when half of the first checkpoint from this step on is on the disk."""

    def __init__(self, step: int):
        self.step = step

    def on_train_start(self, trainer: Trainer, *args: Any) -> None:
        """Goes between Checkpoints and torch."""
        plain: Callable[..., None] = torch.save

        def save(content: Any, file: Any) -> None:
            if trainer.global_step < self.step:
                plain(content, file)
                return
            plain(content, file)
            file.flush()
            os.ftruncate(file.fileno(), os.fstat(file.fileno()).st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)

        checkpoints.torch.save = save


def wait(processes: list[int], seconds: float) -> list[int]:
    """Returns the exit codes, -9 for killed; fails when a process still runs after so many seconds."""
    codes: dict[int, int] = {}
    deadline = time.monotonic() + seconds
    while len(codes) < len(processes):
        for process in processes:
            if process not in codes and (found := os.waitpid(process, os.WNOHANG))[0]:
                codes[process] = os.waitstatus_to_exitcode(found[1])
        if time.monotonic() > deadline:
            left = [process for process in processes if process not in codes]
            for process in left:
                os.kill(process, signal.SIGKILL)
            raise AssertionError(f"still running {seconds} s later: ranks {[processes.index(each) for each in left]}")
        time.sleep(0.01)
    return [codes[process] for process in processes]


def draw(rng: random.Random, ranks: int, step: int, steps_per_epoch: int) -> dict[int, tuple[str, int]]:
    """Returns who dies where: one rank or all, within the next steps, or where the epoch ends."""
    if rng.random() < 0.35:
        end = (step // steps_per_epoch + 1) * steps_per_epoch
        phase, at = rng.choice(AT_EPOCHS_END), end
    else:
        phase, at = rng.choice(PHASES), step + rng.randrange(6)
    if phase == "writing":
        return {0: (phase, step + 1)}  # rank 0 writes
    victims = range(ranks) if rng.random() < 0.3 else [rng.randrange(ranks)]
    return dict.fromkeys(victims, (phase, at))


def tensors(run_dir: Path) -> dict[str, torch.Tensor]:
    """Returns every tensor of the last checkpoint, the files of sharded tables included."""
    from safetensors.torch import load_file

    path = run_dir / "checkpoints/last.ckpt"
    content = read_checkpoint(path)
    found = dict(content["state_dict"])
    for file in sorted((path.parent / content["dicm"]["tables"]["folder"]).rglob("*.safetensors")):
        found |= {f"{file.parent.name}/{file.name}/{name}": value for name, value in load_file(file).items()}
    return found


def main() -> int:
    """Prints what was killed where, and whether the end is the same; returns 1 when it is not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    folder, ranks, rng = options.folder, options.ranks, random.Random(options.seed)
    folder.mkdir(parents=True, exist_ok=True)
    if (process := os.fork()) == 0:  # in a process of its own: what prepares data starts threads
        run.extract(debug(folder))
        os._exit(0)
    os.waitpid(process, 0)
    whole = overrides(folder, "whole", ranks)
    assert wait(start([*whole, "--overwrite"], ranks, folder / "whole.log", {}), 300) == [0] * ranks
    total = read_checkpoint(folder / "whole/checkpoints/last.ckpt")["global_step"]
    kills, attempts, started = 0, 0, time.monotonic()
    killed = overrides(folder, "killed", ranks)
    while kills < options.kills:
        newest = find_resumable(folder / "killed")
        step = read_checkpoint(newest)["global_step"] if newest else 0
        if step >= total:  # it has come to its end before enough kills: once more
            killed = overrides(folder, "killed", ranks)
            newest, step = None, 0
        victims = draw(rng, ranks, step, total // EPOCHS)
        begin = [*killed, "--resume" if newest else "--overwrite"]
        codes = wait(start(begin, ranks, folder / "killed.log", victims), 120)
        attempts += 1
        kills += any(code == -signal.SIGKILL for code in codes)
        print(f"{kills:4} from step {step:3}: {victims} -> {codes}", flush=True)
        assert attempts < 4 * options.kills + 10, "kills do not happen"
    newest = find_resumable(folder / "killed")
    end = wait(start([*killed, "--resume" if newest else "--overwrite"], ranks, folder / "killed.log", {}), 300)
    assert end == [0] * ranks, f"the last attempt ended with {end}: see {folder / 'killed.log'}"
    wanted, got = tensors(folder / "whole"), tensors(folder / "killed")
    other = sorted(
        name for name in wanted.keys() | got.keys() if name not in got or not torch.equal(got[name], wanted[name])
    )
    results = [json.loads((folder / name / "test.json").read_text())["test"] for name in ("whole", "killed")]
    print(f"{kills} kills in {attempts} attempts, {time.monotonic() - started:.0f} s; tensors that differ: {other}")
    print(f"test metrics the same: {results[0] == results[1]}")
    return int(bool(other) or results[0] != results[1])


if __name__ == "__main__":
    sys.exit(main())
