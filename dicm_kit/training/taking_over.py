"""What of one model can be had from another: piece by piece, whole or not at all, with the reason when not."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import yaml
from torch import Tensor, nn

from dicm_kit.errors import RunError, some
from dicm_kit.features.sharded import ShardedTable, sharded_tables
from dicm_kit.features.tables import id_tables, set_rows
from dicm_kit.training.checkpoint_files import Provenance
from dicm_kit.training.module import CtrModule
from dicm_kit.training.row_values import matched, read_row_values
from dicm_kit.training.same_inputs import other_inputs, section_of
from dicm_kit.training.table_files import OldRows

if TYPE_CHECKING:
    import pyarrow as pa

Tensors = dict[str, Tensor]
"""By their names in the state dict."""
Table = nn.Embedding | nn.EmbeddingBag | ShardedTable


class Misfit(Exception):  # noqa: N818
    """Why a piece cannot be taken over; all of them become one RunError."""


@dataclass
class Piece:
    """What is taken over whole or not at all: the images' part, an aggregator, the net, the encoder of a column."""

    part: str
    """The word in `warm_start.parts` that it belongs to."""
    name: str
    """`images`, `interest.ids`, `net`, `user.city`."""
    prefixes: tuple[str, ...]
    """Of its tensors in a state dict."""
    encoder: nn.Module | None = None
    other_names: list[str] = field(default_factory=list)
    """Columns that share its table."""

    def tensors(self, state: Tensors) -> Tensors:
        """Returns its tensors."""
        return {name: value for name, value in state.items() if name.startswith(self.prefixes)}


@dataclass(frozen=True)
class Move:
    """What will be copied, and how to say it."""

    line: str
    copy: Callable[[], None]
    known: int | None = None
    """Rows of ids that both runs know, without row 0; None where ids are not matched."""


def pieces_of(module: CtrModule, id_columns: Mapping[str, str | None]) -> Iterator[Piece]:
    """Yields the pieces of a model; an encoder that columns share is one, under the name that comes first."""
    if module.server is not None:
        yield Piece("images", "images", ("server.embedder.", "server.backbone."))
    for slot in module.interest:
        yield Piece("interest", f"interest.{slot}", (f"interest.{slot}.",))
    yield Piece("net", "net", ("net.",))
    columns: dict[int, Piece] = {}
    for side, of_side in module.encoders.items():
        assert isinstance(of_side, nn.ModuleDict), "encoders are kept by side"
        for key, encoder in of_side.items():
            name = f"{side}.{key.removesuffix('_of')}"
            if id(encoder) in columns:
                columns[id(encoder)].other_names.append(name)
                continue
            part = "ids" if name in id_columns else "numbers"
            columns[id(encoder)] = Piece(part, name, (f"encoders.{side}.{key}.",), encoder)
    yield from columns.values()


@dataclass(frozen=True)
class Both:
    """This model and the earlier one."""

    state: Tensors
    here: Provenance
    old_state: Tensors
    there: Provenance
    old_rows: Mapping[str, OldRows]
    """Of the earlier model's id tables, by the names of their tensors."""
    old_run: Path
    values: Callable[[str], "pa.ChunkedArray"]
    """Gives the values of this run's vocabularies by row."""

    @cached_property
    def _recipes(self) -> list[dict[str, Any]]:
        return [yaml.safe_load(each["recipe"]) for each in (self.here, self.there)]

    def move(self, piece: Piece) -> Move:
        """Returns what is to be copied.

        Raises:
            Misfit: there is none, it has other shapes, or it would not mean what it meant there.
        """
        new, old = piece.tensors(self.state), piece.tensors(self.old_state)
        ours, theirs = self._recipes
        if section_of(theirs, piece.name) is None:
            raise Misfit("the earlier run has none")
        if why := other_inputs(ours, theirs, piece.name):
            raise Misfit(why)
        if piece.part == "ids":
            return self._ids(piece, new, old)
        if piece.part == "images":
            new = self._images(new, old)
        _same_shapes(new, old)
        count = sum(value.numel() for value in new.values())
        of = "" if piece.name == piece.part else f" of {piece.name.removeprefix('interest.')}"
        return Move(f"{piece.part}: {count:,} weights{of}", partial(_copy, new, old))

    def _images(self, new: Tensors, old: Tensors) -> Tensors:
        """Returns what is to be had; a backbone that was frozen there is the one that this run starts with anyway."""
        trained_here, trained_there = (any(name.startswith("server.backbone.") for name in each) for each in (new, old))
        if trained_there and not trained_here:
            raise Misfit("its backbone was trained there and is frozen here, and the embedder goes with it")
        if trained_there:
            return new
        if self.there.get("backbone") != self.here["backbone"]:
            raise Misfit("the embedder goes with another backbone: model, weights, layer or pixels differ")
        return {name: value for name, value in new.items() if not name.startswith("server.backbone.")}

    def _ids(self, piece: Piece, new: Tensors, old: Tensors) -> Move:
        """Returns the rows of ids that both know, to be copied; what else an encoder has is copied as it is."""
        assert piece.encoder is not None, "ids are columns"
        tables = _tables(piece)
        there = {name: self.old_rows[name] for name in tables if name in self.old_rows}
        for name, table in tables.items():
            if name not in there or there[name].size[1:] != _size_of(table)[1:]:
                width = f"{_size(there[name].size[1:])} wide" if name in there else "not"
                raise Misfit(f"{_short(name)} is {width} there, {_size(_size_of(table)[1:])} wide here")
        rest, old_rest = ({name: value for name, value in each.items() if name not in tables} for each in (new, old))
        _same_shapes(rest, old_rest)
        vocabulary = self.here["id_columns"][piece.name]
        if vocabulary is None:  # row 7 is that of the same hashes everywhere
            for name, table in tables.items():
                if there[name].size != _size_of(table):
                    raise Misfit(f"{_short(name)} is {_size(there[name].size)} there, {_size(_size_of(table))} here")
            rows = max((_size_of(table)[0] for table in tables.values()), default=0)
            same = {name: torch.arange(_size_of(table)[0]) for name, table in tables.items()}
            line = f"ids: all {rows:,} rows of {piece.name}, by hash"
            return Move(line, partial(_copy_rows, tables, there, same, same, rest, old_rest))
        before, now = self._ids_there(piece.name), self.values(vocabulary)
        if before.type != now.type:
            raise Misfit(f"its ids are {_kind(before)} there, {_kind(now)} here")
        for name, table in tables.items():
            if (_size_of(table)[0], there[name].size[0]) != (len(now), len(before)):
                raise Misfit(_no_row_for_each(name))
        for name, value in rest.items():
            if value.ndim and (len(value) == len(now) or len(old[name]) == len(before)):
                raise Misfit(_no_row_for_each(name))
        rows_here_K, rows_there_K = matched(before, now)
        of_here, of_there = dict.fromkeys(tables, rows_here_K), dict.fromkeys(tables, rows_there_K)
        known = len(rows_here_K) - 1
        line = f"ids: {known:,} of {len(now) - 1:,} rows of {piece.name} known"
        return Move(line, partial(_copy_rows, tables, there, of_here, of_there, rest, old_rest), known)

    def _ids_there(self, column: str) -> "pa.ChunkedArray":
        vocabulary = self.there.get("id_columns", {}).get(column)
        if vocabulary is None:
            raise Misfit("the earlier run did not keep which ids its rows are of")
        try:
            return read_row_values(self.old_run, vocabulary, self.there["vocabularies"][vocabulary])
        except RunError as error:
            raise Misfit(str(error)) from error


