"""The random generators of a process: their state as values that a checkpoint can hold, and back."""

import random
from typing import Any

import numpy as np
import torch


def random_state(device: torch.device) -> dict[str, Any]:
    """Returns the state of this process's generators, as values that load with `weights_only=True`."""
    numpy_state: dict[str, Any] = dict(np.random.get_state(legacy=False))
    words = torch.from_numpy(numpy_state["state"]["key"].astype(np.int64))
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
        "python": random.getstate(),
        "numpy": {**numpy_state, "state": {"key": words, "pos": numpy_state["state"]["pos"]}},
    }


def set_random_state(state: dict[str, Any], device: torch.device) -> None:
    """Sets what `random_state` gave."""
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"] is not None and device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"].cpu(), device)
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    words = state["numpy"]["state"]["key"].cpu().numpy().astype(np.uint32)
    np.random.set_state({**state["numpy"], "state": {"key": words, "pos": state["numpy"]["state"]["pos"]}})
