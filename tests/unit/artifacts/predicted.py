"""Run folders with predictions, made without a training."""

from pathlib import Path
from typing import Any

import numpy as np

from dicm_kit.artifacts.predictions import in_order, write_predictions

USERS = 40


def rows(skill: float = 1.0, noise: int = 0, n: int = 1200) -> dict[str, Any]:
    """Returns a test split, the same each time, with the logits of a model of some skill."""
    rng = np.random.default_rng(0)
    columns = {
        "user": rng.integers(0, USERS, n),
        "item": rng.integers(0, 30, n),
        "weight": rng.choice([0.5, 1.0], n).astype(np.float32),
        "history": rng.choice([0, 2, 9], n).astype(np.int32),
        "decile": rng.choice([0, 1, 5], n).astype(np.int8),
    }
    truth = rng.normal(size=n)
    columns["label"] = (rng.random(n) < 1 / (1 + np.exp(1 - 2 * truth))).astype(np.int8)
    columns["logit"] = (skill * truth + np.random.default_rng(noise).normal(size=n)).astype(np.float32)
    return columns


def run_folder(folder: Path, columns: dict[str, Any] | None = None, fingerprint: str = "d1") -> Path:
    """Returns a run folder that holds a recipe and predictions."""
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_text("dicm: 1\n")
    write_predictions(folder, in_order(rows() if columns is None else columns), fingerprint)
    return folder
