"""Two ranks of one thread beside one rank of one thread, the same batch for each: how much faster is training?

Part of image_server.py. Meant for a machine that does nothing else; it looks whether that is so.
"""

import logging
import os
import tempfile
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from statistics import median
from typing import Any

import paper_shop as shop
import torch
from distributed.lightning_ranks import ddp_trainer
from wanted import row

from dicm_kit.memory import keep_pages
from dicm_kit.testing.ranks import Ranks
from dicm_kit.training.measure_steps import WARM_UP, Measured, MeasureSteps
from dicm_kit.training.part_clock import PARTS
from dicm_kit.training.strategy import ImageServerStrategy
from dicm_kit.types import Batch

IMPRESSIONS, STEPS = 1024, 16  # impressions of each rank
QUIET = 0.05  # share of the machine that others may take


class Repeated:
    """Batches, again and again; Lightning takes a list for several loaders."""

    def __init__(self, batches: list[Batch], steps: int):
        self.batches, self.steps = batches, steps

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[Batch]:
        return islice(cycle(self.batches), self.steps)


def fit(rank: int, num_ranks: int, folder: str) -> dict[str, Any]:
    """Returns the measured step of a training, and how long this rank and the whole machine worked meanwhile."""
    keep_pages()
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.simplefilter("ignore", UserWarning)  # the pool makes errors of them; of srun, where there is one
    module = shop.model(Path(folder), partitions=() if num_ranks > 1 else None)
    batches = [shop.batch(IMPRESSIONS, 1, seed=100 * each + rank) for each in range(4)]
    steps = Repeated(batches, WARM_UP + STEPS)
    measuring = MeasureSteps(STEPS, torch.float32)
    options: dict[str, Any] = {"callbacks": [measuring], "enable_checkpointing": False, "limit_val_batches": 0}
    trainer = ddp_trainer(rank, num_ranks, ImageServerStrategy, max_epochs=1, **options)
    start, cpu, machine = time.perf_counter(), time.process_time(), machine_worked()
    trainer.fit(module, steps, steps)
    assert measuring.measured is not None, "the fit has ended"
    took = {
        "wall": time.perf_counter() - start,
        "cpu": time.process_time() - cpu,
        "machine": machine_worked() - machine,
    }
    return {"measured": measuring.measured, **took}


def machine_worked() -> float:
    """Returns the seconds that all processors together have worked, for whomever, or were taken away by a host."""
    numbers = [int(each) for each in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return (sum(numbers) - numbers[3] - numbers[4]) / os.sysconf("SC_CLK_TCK")  # but idle and waiting for a disk


@dataclass(frozen=True)
class Round:
    """One rank, then two."""

    one: Measured
    two: Measured
    by_processor_time: float
    """The ratio of speeds, had no rank ever waited: for another rank, or for other processes."""
    others: float
    """The share of the machine that other processes took meanwhile."""

    @classmethod
    def of(cls, one: list[dict[str, Any]], two: list[dict[str, Any]]) -> "Round":
        ours = [sum(each["cpu"] for each in answers) for answers in (one, two)]
        machine, wall = (sum(answers[0][name] for answers in (one, two)) for name in ("machine", "wall"))
        others = max(0.0, machine - sum(ours)) / wall / (os.cpu_count() or 1)
        return cls(one[0]["measured"], two[0]["measured"], 4 * ours[0] / ours[1], others)

    @property
    def ratio(self) -> float:
        return self.two.impressions / self.two.whole / (self.one.impressions / self.one.whole)


def print_ranks(folder: Path, rounds: int, patience: float) -> None:
    pool, found = Ranks(2, Path(tempfile.mkdtemp(dir=folder)), timeout=600), []
    try:
        for _ in range(rounds):
            wait_for_quiet(patience)
            found.append(Round.of(*(pool.run(num_ranks, fit, str(folder)) for num_ranks in (1, 2))))
    finally:
        pool.close()
    quiet = [each for each in found if each.others < QUIET]
    print(f"\nOne and two ranks of one thread, {IMPRESSIONS} impressions each, the whole training step")
    row(f"rounds in which others took less than {QUIET:.0%} of the machine", f"{len(quiet)} of {len(found)}")
    row("two / one, of each round", " ".join(f"{each.ratio:.2f}" for each in found))
    row("  the share of others", " ".join(f"{each.others:.2f}" for each in found))
    if quiet:
        row("two / one, median of quiet rounds", f"{median(each.ratio for each in quiet):.2f}", "at least 1.8")
    else:
        row("two / one, median of quiet rounds", "none was quiet", "at least 1.8")
    best = [
        max(each.impressions / each.whole for each in steps)
        for steps in zip(*((each.one, each.two) for each in found), strict=True)
    ]
    row("two / one, best round of each", f"{best[1] / best[0]:.2f}")
    row("two / one by processor time, median of rounds", f"{median(each.by_processor_time for each in found):.2f}")
    of = {"1 rank": [each.one for each in quiet or found], "2 ranks": [each.two for each in quiet or found]}
    for name, steps in of.items():
        row(f"{name}: impressions/s", f"{median(each.impressions / each.whole for each in steps):,.0f}")
        row("  distinct pictures that a rank embeds in a step", f"{steps[0].pictures / steps[0].ranks:,.0f}")
    print(f"{'':48} {'1 rank':>9} {'2 ranks':>9}  ms, medians")
    for part in PARTS:
        times = [median(1000 * each.parts.get(part, 0.0) for each in steps) for steps in of.values()]
        if any(times):
            print(f"{part:48} {times[0]:9.2f} {times[1]:9.2f}")


def wait_for_quiet(seconds: float) -> None:
    """Waits until the machine has done next to nothing for two seconds, at most so long."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        before = machine_worked()
        time.sleep(2)
        if machine_worked() - before < 2 * QUIET:
            return
