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
from dicm_kit.features.tables import id_tables, set_rows
from dicm_kit.training.checkpoint import Provenance
from dicm_kit.training.module import CtrModule
from dicm_kit.training.row_values import matched, read_row_values
from dicm_kit.training.same_inputs import other_inputs, section_of

if TYPE_CHECKING:
    import pyarrow as pa

Tensors = dict[str, Tensor]
"""By their names in the state dict."""
_ROWS = 2**20
"""Rows copied at a time: a table may be as large as half the memory."""


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
        tables = {f"{piece.prefixes[0]}{name}": table for name, table in id_tables(piece.encoder).items()}
        vocabulary = self.here["id_columns"][piece.name]
        if vocabulary is None:  # row 7 is that of the same hashes everywhere
            _same_shapes(new, old)
            rows = max((len(new[name]) for name in tables), default=0)
            return Move(f"ids: all {rows:,} rows of {piece.name}, by hash", partial(_copy, new, old))
        rest = {name: value for name, value in new.items() if name not in tables}
        _same_shapes(rest, {name: value for name, value in old.items() if name not in tables})
        before, now = self._ids_there(piece.name), self.values(vocabulary)
        if before.type != now.type:
            raise Misfit(f"its ids are {_kind(before)} there, {_kind(now)} here")
        for name in tables:
            if name not in old or new[name].shape[1:] != old[name].shape[1:]:
                width = f"{_size(old[name].shape[1:])} wide" if name in old else "not"
                raise Misfit(f"{_short(name)} is {width} there, {_size(new[name].shape[1:])} wide here")
        for name, value in new.items():
            by_id = (len(value) == len(now), len(old[name]) == len(before)) if value.ndim else (False, False)
            if by_id != ((True, True) if name in tables else (False, False)):
                what = f"rows of {_short(name)} cannot be matched to ids"
                raise Misfit(f"{what}: that takes an nn.Embedding with a row for each, and nothing else of that length")
        rows_here_K, rows_there_K = matched(before, now)

        def copy() -> None:
            for name, table in tables.items():
                for here_K, there_K in zip(rows_here_K.split(_ROWS), rows_there_K.split(_ROWS), strict=True):
                    set_rows(table, here_K, old[name].index_select(0, there_K))
            _copy(rest, old)

        known = len(rows_here_K) - 1
        return Move(f"ids: {known:,} of {len(now) - 1:,} rows of {piece.name} known", copy, known)

    def _ids_there(self, column: str) -> "pa.ChunkedArray":
        vocabulary = self.there.get("id_columns", {}).get(column)
        if vocabulary is None:
            raise Misfit("the earlier run did not keep which ids its rows are of")
        try:
            return read_row_values(self.old_run, vocabulary, self.there["vocabularies"][vocabulary])
        except RunError as error:
            raise Misfit(str(error)) from error


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
