"""What is handed from stage to stage, and the legend of the letters at the end of tensor names.

```
N impressions in this batch      G sample groups (users) in this batch     L history slots
D width of an id vector          C width of a backbone vector (4096)       I width of a picture vector (12)
K picture references             U distinct keys this rank asks for        V distinct pictures this rank serves
R ranks                          P partitions of the key space             Q queries
B impressions or groups, whichever an aggregator runs on
```

A picture key names a picture: the first 63 bits of the SHA-256 of its bytes, never 0; 0 means "no picture".
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Bag:
    """Ids of a column with several values per row, row after row.

    Row i (in the flattened `shape`) holds `values[offsets[i]:offsets[i + 1]]`; `offsets` has one entry more than rows.
    """

    values: Int[Tensor, " M"]
    """The ids of all rows, one row after the other."""
    offsets: Int[Tensor, " rows+1"]
    """Where each row begins, and where the last one ends."""
    shape: tuple[int, ...]
    """Shape of the rows: (N,), (G,) or (G, L)."""


Column = Tensor | Bag
"""An id column (int64), a number column (float32), or a Bag of ids; [N], [G] or [G, L]."""

Columns = dict[str, Column]


def _moved(value: object, move: Callable[[Tensor], Tensor]) -> object:
    if isinstance(value, Tensor):
        return move(value)
    if isinstance(value, Bag):
        return replace(value, values=move(value.values), offsets=move(value.offsets))
    if isinstance(value, dict):
        return {name: _moved(column, move) for name, column in value.items()}
    return value


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Some impressions, with the sample groups they belong to. `N = 0` is legal: a rank whose data has ended.

    `mask_GL` says which history slots are filled; slot 0 is the newest click. Empty slots hold id 0, key 0, age 0.
    """

    group_N: Int[Tensor, " N"]
    """Which sample group (row of the G tensors) each impression belongs to."""
    user: Columns
    """User columns by name, [G]."""
    target: Columns
    """Columns of the item that is shown, [N]."""
    context: Columns
    """Columns of the impression, such as its hour or place, [N]."""
    history: Columns
    """Item columns of the clicks before, [G, L]."""
    mask_GL: Bool[Tensor, "G L"]
    """True where a slot is filled."""
    age_GL: Float[Tensor, "G L"]
    """Days between the click and the group."""
    target_key_N: Int[Tensor, " N"]
    """Picture keys of the items shown; 0: no picture."""
    history_key_GL: Int[Tensor, "G L"]
    """Picture keys of the clicks before; 0: no picture, or an empty slot."""
    label_N: Float[Tensor, " N"]
    """1: clicked, 0: not."""
    weight_N: Float[Tensor, " N"]
    """How much an impression counts in the loss and in metrics; 1 unless the log says otherwise."""
    user_id_N: Int[Tensor, " N"]
    """Which user saw it: for GAUC, not a feature."""
    item_N: Int[Tensor, " N"]
    """The target's row in items.parquet: for metric slices and reports, not a feature."""
    ahead: object | None = None
    """What was begun for this batch while an earlier one was computed; only whoever began it looks into it."""

    @property
    def num_impressions(self) -> int:
        """N."""
        return self.group_N.shape[0]

    @property
    def num_groups(self) -> int:
        """G."""
        return self.mask_GL.shape[0]

    def _map(self, move: Callable[[Tensor], Tensor]) -> Self:
        moved: dict[str, Any] = {field.name: _moved(getattr(self, field.name), move) for field in fields(self)}
        return replace(self, **moved)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Self:
        """Returns the batch on `device`; Lightning calls it for batch transfer."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Self:
        """Returns the batch in page-locked memory; the DataLoader calls it."""
        return self._map(lambda tensor: tensor.pin_memory())


Vectors = dict[str, Tensor]
"""Column name -> vectors of its rows."""


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """One vector per column and row. Columns keep their recipe names.

    The feature stage gives `user` at group level [G, D]; a base net gets it repeated to impressions [N, D].
    """

    user: Vectors
    """[G, D]; in a base net [N, D]."""
    target: Vectors
    """[N, D]"""
    context: Vectors
    """[N, D]"""
    history: Vectors
    """[G, L, D]"""
    group_N: Int[Tensor, " N"]
    """Which row of the G vectors each impression belongs to."""


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """Picture vectors of the targets and of the history; zeros where there is no picture.

    None where the recipe's `images.target` or `images.history` is false.
    """

    target_NI: Float[Tensor, "N I"] | None
    """Of the items shown."""
    history_GLI: Float[Tensor, "G L I"] | None
    """Of the clicks before."""
    mask_GL: Bool[Tensor, "G L"]
    """History slots that have a picture."""


@dataclass(frozen=True)
class Interest:
    """What a history says about a user, as one vector; `weights` [B, Q, L] when they were asked for."""

    vector: Float[Tensor, "B D"]
    """The interest; D is the `out_dim` of the aggregator."""
    weights: Float[Tensor, "B Q L"] | None = None
    """What each history slot counted for each query, or None; 0 in empty slots."""


@dataclass(frozen=True)
class Prediction:
    """The click's log-odds; `sigmoid` gives the probability."""

    logit_N: Float[Tensor, " N"]
    """Log-odds of a click, unbounded."""
    interest: dict[str, Interest]
    """By slot (`ids`, `images`); holds weights when they were asked for."""