def _tables(piece: Piece) -> dict[str, Table]:
    """Returns its id tables by the names of their tensors; a sharded one by what its tensor would be called."""
    assert piece.encoder is not None, "ids are columns"
    tables: dict[str, Table] = {f"{piece.prefixes[0]}{name}": each for name, each in id_tables(piece.encoder).items()}
    sharded = sharded_tables(piece.encoder)
    return tables | {f"{piece.prefixes[0]}{name}.rows.weight": each for name, each in sharded.items()}


def _size_of(table: Table) -> tuple[int, ...]:
    return (table.num_rows, table.dim) if isinstance(table, ShardedTable) else tuple(table.weight.shape)


def _no_row_for_each(name: str) -> str:
    what = f"rows of {_short(name)} cannot be matched to ids"
    return f"{what}: that takes an nn.Embedding with a row for each, and nothing else of that length"


def _copy_rows(
    tables: Mapping[str, Table],
    there: Mapping[str, OldRows],
    rows_here: Mapping[str, Tensor],
    rows_there: Mapping[str, Tensor],
    rest: Tensors,
    old_rest: Tensors,
) -> None:
    """Copies row `rows_there[name][k]` of each earlier table into row `rows_here[name][k]`, and the rest as it is."""
    for name, table in tables.items():
        there_K, order_K = rows_there[name].sort()
        here_K = rows_here[name][order_K]
        for row_V, vectors_VD in there[name].chunks():
            place_V = torch.searchsorted(there_K, row_V).clamp(max=max(0, len(there_K) - 1))
            known_V = (there_K[place_V] == row_V) if len(there_K) else torch.zeros(len(row_V), dtype=torch.bool)
            here_U, vectors_UD = here_K[place_V[known_V]], vectors_VD[known_V]
            if isinstance(table, ShardedTable):
                table.set_rows(here_U, vectors_UD)
            else:
                set_rows(table, here_U, vectors_UD)
    _copy(rest, old_rest)


def _same_shapes(new: Tensors, old: Tensors) -> None:
    """Raises Misfit unless both have the same tensors of the same shapes."""
    other = [f"{_short(name)} is here only" for name in new if name not in old]
    other += [f"{_short(name)} is there only" for name in old if name not in new]
    other += [
        f"{_short(name)} is {_size(old[name].shape)} there, {_size(value.shape)} here"
        for name, value in new.items()
        if name in old and value.shape != old[name].shape
    ]
    if other:
        raise Misfit(some(other, 3))


@torch.no_grad()
def _copy(new: Tensors, old: Tensors) -> None:
    for name, value in new.items():
        value.copy_(old[name])


def _short(name: str) -> str:
    """Returns the end of a tensor's name: what comes before is said already."""
    return ".".join(name.split(".")[-2:])


def _size(shape: Sequence[int]) -> str:
    return " x ".join(str(each) for each in shape) or "1"


def _kind(values: "pa.ChunkedArray") -> str:
    return "text" if "string" in str(values.type) else "numbers"
