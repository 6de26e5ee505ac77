"""Columns -> vectors: one id, several ids, hashes, numbers."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from dicm_kit.errors import FieldError
from dicm_kit.features.sharded import ShardedTable
from dicm_kit.features.tables import INIT_STD, IdTable, hash_rows
from dicm_kit.interfaces import ColumnShape, FeatureEncoder
from dicm_kit.types import Bag, Column

Placement = Literal["replicated", "sharded"]
TABLES: dict[Placement, type[IdTable] | type[ShardedTable]] = {"replicated": IdTable, "sharded": ShardedTable}


@dataclass
class IdConfig:
    """A trained vector for each id of the vocabulary, and one for the unknown id."""

    dim: int = 16
    """Width of the vectors."""
    init_std: float = INIT_STD
    """Standard deviation of the rows before training."""
    placement: Placement = "replicated"
    """Where the rows are: all on every rank, or shared out over the ranks of `image_server`."""


class IdEncoder(FeatureEncoder):
    """Looks each id up in a table."""

    def __init__(self, num_ids: int, dim: int, init_std: float = INIT_STD, placement: Placement = "replicated"):
        super().__init__()
        self.table = TABLES[placement](num_ids, dim, init_std)
        self.out_dim = dim

    def rows(self, values: Column) -> Tensor:
        """Returns which rows of the table a column asks for, [...]."""
        assert isinstance(values, Tensor), "an id column holds one id per row"
        return values

    def forward(self, values: Column) -> Tensor:
        """Returns [..., D] of int64 ids [...]."""
        return self.table(self.rows(values))


def build_id(config: IdConfig, shape: ColumnShape) -> IdEncoder:
    """Makes the encoder of an `id` column."""
    check_dim(config.dim)
    return IdEncoder(num_ids_of(shape, "id"), config.dim, config.init_std, config.placement)


@dataclass
class IdsConfig:
    """Pools the vectors of a column with several ids per row."""

    dim: int = 16
    """Width of the vectors."""
    pooling: Literal["mean", "sum"] = "mean"
    """How a row's ids become one vector; a row without ids gives zeros."""
    init_std: float = INIT_STD
    """Standard deviation of the rows before training."""
    placement: Placement = "replicated"
    """Where the rows are: all on every rank, or shared out over the ranks of `image_server`."""


class IdsEncoder(FeatureEncoder):
    """Looks the ids of each row up and pools them."""

    def __init__(
        self,
        num_ids: int,
        dim: int,
        pooling: Literal["mean", "sum"] = "mean",
        init_std: float = INIT_STD,
        placement: Placement = "replicated",
    ):
        super().__init__()
        self.table = TABLES[placement](num_ids, dim, init_std)
        self.pooling: Literal["mean", "sum"] = pooling
        self.out_dim = dim

    def rows(self, values: Column) -> Tensor:
        """Returns which rows of the table a column asks for, row after row of the Bag."""
        assert isinstance(values, Bag), "an ids column is a Bag"
        return values.values

    def forward(self, values: Column) -> Tensor:
        """Returns [..., D] of a Bag whose rows are shaped [...]."""
        assert isinstance(values, Bag), "an ids column is a Bag"
        return self.table.pooled(values, self.pooling)


def build_ids(config: IdsConfig, shape: ColumnShape) -> IdsEncoder:
    """Makes the encoder of an `ids` column."""
    check_dim(config.dim)
    return IdsEncoder(num_ids_of(shape, "ids"), config.dim, config.pooling, config.init_std, config.placement)


@dataclass
class HashConfig:
    """A trained vector for each bucket of hashes: for ids too many, or too new, for a vocabulary."""

    dim: int = 16
    """Width of the vectors."""
    buckets: int = 100_000
    """Rows of the table; ids that meet in a bucket share a vector."""
    init_std: float = INIT_STD
    """Standard deviation of the rows before training."""
    placement: Placement = "replicated"
    """Where the rows are: all on every rank, or shared out over the ranks of `image_server`."""


