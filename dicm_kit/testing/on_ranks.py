"""Checks on two ranks, real processes that talk by gloo: what a step of several devices must give."""

from typing import Any

import torch
from torch import Tensor, nn

from dicm_kit.testing.check import MODULES, DoesNotApply, Failed, check
from dicm_kit.testing.elsewhere import Parcel, packed, unpacked
from dicm_kit.testing.ranks import shared_ranks
from dicm_kit.testing.tensors import asking_gradients, close, mapped, same

ROWS = 5
SHARES = ((4, 1), (5, 0))
"""Rows of each rank in two steps; in the second one the data of rank 1 have ended."""


@check(*MODULES, calls=False)
def two_ranks_start_alike(setting: Any) -> None:
    """Built with the same seed on two ranks, it has the same parameters and buffers on both."""
    ours = _dense(dict(setting.build(seed=5).state_dict()))
    for rank, theirs in enumerate(on_two_ranks(_state_on_rank, packed(setting))):
        if not same(ours, theirs):
            raise Failed(
                f"rank {rank} starts from other parameters with the same seed; draw from torch's global generator, and"
                " take nothing from the rank, the process or the time"
            )


@check(*MODULES)
def two_ranks_equal_one(setting: Any) -> None:
    """A step on two ranks has the gradients of one step on the joined batch, also where one rank has no data."""
    module = setting.build(seed=5)
    if not any(each.requires_grad for each in module.parameters()):
        raise DoesNotApply("it has no trained parameter")
    expected = _gradients(setting, module, ROWS, 0, ROWS)
    for found in on_two_ranks(_steps_on_rank, packed(setting)):
        for shares, theirs in zip(SHARES, found, strict=True):
            wrong = [name for name, each in expected.items() if not close(each, theirs[name], 1e-3)]
            if wrong:
                raise Failed(
                    f"two ranks with {shares[0]} and {shares[1]} examples got other gradients for {', '.join(wrong)}"
                    f" than one rank with all {ROWS}; nothing may depend on how many examples its rank has (a mean over"
                    " the batch? a count of them?)"
                )


def on_two_ranks(function: Any, parcel: Parcel) -> list[Any]:
    """Returns what `function(rank, 2, parcel)` gives on each rank.

    Raises:
        Failed: a rank raised, died or hung; with its traceback.
    """
    try:
        return shared_ranks().run(2, function, parcel)
    except AssertionError as error:
        raise Failed(f"two ranks could not do it:\n{error}") from error


def _state_on_rank(rank: int, num_ranks: int, parcel: Parcel) -> dict[str, Tensor]:
    return _dense(dict(unpacked(parcel).build(seed=5).state_dict()))


def _steps_on_rank(rank: int, num_ranks: int, parcel: Parcel) -> list[dict[str, Tensor]]:
    setting = unpacked(parcel)
    found = []
    for shares in SHARES:
        module = setting.build(seed=5)
        first = sum(shares[:rank])
        found.append(_gradients(setting, module, ROWS, first, first + shares[rank], num_ranks))
    return found


class _Called(nn.Module):
    """The component as DDP sees it."""

    def __init__(self, setting: Any, module: nn.Module):
        super().__init__()
        self.setting, self.module = setting, module

    def forward(self, inputs: Any) -> dict[str, Tensor]:
        return self.setting.run(self.module, inputs)


def _gradients(
    setting: Any, module: nn.Module, rows: int, first: int, end: int, num_ranks: int = 1
) -> dict[str, Tensor]:
    """Returns the gradients of the mean over all rows, of which this rank has some; DDP averages over ranks."""
    called: Any = _Called(setting, module)
    if num_ranks > 1:
        called = nn.parallel.DistributedDataParallel(called)
    inputs = setting.part(setting.inputs(rows), first, end)
    out = called(asking_gradients(inputs))
    g = torch.Generator().manual_seed(0)
    loss = sum((each * _weights(each, rows, g)[first:end]).sum() for each in out.values())
    assert isinstance(loss, Tensor)
    (loss * num_ranks / rows).backward()
    return _dense({name: each.grad for name, each in module.named_parameters() if each.grad is not None})


def _weights(out: Tensor, rows: int, g: torch.Generator) -> Tensor:
    return torch.randn(rows, *out.shape[1:], generator=g)


def _dense(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return mapped(tensors, lambda each: (each.to_dense() if each.is_sparse else each).detach().clone())
