"""How the rows of an id table that a batch names are trained: lazy Adam, lazy Adagrad."""

from typing import Any, Protocol, final

import torch
from torch import Tensor


class LazyRule(Protocol):
    """A row's step from its own gradients alone; what it keeps of each row is in tensors as long as the table."""

    def start(self, table: Tensor, group: dict[str, Any]) -> dict[str, Tensor]:
        """Returns what is kept of rows that have not been trained yet, beside `row_steps`."""

    def step(self, state: dict[str, Tensor], rows_U: Tensor, grad_UD: Tensor, group: dict[str, Any]) -> Tensor:
        """Brings the state of the rows up to date; returns [U, D], which times the learning rate is subtracted."""


@final
class LazyAdam:
    """Adam. `row_steps` [rows, 1] counts each row's own steps for the bias correction."""

    def start(self, table: Tensor, group: dict[str, Any]) -> dict[str, Tensor]:
        """Both moments are zero."""
        return {"exp_avg": torch.zeros_like(table), "exp_avg_sq": torch.zeros_like(table), "row_steps": counts(table)}

    def step(self, state: dict[str, Tensor], rows_U: Tensor, grad_UD: Tensor, group: dict[str, Any]) -> Tensor:
        """Reads `row_steps`, in which this step counts already."""
        beta1, beta2 = group["betas"]
        steps_U1 = state["row_steps"].index_select(0, rows_U)
        mean_UD = state["exp_avg"].index_select(0, rows_U).lerp_(grad_UD, 1 - beta1)
        square_UD = state["exp_avg_sq"].index_select(0, rows_U).mul_(beta2).addcmul_(grad_UD, grad_UD, value=1 - beta2)
        state["exp_avg"].index_copy_(0, rows_U, mean_UD)
        state["exp_avg_sq"].index_copy_(0, rows_U, square_UD)
        root_UD = square_UD.div_(1 - beta2**steps_U1).sqrt_().add_(group["eps"])
        return mean_UD.div_(1 - beta1**steps_U1).div_(root_UD)


@final
class LazyAdagrad:
    """Adagrad, which is lazy by itself: a gradient of zero changes nothing. Half the memory of Adam's moments."""

    def start(self, table: Tensor, group: dict[str, Any]) -> dict[str, Tensor]:
        """The sum of squares begins at `initial_accumulator`."""
        return {"sum": torch.full_like(table, group["initial_accumulator"])}

    def step(self, state: dict[str, Tensor], rows_U: Tensor, grad_UD: Tensor, group: dict[str, Any]) -> Tensor:
        """As torch.optim.Adagrad without lr_decay."""
        sum_UD = state["sum"].index_select(0, rows_U).addcmul_(grad_UD, grad_UD)
        state["sum"].index_copy_(0, rows_U, sum_UD)
        return grad_UD / sum_UD.sqrt_().add_(group["eps"])


RULES: dict[str, LazyRule] = {"lazy_adam": LazyAdam(), "lazy_adagrad": LazyAdagrad()}


def counts(table: Tensor) -> Tensor:
    """Returns steps of each row, zero: in float32, which is what torch makes of every optimizer state it loads."""
    return torch.zeros(len(table), 1, device=table.device)