class HashEncoder(FeatureEncoder):
    """Looks up row `hash % buckets`; "no value" (hash 0) has a row of its own."""

    def __init__(self, dim: int, buckets: int, init_std: float = INIT_STD, placement: Placement = "replicated"):
        super().__init__()
        self.buckets = buckets
        self.table = TABLES[placement](1 + buckets, dim, init_std)
        self.out_dim = dim

    def rows(self, values: Column) -> Tensor:
        """Returns which rows of the table a column asks for, [...]."""
        assert isinstance(values, Tensor), "a hash column holds one hash per row"
        return hash_rows(values, self.buckets)

    def forward(self, values: Column) -> Tensor:
        """Returns [..., D] of 64-bit hashes [...], int64."""
        return self.table(self.rows(values))


def build_hash(config: HashConfig, shape: ColumnShape) -> HashEncoder:
    """Makes the encoder of a `hash` column."""
    check_dim(config.dim)
    if shape.kind != "hash":
        raise FieldError("name", f"`hash` encodes hash columns, this column is of kind {shape.kind}")
    if config.buckets < 1:
        raise FieldError("buckets", f"must be at least 1, got {config.buckets}")
    return HashEncoder(config.dim, config.buckets, config.init_std, config.placement)


@dataclass
class NumberConfig:
    """A number, brought to a common scale, times a trained vector plus a trained vector."""

    dim: int = 4
    """Width of the vectors."""
    transform: Literal["none", "log1p", "asinh"] = "none"
    """Applied first. log1p: sign(x) * log(1 + |x|), for counts and prices; asinh: the like, linear for |x| < 1."""
    mean: float = 0.0
    """Taken off after the transform."""
    scale: float = 1.0
    """Divides after the transform; give it the standard deviation, so that vectors start at the size of the others."""


class NumberEncoder(FeatureEncoder):
    """(transform(x) - mean) / scale, then linear to D."""

    def __init__(
        self,
        dim: int,
        transform: Literal["none", "log1p", "asinh"] = "none",
        mean: float = 0.0,
        scale: float = 1.0,
    ):
        super().__init__()
        self.transform, self.mean, self.scale = transform, mean, scale
        self.weight_D = nn.Parameter(torch.empty(dim).uniform_(-1.0, 1.0))
        self.bias_D = nn.Parameter(torch.zeros(dim))
        self.out_dim = dim

    def forward(self, values: Column) -> Tensor:
        """Returns [..., D] of numbers [...], in float32 also where the rest runs in bf16."""
        assert isinstance(values, Tensor), "a number column holds one number per row"
        numbers = values
        if self.transform == "log1p":
            numbers = numbers.sign() * numbers.abs().log1p()
        elif self.transform == "asinh":
            numbers = numbers.asinh()
        numbers = (numbers - self.mean) / self.scale
        return torch.addcmul(self.bias_D, numbers.unsqueeze(-1), self.weight_D)


def build_number(config: NumberConfig, shape: ColumnShape) -> NumberEncoder:
    """Makes the encoder of a `number` column."""
    check_dim(config.dim)
    if shape.kind != "number":
        raise FieldError("name", f"`number` encodes number columns, this column is of kind {shape.kind}")
    if config.scale <= 0:
        raise FieldError("scale", f"must be above 0, got {config.scale}")
    return NumberEncoder(config.dim, config.transform, config.mean, config.scale)


def check_dim(dim: int) -> None:
    """Refuses a width below 1."""
    if dim < 1:
        raise FieldError("dim", f"must be at least 1, got {dim}")


def num_ids_of(shape: ColumnShape, encoder: Literal["id", "ids"]) -> int:
    """Returns the rows that the column's vocabulary needs; refuses columns of another kind."""
    if shape.kind != encoder:
        raise FieldError(
            "name",
            f"`{encoder}` encodes {encoder} columns, this column is of kind {shape.kind}",
            todo=f"Use `name: {shape.kind}`, or a plugin's encoder for {shape.kind} columns.",
        )
    assert shape.num_ids is not None, "an id column comes with the size of its vocabulary"
    return shape.num_ids
