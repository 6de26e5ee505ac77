"""A run of a recipe in which one rank meets with an accident: a script, for fresh processes.

`faulty_run.py FAULT RANK PLACES RECIPE [overrides]`. A place is a phase of a step, `backward@5`; phases are reading,
forward, the exchange's legs, backward, optimizer, validation, checkpoint. When the rank comes to one, it waits until
all others have heard that it is there, writes the time to standard output, and then: `kill`, `stop`, `broken data`, `no
memory`, `sleep 3`, or `terminate`, which is for its parent.
"""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from dicm_kit import cli, session
from dicm_kit.errors import DataError
from dicm_kit.exchange.all_to_all import Exchange


class Accident(Callback):
    """Happens once at each place."""

    def __init__(self, fault: str, rank: int, places: str, wait: float = 0.5):
        """`wait`: more than two beats, with the timeouts of the tests."""
        self.fault, self.rank, self.places, self.wait = fault, rank, set(places.split(",")), wait

    def happen(self, trainer: Trainer, phase: str) -> None:
        """Does it, if this is a place for it."""
        place = f"{phase}@{trainer.global_step}"
        if trainer.global_rank != self.rank or place not in self.places:
            return
        self.places.remove(place)
        time.sleep(self.wait)
        print(f"accident {time.time()}", flush=True)
        match self.fault.split():
            case ["kill"]:
                os.kill(os.getpid(), signal.SIGKILL)
            case ["stop"]:
                os.kill(os.getpid(), signal.SIGSTOP)
            case ["terminate"]:  # what sent the signal is a launcher or a scheduler: the parent gets it
                os.kill(os.getppid(), signal.SIGTERM)
            case ["broken", "data"]:
                raise DataError("cannot be read", where="lane-002.parquet")
            case ["no", "memory"]:
                raise RuntimeError("out of memory")
            case ["sleep", seconds]:
                time.sleep(float(seconds))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Goes between what is under the strategy's own methods."""
        self.within(trainer, pl_module.server.exchange, "")
        self.within(trainer, pl_module.server._asking, "ahead-")
        for phase, thing, name in (
            ("forward", pl_module, "training_step"),
            ("backward", pl_module, "backward"),
            ("optimizer", trainer.optimizers[0], "step"),
        ):
            setattr(thing, name, self.before(getattr(thing, name), trainer, phase))

    def within(self, trainer: Trainer, exchange: Exchange, prefix: str) -> None:
        """Puts the accident into every leg of an exchange."""
        plain = exchange.under_way

        @contextmanager
        def under_way(leg: str) -> Iterator[None]:
            with plain(leg):
                self.happen(trainer, prefix + leg)
                yield

        exchange.under_way = under_way

    def before(self, plain: Callable[..., Any], trainer: Trainer, phase: str) -> Callable[..., Any]:
        """Returns the function with the accident before it."""

        def with_accident(*args: Any, **kwargs: Any) -> Any:
            self.happen(trainer, phase)
            return plain(*args, **kwargs)

        return with_accident

    def on_train_batch_start(self, trainer: Trainer, *args: Any) -> None:
        """A batch was read."""
        self.happen(trainer, "reading")

    def on_validation_batch_start(self, trainer: Trainer, *args: Any) -> None:
        """A batch of validation was read."""
        self.happen(trainer, "validation")

    def on_save_checkpoint(self, trainer: Trainer, *args: Any) -> None:
        """A checkpoint is being put together."""
        self.happen(trainer, "checkpoint")


def main() -> int:
    """Runs the recipe as `dicm run` does."""
    fault, rank, places, *arguments = sys.argv[1:]
    make = session.Session._trainer

    def with_accident(self: session.Session) -> Trainer:
        trainer = make(self)
        trainer.callbacks.insert(0, Accident(fault, int(rank), places))  # before Checkpoints
        return trainer

    session.Session._trainer = with_accident
    return cli.main(["run", *arguments])


if __name__ == "__main__":
    sys.exit(main())
