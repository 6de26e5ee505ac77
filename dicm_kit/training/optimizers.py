"""One optimizer with two parts: Adam for dense parameters, a lazy rule for the rows of id tables in a batch."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dicm_kit.training.lazy_rules import RULES, counts


@dataclass(frozen=True, kw_only=True)
class OptimizerPlan:
    """How to train: the paper's settings are the defaults, arXiv:1711.06505, section 7.2."""

    dense_lr: float = 1e-3
    ids_rule: Literal["lazy_adam", "lazy_adagrad"] = "lazy_adam"
    """Of id tables."""
    ids_lr: float = 1e-3
    ids_eps: float | None = None
    """None: `eps` for lazy Adam, 1e-10 for lazy Adagrad, as in torch."""
    ids_initial_accumulator: float = 0.0
    """Of lazy Adagrad: what sums of squares begin with."""
    backbone_lr: float | None = None
    """Of a trained backbone; None: as dense_lr."""
    weight_decay: float = 0.0
    """Decoupled (AdamW), of dense parameters."""
    ids_l2: float = 0.0
    """Mini-batch aware regularisation of id tables, DIN's lambda: see `CtrOptimizer`."""
    decay_every: int = 0
    """Steps after which learning rates are multiplied by `decay_factor`; 0: never. The paper: 24,000."""
    decay_factor: float = 0.9
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8


class CtrOptimizer(torch.optim.Optimizer):
    """Adam(W) on dense parameters, a lazy rule on tables with sparse gradients: one for schedulers and clipping.

    Lazy: a step reads and writes only the rows whose gradient is not zero, so it costs by the batch and not by the
    table. A row's moments do not decay, and its bias correction does not advance, while no batch names it: each row is
    trained by exactly the Adam of the steps that touched it. (TensorFlow's LazyAdam corrects by the global step
    instead, which makes the first step of a rare row three times as long.)

    `ids_l2`: adaptive regularisation, DIN, arXiv:1706.06978, section 5.1, equation 7: the gradient of a touched row
    gains lambda / n * row. The paper's n counts an id's occurrences in all samples, known beforehand; ours counts the
    steps that have touched the row so far, since a log may be a stream.
    """

    def __init__(
        self,
        dense: Iterable[nn.Parameter],
        lazy: Iterable[nn.Parameter],
        plan: OptimizerPlan,
        backbone: Iterable[nn.Parameter] = (),
    ):
        """Takes each parameter once; `backbone` gets a learning rate of its own."""
        groups: list[dict[str, Any]] = [{"params": list(dense), "lr": plan.dense_lr}]
        slower = list(backbone)
        if slower:
            groups.append({"params": slower, "lr": plan.dense_lr if plan.backbone_lr is None else plan.backbone_lr})
        # torch's fused kernels make one pass over each parameter; they exist for these two.
        fused = all(each.device.type in ("cpu", "cuda") for group in groups for each in group["params"])
        self._adam = torch.optim.AdamW(
            groups, lr=plan.dense_lr, betas=plan.betas, eps=plan.eps, weight_decay=plan.weight_decay, fused=fused
        )
        adagrad = plan.ids_rule == "lazy_adagrad"
        tables = {
            "params": list(lazy),
            "rule": plan.ids_rule,
            "lr": plan.ids_lr,
            "betas": plan.betas,
            "eps": (1e-10 if adagrad else plan.eps) if plan.ids_eps is None else plan.ids_eps,
            "initial_accumulator": plan.ids_initial_accumulator,
            "l2": plan.ids_l2,
            "lazy": True,
        }
        all_groups = [{**group, "lazy": False} for group in self._adam.param_groups]
        super().__init__(all_groups + ([tables] if tables["params"] else []), {"lr": plan.dense_lr})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Trains every parameter that has a gradient; calls `closure`, with gradients, before."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        # The inner Adam works on our groups and our state, whatever a scheduler or a loaded checkpoint made of them.
        self._adam.param_groups = [group for group in self.param_groups if not group["lazy"]]
        self._adam.state = self.state
        self._adam.step()
        for group in self.param_groups:
            if group["lazy"]:
                for table in group["params"]:
                    if table.grad is not None:
                        self._step_rows(table, group)
        return loss

    def _step_rows(self, table: Tensor, group: dict[str, Any]) -> None:
        assert table.grad is not None
        assert table.grad.is_sparse, "a lazy parameter has a sparse gradient"
        grad = table.grad.coalesce()
        # Empty history slots look up row 0; what comes back for them is zeros, and no reason to step it.
        touched_U = grad.values().any(dim=1)
        rows_U, grad_UD = grad.indices()[0][touched_U], grad.values()[touched_U]
        state = self.row_state(table)
        old_UD = table.index_select(0, rows_U)
        if "row_steps" in state:
            steps_U1 = state["row_steps"].index_select(0, rows_U).add_(1)
            state["row_steps"].index_copy_(0, rows_U, steps_U1)
            if group["l2"]:
                grad_UD = grad_UD + group["l2"] / steps_U1 * old_UD
        step_UD = RULES[group["rule"]].step(state, rows_U, grad_UD, group)
        table.index_copy_(0, rows_U, old_UD.sub_(step_UD, alpha=group["lr"]))

    def row_state(self, table: Tensor) -> dict[str, Tensor]:
        """Returns what is kept of each row of a table, [rows, ...] by name; makes it when there is none yet."""
        state = self.state[table]
        if not state:
            (group,) = (each for each in self.param_groups if each["lazy"])
            state |= RULES[group["rule"]].start(table, group)
            if group["l2"] and "row_steps" not in state:
                state["row_steps"] = counts(table)
        return state


