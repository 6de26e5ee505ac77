"""Warm start: parts of an earlier run's model as this one's start; id tables row by row, of the same ids.

What is taken over has the same bits. Row 0, the unknown id, is taken over like any other; ids that the earlier run has
no row for keep their random start. Optimizer, learning rates and random numbers start fresh. (The paper's table 5:
"partial warm-up" takes everything but the id tables.)
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from dicm_kit.errors import RunError, some
from dicm_kit.training.checkpoint_files import Provenance, best_in, check_plugins, read_checkpoint
from dicm_kit.training.module import CtrModule
from dicm_kit.training.table_files import rows_in
from dicm_kit.training.taking_over import Both, Misfit, Move, pieces_of

if TYPE_CHECKING:
    import pyarrow as pa


class WarmStart(Callback):
    """Takes parts over when a training starts, on every rank, unless `run` is None; `report` says what.

    The report goes into every checkpoint and comes back with it, so that a run that is resumed still has it.
    """

    def __init__(
        self, parts: Literal["all"] | Sequence[str], here: Provenance, values: Callable[[str], "pa.ChunkedArray"]
    ):
        """Takes the words of the recipe, this run's provenance, and what gives a vocabulary's values by row."""
        super().__init__()
        self.parts, self.here, self.values = parts, here, values
        self.run: Path | None = None
        """The earlier run's folder or checkpoint; to be set for a training that starts, not for one that goes on."""
        self.report: dict[str, Any] = {}

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Fills the module: after the strategy has set it up, so that a rank fills what it holds.

        Rank 0 says to all which run it is: another one may end while the ranks look.
        """
        run = trainer.strategy.broadcast(None if self.run is None else str(self.run))
        if run is None:
            return
        assert isinstance(pl_module, CtrModule), "only our module has these parts"
        self.report = take_over(pl_module, checkpoint_of(Path(run)), self.parts, self.here, self.values)
        if trainer.is_global_zero:
            print("\n".join(in_words(self.report)))

    def state_dict(self) -> dict[str, Any]:
        """Returns the report, if there is one."""
        return self.report

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes the report up again."""
        self.report = state_dict


def checkpoint_of(run: Path) -> Path:
    """Returns the checkpoint itself, or the best of a run folder; RunError when it has none."""
    found = run if run.is_file() else best_in(run)
    if found is None:
        todo = "Name a run that has been trained, or start fresh: warm_start.run=null."
        raise RunError("has no checkpoint to start from", where=f"warm_start.run: {run}", todo=todo)
    return found


def take_over(
    module: CtrModule,
    checkpoint: Path,
    parts: Literal["all"] | Sequence[str],
    here: Provenance,
    values: Callable[[str], "pa.ChunkedArray"],
) -> dict[str, Any]:
    """Copies the parts from the checkpoint into the module; returns what was taken over, as plain values.

    Raises:
        RunError: something does not fit; all of that is named, and nothing was copied.
    """
    content = read_checkpoint(checkpoint)
    there: Provenance = content["dicm"]["provenance"]
    check_plugins(checkpoint, there, here)
    old_rows = rows_in(checkpoint, content)
    both = Both(module.state_dict(), here, content["state_dict"], there, old_rows, checkpoint.parent.parent, values)
    moves: dict[str, Move] = {}
    misfits, fresh = [], []
    for piece in pieces_of(module, here["id_columns"]):
        if parts != "all" and not {piece.part, piece.name, *piece.other_names} & set(parts):
            fresh.append(piece.name)
            continue
        try:
            moves[piece.name] = both.move(piece)
        except Misfit as misfit:
            misfits.append(f"{piece.name}: {misfit}")
    if misfits:
        todo = f"What fits: warm_start.parts=[{', '.join(moves)}]." if moves else "Nothing fits."
        raise RunError(
            "does not fit this recipe:\n  " + "\n  ".join(misfits),
            where=str(checkpoint),
            todo=f"{todo} Or start fresh: warm_start.run=null.",
        )
    for name, move in moves.items():
        if move.known == 0:
            rank_zero_warn(f"{checkpoint}: it has none of the ids of {name}; is it a run on other data?")
        move.copy()
    return {
        "checkpoint": str(checkpoint),
        "step": content["global_step"],
        "taken": {name: move.line for name, move in moves.items()},
        "fresh": fresh,
    }


def in_words(report: dict[str, Any]) -> list[str]:
    """Returns what was taken over, a line for each part."""
    head = f"Warm start from {report['checkpoint']}, step {report['step']}; the optimizer starts fresh."
    fresh = [f"  fresh: {some(report['fresh'], 10)}"] if report["fresh"] else []
    return [head, *(f"  {line}" for line in report["taken"].values()), *fresh]
