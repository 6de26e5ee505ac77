"""What a rank holds in memory, part by part: a formula each, with the recipe's key to change."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from torch import nn

from dicm_kit.features.sharded import PARTITIONS, ShardedTable
from dicm_kit.features.tables import sparse_parameters

KEPT = 2.0
"""What glibc keeps of a step, as a multiple of what is alive at once: measured, where steps differ in their sizes. It
cuts freed blocks into pieces, and a block a little larger than the last step's finds no room."""
KEPT_PICTURES = 3.0
"""The same for pixels going through a trained backbone, whose blocks are larger. Where steps differ much in distinct
pictures it goes on growing, beyond this: docs/how_to/memory.md."""
LATER = 90 * 2**20
"""Of Lightning's loops, the reader of files and kernels, beside what the process has when it is asked: measured."""
EVALUATED = 1740
"""Bytes for each impression of a test, on rank 0: 29 are kept, 160 needed to measure, the rest for the intervals."""
_FLOAT, _KEY = 4, 8


@dataclass(frozen=True)
class Part:
    """Something that takes memory."""

    name: str
    bytes: int
    key: str = ""
    """The recipe's key that it hangs on."""
    todo: str = ""
    """What to change when it does not fit."""
    sure: bool = False
    """It is held for as long as training lasts, whatever happens."""
    note: str = ""
    on_device: bool = False
    """It is where the model is: on a GPU, if that is what trains."""


@dataclass(frozen=True)
class Estimate:
    """The memory of one rank: what is held all the time, and what is needed for a moment, one thing at a time."""

    held: Sequence[Part]
    moments: Sequence[Part] = ()
    apart: Sequence[Part] = ()
    """Not the rank's own: page cache, other processes."""
    unknown: Sequence[str] = field(default=())
    """What could not be counted, and why."""

    def total(self, on_device: bool | None = None) -> int:
        """Returns the peak: of the host's memory or the device's, or of both where they are one."""
        moments = [each.bytes for each in _at(self.moments, on_device)]
        return sum(each.bytes for each in _at(self.held, on_device)) + max(moments, default=0)

    def sure(self, on_device: bool | None = None) -> int:
        """Returns what is held whatever happens."""
        return sum(each.bytes for each in _at(self.held, on_device) if each.sure)

    def largest(self, on_device: bool | None = None, *, sure: bool = False) -> list[Part]:
        """Returns the parts that can be made smaller, the largest first."""
        parts = [*self.held, *(() if sure else self.moments)]
        can = [each for each in _at(parts, on_device) if each.todo and (each.sure or not sure)]
        return sorted(can, key=lambda each: -each.bytes)


def size_text(count: int) -> str:
    """Returns bytes as a person reads them."""
    return f"{count / 2**30:,.2f} GiB" if count >= 2**30 else f"{count / 2**20:,.0f} MiB"


def _at(parts: Sequence[Part], on_device: bool | None) -> Iterator[Part]:
    return (each for each in parts if on_device in (None, each.on_device))


# --- id tables ---


@dataclass(frozen=True)
class Table:
    """An id table of the model."""

    key: str
    """The recipe's key of the feature."""
    rows: int
    dim: int
    sharded: bool
    kept: int = 2
    """Numbers that the optimizer keeps of each weight: lazy Adam's two moments, lazy Adagrad's sum."""
    counted: bool = True
    """It counts each row's steps, too: lazy Adam does, lazy Adagrad only for `optimizer.ids.l2`."""


def tables_of(key: str, encoder: nn.Module) -> list[Table]:
    """Returns the tables of a feature's encoder, a plugin's own included."""
    sharded = [each for each in encoder.modules() if isinstance(each, ShardedTable)]
    apart = {id(each.weight) for each in sharded}
    rest = [each for each in sparse_parameters(encoder) if id(each) not in apart]
    return [Table(key, each.num_rows, each.dim, True) for each in sharded] + [
        Table(key, each.shape[0], each.shape[1], False) for each in rest
    ]


def share_of_partitions(num_partitions: int, ranks: int) -> float:
    """Returns the share of the partitions that rank 0 holds; no rank has more."""
    return -(-num_partitions // ranks) / num_partitions


def rows_on_rank(table: Table, ranks: int) -> int:
    """Returns how many rows a rank holds."""
    return round(table.rows * share_of_partitions(PARTITIONS, ranks)) if table.sharded else table.rows


def weight_bytes(table: Table, ranks: int) -> int:
    """Returns the bytes of a rank's rows, and of their numbers where the table is sharded."""
    return rows_on_rank(table, ranks) * (_FLOAT * table.dim + (_KEY if table.sharded else 0))


def state_bytes(table: Table, ranks: int) -> int:
    """Returns the bytes of what the optimizer keeps of the rows; it is made whole in the first step."""
    return rows_on_rank(table, ranks) * _FLOAT * (table.kept * table.dim + table.counted)


# --- everything else that is trained ---


def dense_bytes(trained: int, frozen: int, ranks: int) -> int:
    """Returns the bytes of dense parameters: value, gradient and two moments, and DDP's copy of the gradient."""
    return _FLOAT * (frozen + trained * (4 + (ranks > 1)))


def checkpoint_bytes(tables: Sequence[Table], trained: int, frozen: int) -> int:
    """Returns what reading a checkpoint takes, before the test and in a resume: all it holds, once more.

    Sharded rows are in files of their own and are read in small parts.
    """
    rows = sum(weight_bytes(each, 1) + state_bytes(each, 1) for each in tables if not each.sharded)
    return rows + _FLOAT * (3 * trained + frozen)


# --- pictures ---


def store_bytes(pictures: int, dim: int, share: float) -> int:
    """Returns the bytes of a frozen backbone's vectors, float16, and their keys."""
    return round(pictures * share) * (2 * dim + _KEY)


def statistics_bytes(pictures: int, dim: int, num_partitions: int) -> int:
    """Returns what `standardize` takes when it looks at one partition after the other, in float64."""
    return 3 * _KEY * dim * -(-min(pictures, 65_536) // num_partitions)


def ahead_bytes(pictures: int, numbers: int, trained: bool) -> int:
    """Returns what is fetched for the next step meanwhile: float16 vectors, or pixels, of so many numbers each."""
    return pictures * numbers * (_FLOAT if trained else _FLOAT // 2)


def pixel_cache_bytes(pictures: int, height: int, width: int, share: float, limit: int = 2**30) -> int:
    """Returns the bytes of the decoded pictures that a trained backbone keeps."""
    picture = 3 * _FLOAT * height * width
    return min(round(pictures * share), limit // picture) * picture


# --- data ---


def window_bytes(lanes: int, groups: int, slots: int, impressions_per_group: float, columns: tuple[int, int]) -> int:
    """Returns the bytes of the windows that a reader holds: some groups of each lane, to be shuffled.

    `groups` of a lane in memory; `columns`: how many each group and each impression has, beside the fixed ones.
    """
    of_group = slots * (_FLOAT + _FLOAT) + _KEY * (2 + columns[0])
    of_impression = 2 * _FLOAT + _FLOAT + _KEY * (1 + columns[1])
    return round(lanes * groups * (of_group + impressions_per_group * of_impression))


def item_table_bytes(items: int, columns: int) -> int:
    """Returns the bytes of the items' columns as batches take them, and as they were read."""
    return 2 * _KEY * columns * (items + 1)
