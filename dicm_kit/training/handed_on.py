"""What a component hands on has the shape that its interface promises; else an error that names the component."""

import inspect
from typing import Any, cast

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


def _broken(where: str, component: nn.Module, promised: str, got: str) -> TrainingError:
    made = type(component)
    file = inspect.getsourcefile(made)
    return TrainingError(
        f"`{made.__name__}` ({file}) should return {promised}, and returned {got}",
        where=where,
        todo=f"The last number is its `out_dim`. `dicm check {file}` runs the checks of components of its kind.",
    )
