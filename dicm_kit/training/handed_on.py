"""What a component hands on is as its interface promises; else an error that names the component."""

import inspect
from collections.abc import Iterator, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from dicm_kit.errors import TrainingError
from dicm_kit.interfaces import InterestAggregator
from dicm_kit.types import Interest


def handed_on(where: str, component: nn.Module, result: Any, *shape: int) -> Tensor:
    """Returns a component's vectors or logits; `where`: its key in the recipe.

    Raises:
        TrainingError: it is no tensor of this shape.
    """
    if isinstance(result, Tensor) and result.shape == shape:
        return result
    got = f"one of shape {list(result.shape)}" if isinstance(result, Tensor) else f"a {type(result).__name__}"
    raise _broken(where, component, f"a tensor of shape {list(shape)}", got)


def interest_of(where: str, aggregator: nn.Module, result: Any, rows: int) -> Interest:
    """Returns an aggregator's result; TrainingError when it is no `Interest` with a vector [rows, out_dim]."""
    if not isinstance(result, Interest):
        raise _broken(where, aggregator, "an `Interest`", f"a {type(result).__name__}")
    handed_on(where, aggregator, result.vector, rows, cast(InterestAggregator, aggregator).out_dim)
    return result


def check_padding(
    where: str, aggregator: nn.Module, query: Mapping[str, Tensor], history: Mapping[str, Tensor], mask_BL: Tensor
) -> bool:
    """Tries whether an aggregator reads empty slots; returns whether there was one to try it with.

    It runs twice in evaluation, with other values in the empty slots: nothing of the training changes. A vector that is
    not finite says nothing here: its loss is no number, which has an error of its own.

    Raises:
        TrainingError: its vector changed.
    """
    if bool(mask_BL.all()):
        return False
    modes = {each: each.training for each in aggregator.modules()}
    aggregator.eval()
    with torch.no_grad():
        given = aggregator(query, history, mask_BL).vector
        again = aggregator(query, _Refilled(history, mask_BL), mask_BL).vector
    for each, mode in modes.items():
        each.training = mode
    if not bool(torch.isfinite(given).all()):
        return False
    if not torch.allclose(given, again, rtol=1e-3, atol=1e-3 * float(given.abs().max())):
        name, file = _named(aggregator)
        raise TrainingError(
            f"{name} reads empty slots: its vector changed when only they held other values",
            where=where,
            todo=f"Select by `mask_BL` before anything is computed. `dicm check {file}` has more checks of this kind.",
        )
    return True


class _Refilled(Mapping[str, Tensor]):
    """A history whose empty slots hold something else."""

    def __init__(self, history: Mapping[str, Tensor], mask_BL: Tensor):
        self._history, self._empty = history, ~mask_BL.unsqueeze(-1)

    def __getitem__(self, name: str) -> Tensor:
        return self._history[name].masked_fill(self._empty, 3.0)

    def __iter__(self) -> Iterator[str]:
        return iter(self._history)

    def __len__(self) -> int:
        return len(self._history)


def _broken(where: str, component: nn.Module, promised: str, got: str) -> TrainingError:
    name, file = _named(component)
    return TrainingError(
        f"{name} should return {promised}, and returned {got}",
        where=where,
        todo=f"The last number is its `out_dim`. `dicm check {file}` runs the checks of components of its kind.",
    )


def _named(component: nn.Module) -> tuple[str, str | None]:
    """Returns what messages call a component, and its file."""
    made = type(component)
    file = inspect.getsourcefile(made)
    return f"`{made.__name__}` ({file})", file