def decay_schedule(optimizer: torch.optim.Optimizer, plan: OptimizerPlan) -> torch.optim.lr_scheduler.LRScheduler:
    """Returns the schedule that multiplies learning rates by `decay_factor` every `decay_every` steps."""
    assert plan.decay_every > 0, "without decay there is no schedule"
    return torch.optim.lr_scheduler.StepLR(optimizer, plan.decay_every, plan.decay_factor)


@torch.no_grad()
def clip_norm(parameters: Iterable[nn.Parameter], max_norm: float, apart: Sequence[nn.Parameter] = ()) -> Tensor:
    """Scales all gradients, sparse ones too, to a joint norm of at most `max_norm`; returns the norm before.

    `apart`: those of which each rank has other rows; their part of the norm is added up over ranks.
    """
    parameters = list(parameters)
    gradients = _values_of_gradients(parameters)
    if not gradients and not apart:
        return torch.zeros(())
    shared = {id(each) for each in apart}
    norm = torch.nn.utils.get_total_norm(_values_of_gradients(each for each in parameters if id(each) not in shared))
    if apart:
        of_rows = torch.nn.utils.get_total_norm(_values_of_gradients(each for each in parameters if id(each) in shared))
        squared = of_rows.to(norm.device).square()
        if torch.distributed.is_initialized():
            torch.distributed.all_reduce(squared)
        norm = (norm.square() + squared).sqrt()
    factor = (max_norm / (norm + 1e-6)).clamp(max=1.0)
    for gradient in gradients:
        gradient.mul_(factor.to(gradient.dtype))
    return norm


@torch.no_grad()
def clip_values(parameters: Iterable[nn.Parameter], limit: float) -> None:
    """Clamps every element of all gradients, sparse ones too, to [-limit, limit]."""
    for gradient in _values_of_gradients(parameters):
        gradient.clamp_(-limit, limit)


def _values_of_gradients(parameters: Iterable[nn.Parameter]) -> list[Tensor]:
    """Returns the gradients' values, to be changed in place; a sparse gradient is coalesced first."""
    values = []
    for parameter in parameters:
        if parameter.grad is None:
            continue
        if parameter.grad.is_sparse:
            # A row that the batch names twice counts with its sum.
            parameter.grad = parameter.grad.coalesce()
            values.append(parameter.grad._values())
        else:
            values.append(parameter.grad)
    return values
