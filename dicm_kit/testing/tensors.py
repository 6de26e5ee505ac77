"""What a component is given and gives, as a tree of tensors: walked, changed row by row, compared."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor


def leaves(tree: Any, path: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yields the tensors of a tree of dicts, sequences and dataclasses, each with its path (`history.image`)."""
    if isinstance(tree, Tensor):
        yield path, tree
    elif isinstance(tree, Mapping):
        for name, inner in tree.items():
            yield from leaves(inner, f"{path}.{name}".removeprefix("."))
    elif isinstance(tree, list | tuple):
        for index, inner in enumerate(tree):
            yield from leaves(inner, f"{path}[{index}]")
    elif is_dataclass(tree):
        for each in fields(tree):
            yield from leaves(getattr(tree, each.name), f"{path}.{each.name}".removeprefix("."))


def mapped(tree: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Returns the tree with every tensor changed."""
    if isinstance(tree, Tensor):
        return change(tree)
    if isinstance(tree, Mapping):
        return {name: mapped(inner, change) for name, inner in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(mapped(inner, change) for inner in tree)
    if is_dataclass(tree) and not isinstance(tree, type):
        return replace(tree, **{each.name: mapped(getattr(tree, each.name), change) for each in fields(tree)})
    return tree


def copied(tree: Any) -> Any:
    """Returns the tree with tensors of its own."""
    return mapped(tree, lambda tensor: tensor.detach().clone())


def asking_gradients(tree: Any) -> Any:
    """Returns a copy whose floating-point tensors collect gradients."""
    return mapped(tree, lambda each: each.detach().clone().requires_grad_(each.is_floating_point()))


def same(one: Any, other: Any) -> bool:
    """Says whether two trees have the same tensors, bit by bit; NaN equals NaN."""
    ours, theirs = dict(leaves(one)), dict(leaves(other))
    return ours.keys() == theirs.keys() and all(_equal(ours[name], theirs[name]) for name in ours)


def _equal(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    if one.is_sparse or other.is_sparse:
        one, other = one.to_dense(), other.to_dense()
    return torch.equal(one, other) or (
        torch.equal(torch.nan_to_num(one), torch.nan_to_num(other)) and bool((one.isnan() == other.isnan()).all())
    )


def close(one: Any, other: Any, tolerance: float = 1e-4) -> bool:
    """Says whether two trees of tensors differ by no more than rounding."""
    ours, theirs = dict(leaves(one)), dict(leaves(other))
    return ours.keys() == theirs.keys() and all(
        ours[name].shape == theirs[name].shape
        and torch.allclose(
            ours[name].double(), theirs[name].double(), rtol=tolerance, atol=tolerance / 10, equal_nan=True
        )
        for name in ours
    )


def finite(tree: Any) -> bool:
    """Says whether no tensor holds NaN or an infinity."""
    return all(bool(torch.isfinite(each).all()) for _, each in leaves(tree))
