"""Which id each row of a table stands for: kept in the run folder, since a dataset's vocabularies move on with it."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dicm_kit.errors import RunError

if TYPE_CHECKING:
    import pyarrow as pa

VOCAB = "vocab"
"""The folder in a run folder: `<vocabulary>.parquet` with one column, `value`; its row i is the id of row i."""
_FINGERPRINT = b"vocabulary"


def values_by_row(vocab_file: Path) -> "pa.ChunkedArray":
    """Returns the raw value of each index of a dataset's vocabulary, from 0; null for 0, the unknown id."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    table = pq.read_table(vocab_file, columns=["value", "index"], partitioning=None)
    if pa.types.is_string(table["value"].type):  # which cannot put more than 2 GB of text in order
        table = table.set_column(0, "value", table["value"].cast(pa.large_string()))
    known = table.filter(pc.greater(table["index"], 0)).sort_by("index")
    return pa.chunked_array([pa.nulls(1, known["value"].type), *known["value"].chunks])


def write_row_values(run_dir: Path, vocabulary: str, vocab_file: Path, fingerprint: str) -> None:
    """Keeps the ids of a vocabulary's rows in the run folder; `fingerprint`: of the dataset's file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = _path(run_dir, vocabulary)
    if path.is_file() and (pq.read_schema(path).metadata or {}).get(_FINGERPRINT) == fingerprint.encode():
        return  # a run that goes on
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table({"value": values_by_row(vocab_file)})
    aside = path.with_name(f".{path.name}.tmp")
    with aside.open("wb") as file:
        pq.write_table(table.replace_schema_metadata({_FINGERPRINT: fingerprint}), file, compression="zstd")
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)


def read_row_values(run_dir: Path, vocabulary: str, fingerprint: str) -> "pa.ChunkedArray":
    """Returns what `write_row_values` kept; RunError when it did not, or for another state of the vocabulary."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = _path(run_dir, vocabulary)
    try:
        table = pq.read_table(path, partitioning=None)
    except FileNotFoundError:
        raise RunError("no such file, which says what id each row is of", where=str(path)) from None
    except (OSError, pa.ArrowInvalid) as error:
        raise RunError(f"cannot be read: {str(error).splitlines()[0]}", where=str(path)) from error
    if (table.schema.metadata or {}).get(_FINGERPRINT) != fingerprint.encode():
        raise RunError("belongs to another checkpoint: the vocabulary is another one", where=str(path))
    return table["value"]


def matched(there: "pa.ChunkedArray", here: "pa.ChunkedArray") -> tuple[Tensor, Tensor]:
    """Returns the rows here of the values that both have, and the rows there of the same values; 0 goes to 0."""
    import pyarrow.compute as pc

    assert there.type == here.type, "the caller has seen to it"
    place = pc.index_in(here, value_set=there).combine_chunks()  # null is a value like others: row 0
    rows_here = pc.indices_nonzero(place.is_valid()).to_numpy()
    return torch.from_numpy(rows_here.astype("int64")), torch.from_numpy(place.drop_null().to_numpy().astype("int64"))


def _path(run_dir: Path, vocabulary: str) -> Path:
    return run_dir / VOCAB / f"{vocabulary}.parquet"
