"""Sharded tables beside a checkpoint: a safetensors file per table and partition, for any number of ranks."""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dicm_kit.errors import RunError
from dicm_kit.features.sharded import PARTITIONS, sharded_tables
from dicm_kit.training.optimizers import CtrOptimizer

_CHUNK = 2**20  # rows of a replicated table at a time
_TODO = "Go on from another checkpoint of the run."


def write_tables(module: nn.Module, optimizer: torch.optim.Optimizer, folder: Path) -> None:
    """Writes the rows that this rank holds, with their optimizer state; every rank does, into the same folder.

    A file has `row` [V] int64, the rows' numbers; `weight` [V, D]; and what the optimizer keeps of each row, [V, ...].
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    for name, table in sharded_tables(module).items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        kept = {"weight": table.weight.detach(), **optimizer.state.get(table.weight, {})}
        partition_V = table.partition_of_row()
        order_V = partition_V.argsort(stable=True)
        ends = torch.bincount(partition_V, minlength=PARTITIONS).cumsum(0).tolist()
        for part in table.partitions():
            of_part = order_V[ends[part - 1] if part else 0 : ends[part]]
            tensors = {"row": table.row_V[of_part]}
            tensors |= {key: value.cpu()[of_part].contiguous() for key, value in kept.items()}
            path = table_file(folder, name, part)
            try:
                save_file(tensors, path)
            except SafetensorError as error:  # the system's error as text
                raise OSError(str(error)) from error
            with path.open("rb") as file:
                os.fsync(file.fileno())


def read_tables(module: nn.Module, optimizer: CtrOptimizer | None, folder: Path) -> None:
    """Fills the rows that this rank holds, and their optimizer state where there is an optimizer.

    Raises:
        RunError: a file is missing, broken, or of a table of another size.
    """
    for name, table in sharded_tables(module).items():
        weight = table.weight
        filled = 0
        with torch.no_grad():
            for part in table.partitions():
                tensors = _read(table_file(folder, name, part), table.num_rows, table.dim)
                place_V = torch.searchsorted(table.row_V, tensors.pop("row"))
                filled += len(place_V)
                weight[place_V.to(weight.device)] = tensors.pop("weight").to(weight.device)
                if optimizer is not None and tensors:  # no step has been made yet where there are none
                    for key, values in optimizer.row_state(weight).items():
                        values[place_V.to(weight.device)] = tensors[key].to(weight.device)
        if filled != len(table.row_V):
            raise RunError(
                f"holds {filled:,} rows for this rank, the table has {len(table.row_V):,}",
                where=str(folder / name),
                todo="The checkpoint is of another vocabulary. Use the dataset it was trained on, or train anew.",
            )


@dataclass(frozen=True)
class OldRows:
    """The rows of an id table in a checkpoint, replicated or sharded."""

    size: tuple[int, ...]
    chunks: Callable[[], Iterator[tuple[Tensor, Tensor]]]
    """Gives (row numbers [V], vectors [V, D]), a part of the rows at a time: they may be many."""


def rows_in(path: Path, checkpoint: dict[str, Any]) -> dict[str, OldRows]:
    """Returns the rows of every table by the name of its tensor, and of every other tensor of two dimensions too."""
    found = {
        name: OldRows(tuple(value.shape), partial(_slices, value))
        for name, value in checkpoint["state_dict"].items()
        if value.ndim == 2
    }
    tables = checkpoint["dicm"].get("tables", {"folder": "", "sizes": {}})
    folder = path.parent / tables["folder"]
    for name, size in tables["sizes"].items():
        found[f"{name}.rows.weight"] = OldRows(tuple(size), partial(_parts, folder, name, tuple(size)))
    return found


def _slices(rows_RD: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    for first in range(0, len(rows_RD), _CHUNK):
        part_VD = rows_RD[first : first + _CHUNK]
        yield torch.arange(first, first + len(part_VD)), part_VD


def _parts(folder: Path, name: str, size: tuple[int, int]) -> Iterator[tuple[Tensor, Tensor]]:
    for part in range(PARTITIONS):
        tensors = _read(table_file(folder, name, part), *size)
        yield tensors["row"], tensors["weight"]


def table_file(folder: Path, name: str, part: int) -> Path:
    """Returns where a partition of a table is."""
    return folder / name / f"part-{part:04d}.safetensors"


def check_files(folder: Path, names: Iterable[str]) -> None:
    """Raises RunError for the first file that is missing or cut, without reading rows: a file's head has its length."""
    from safetensors import safe_open

    for path in (table_file(folder, name, part) for name in names for part in range(PARTITIONS)):
        with _broken_named(path), safe_open(path, framework="pt"):
            pass


def _read(path: Path, num_rows: int, dim: int) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    with _broken_named(path):
        tensors = load_file(path)
    if "row" not in tensors or "weight" not in tensors or tensors["weight"].shape[1:] != (dim,):
        raise RunError(f"is not of a table of width {dim}", where=str(path), todo=_TODO)
    if len(tensors["row"]) and int(tensors["row"].max()) >= num_rows:
        raise RunError(f"has rows beyond the table's {num_rows:,}", where=str(path), todo=_TODO)
    return tensors


@contextmanager
def _broken_named(path: Path) -> Iterator[None]:
    from safetensors import SafetensorError

    try:
        yield
    except FileNotFoundError:
        raise RunError("a partition of a sharded table is missing", where=str(path), todo=_TODO) from None
    except (SafetensorError, OSError) as error:
        raise RunError(f"cannot be read: {error}", where=str(path), todo=_TODO) from error
