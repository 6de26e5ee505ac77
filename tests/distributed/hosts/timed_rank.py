"""One rank of `shaped_steps.py`: trains a recipe and notes how long each step took; torchrun starts it on every host.

    torchrun ... timed_rank.py FOLDER WARM_UP PHASES STEPS RECIPE [KEY=VALUE ...]

After WARM_UP steps come PHASES times 1 + STEPS. Before each phase rank 0 makes FOLDER/ready-<phase> and waits for
FOLDER/go-<phase>; the other ranks wait for rank 0, in their next collective. The first step of a phase holds that wait
and is left out. FOLDER/steps.json gets the seconds of the others, by phase, and what rank 0's exchange did in them.
"""

import copy
import json
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from dicm_kit import run
from dicm_kit.exchange.traffic import Traffic
from dicm_kit.recipe.load import load
from dicm_kit.session import Session


class StepClock(Callback):
    """Seconds from the end of a step to the end of the next, on rank 0: reading, exchange, averaging, all of it."""

    def __init__(self, folder: Path, warm_up: int, phases: int, steps: int):
        self.folder, self.warm_up, self.phases, self.steps = folder, warm_up, phases, steps
        self.seconds: list[list[float]] = [[] for _ in range(phases)]
        self.traffic = [Traffic() for _ in range(phases)]
        """Of the steps whose seconds these are."""
        self._before = Traffic()
        self._last = 0.0

    def _place(self, step: int) -> tuple[int, int]:
        """Returns the phase of a step, -1 in the warm-up, and which of the phase's steps it is."""
        return divmod(step - self.warm_up, 1 + self.steps)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        phase, step = self._place(trainer.global_step)
        if trainer.is_global_zero and phase >= 0 and step == 0:
            (self.folder / f"ready-{phase}").touch()
            while not (self.folder / f"go-{phase}").exists():
                time.sleep(0.01)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        phase, step = self._place(trainer.global_step - 1)
        now = time.perf_counter()
        if phase >= 0 and step > 0:
            self.seconds[phase].append(now - self._last)
            self.traffic[phase] += pl_module.server.exchange.traffic - self._before
        self._last, self._before = now, copy.copy(pl_module.server.exchange.traffic)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            noted = {"seconds": self.seconds, "traffic": [asdict(each) for each in self.traffic]}
            (self.folder / "steps.json").write_text(json.dumps(noted))


def main() -> None:
    folder, numbers, recipe, overrides = Path(sys.argv[1]), sys.argv[2:5], sys.argv[5], sys.argv[6:]
    clock = StepClock(folder, *map(int, numbers))
    max_steps = clock.warm_up + clock.phases * (1 + clock.steps)
    loaded = load(recipe, [*overrides, f"trainer.max_steps={max_steps}"])
    run._use_machine(loaded.recipe)
    session = Session(loaded, run._prepared(loaded, run.rehearse(loaded)))
    session.trainer.callbacks.append(clock)
    session.fit(None)


if __name__ == "__main__":
    main()
