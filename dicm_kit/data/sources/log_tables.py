"""A table of the log: are its columns in every file, and of types that serve; then its rows, batch by batch."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dicm_kit.data.sources.log_csv import csv_batches, csv_start
from dicm_kit.data.sources.log_files import LogFile
from dicm_kit.data.sources.log_types import MEANT, SERVES, Role, Shape, merged, shape_of
from dicm_kit.errors import DataError, FieldError, did_you_mean, some

if TYPE_CHECKING:
    import pyarrow as pa

_ROWS = 65_536


@dataclass(frozen=True)
class Wanted:
    """A column that the recipe names."""

    name: str
    """What it is for: `user`, `time`, `feature_colour`."""
    key: str
    """The recipe's key, from `data.`: `impressions.user`."""
    column: str
    role: Role


class Table:
    """The files of one table of the log, with the columns that are read of them.

    `problems` holds what the recipe must change; with any, nothing can be read.
    """

    def __init__(self, section: str, files: list[LogFile], wanted: Iterable[Wanted], text: list[str]):
        self.section, self.files, self.wanted, self._text = section, files, list(wanted), set(text)
        self.problems: list[FieldError] = []
        self._schemas = {file.name: _schema(file) for file in files}
        self._check_names()
        self.shapes: dict[str, Shape] = {}
        """What the columns hold in all files together, by the `name` of Wanted."""
        if not self.problems:
            self.shapes = {each.name: self._shape(each) for each in self.wanted}

    def types(self, column: str) -> "list[pa.DataType]":
        """Returns the types that a column is read in, file by file."""
        return [self._read_type(file, self._schemas[file.name].field(column)) for file in self.files]

    def batches(self, file: LogFile, columns: Iterable[str] | None = None) -> "Iterator[pa.RecordBatch]":
        """Yields a file's rows with these columns, or with all that are wanted, as they are in the file."""
        import pyarrow as pa

        names = list(dict.fromkeys(columns if columns is not None else (each.column for each in self.wanted)))
        for batch in self._read(file, names):
            yield pa.RecordBatch.from_arrays([self._plain(batch[name], name) for name in names], names)

    def no_rows(self, file: LogFile) -> "pa.RecordBatch":
        """Returns a batch without rows, for files that have none."""
        import pyarrow as pa

        schema, names = self._schemas[file.name], dict.fromkeys(each.column for each in self.wanted)
        empty = [self._plain(pa.nulls(0, self._read_type(file, schema.field(name))), name) for name in names]
        return pa.RecordBatch.from_arrays(empty, list(names))

    def __contains__(self, name: str) -> bool:
        return any(each.name == name for each in self.wanted)

    def __getitem__(self, name: str) -> Wanted:
        return next(each for each in self.wanted if each.name == name)

    def _read(self, file: LogFile, names: list[str]) -> "Iterator[pa.RecordBatch]":
        import pyarrow as pa
        import pyarrow.parquet as pq

        if file.separator is not None:
            schema = self._schemas[file.name]
            types = {name: self._read_type(file, schema.field(name)) for name in names}
            ids = {each.column for each in self.wanted if each.role in ("id", "hash")}
            yield from csv_batches(file, types, schema.names, {name: self.hint(name) for name in names}, ids)
            return
        try:
            with file.open() as stream, pq.ParquetFile(stream, pre_buffer=False) as parquet:  # no threads: see log_csv
                yield from parquet.iter_batches(_ROWS, columns=names, use_threads=False)
        except (pa.ArrowException, OSError) as error:
            raise _unreadable(file, error) from error

    def _plain(self, column: "pa.Array", name: str) -> "pa.Array":
        """Returns the column without a dictionary, decimals as floats, and as text where the recipe says so."""
        import pyarrow as pa

        if pa.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        if pa.types.is_decimal(column.type):
            column = column.cast(pa.float64())
        return column.cast(pa.string()) if name in self._text and shape_of(column.type) == "whole" else column

    # --- names ---

    def _check_names(self) -> None:
        if unsplit := [file for file in self.files if self._is_unsplit(file)]:
            self.problems.append(self._wrong_separator(unsplit))
            return
        texts = [(f"{self.section}.text", name) for name in sorted(self._text)]
        for key, name in [*((each.key, each.column) for each in self.wanted), *texts]:
            missing = [file for file in self.files if name not in self._schemas[file.name].names]
            twice = [file for file in self.files if self._schemas[file.name].names.count(name) > 1]
            if missing:
                self.problems.append(FieldError(key, self._missing(name, missing), todo=self._near(name, missing[0])))
            elif twice:
                self.problems.append(FieldError(key, f"the column `{name}` is there twice in {twice[0].where}"))

    def _is_unsplit(self, file: LogFile) -> bool:
        """Returns whether it seems to be a CSV file with another separator: a single column, and not a wanted one."""
        names = self._schemas[file.name].names
        is_wanted = any(each.column in names for each in self.wanted)
        return file.separator is not None and len(names) == 1 and not is_wanted and any(map(names[0].count, ";\t|,"))

    def _wrong_separator(self, files: list[LogFile]) -> FieldError:
        name = self._schemas[files[0].name].names[0]
        what = f"{some(file.where for file in files)} seems to have one column, named {name!r}"
        separator, ending = ("\t", ".tsv") if files[0].separator == "," else (",", ".csv")
        todo = "Values of .csv files are separated by commas, those of .tsv files by tabs: "
        todo += f"let its name end in {ending}." if separator in name else "write the file anew."
        return FieldError(f"{self.section}.file", what, todo=todo)

    def _missing(self, name: str, missing: list[LogFile]) -> str:
        if len(missing) == len(self.files):
            return f"there is no column `{name}` in {missing[0].where}"
        return f"there is no column `{name}` in {some(file.where for file in missing)}, though other files have it"

    def _near(self, name: str, file: LogFile) -> str:
        names = self._schemas[file.name].names
        near = did_you_mean(name, names)
        return f"{f'{near} ' if near else ''}Its columns: {some(names, 20)}."

    # --- types ---

    def _shape(self, wanted: Wanted) -> Shape:
        """Returns what the column holds in all files together; adds the problem when that does not serve."""
        found: dict[Shape, LogFile] = {}
        for file in self.files:
            shape = self._shape_in(file, wanted)
            if shape != "empty" and shape not in SERVES[wanted.role]:
                kind = self._schemas[file.name].field(wanted.column).type
                what = f"the column `{wanted.column}` cannot be used: {kind} in {file.where}"
                what += _example(file, wanted.column) if shape == "text" else ""
                self.problems.append(FieldError(wanted.key, what, todo=MEANT[wanted.role] + self.hint(wanted.column)))
                return "empty"
            if shape != "empty":
                found.setdefault(merged(shape, wanted.role), file)
        if found.keys() == {"whole", "fraction"}:
            return "fraction"
        if found.keys() == {"calendar", "text"} and wanted.role == "time":  # one bad time makes a CSV file's text
            return "text"
        if len(found) > 1:
            self.problems.append(self._conflict(wanted, found))
        return next(iter(found), "empty")

    def _shape_in(self, file: LogFile, wanted: Wanted) -> Shape:
        is_csv = file.separator is not None
        shape = shape_of(self._schemas[file.name].field(wanted.column).type)
        as_text = wanted.column in self._text and (is_csv or shape == "whole")
        return "text" if as_text or (is_csv and wanted.role in ("ids", "times", "split", "picture")) else shape

    def _conflict(self, wanted: Wanted, found: dict[Shape, LogFile]) -> FieldError:
        words = {"whole": "whole numbers", "fraction": "numbers", "calendar": "dates or timestamps"}
        parts = [f"{words.get(shape, shape)} in {file.where}" for shape, file in found.items()]
        todo = "A column has one type: write the files anew."
        if found.keys() == {"whole", "text"} and wanted.role != "time":
            todo = f"`{self.section}.text: [{wanted.column}]` reads both as text."
        return FieldError(wanted.key, f"the column `{wanted.column}` holds {', but '.join(parts)}", todo=todo)

    def _read_type(self, file: LogFile, column: "pa.Field") -> "pa.DataType":
        """Returns the type that a column is read in: in CSV, later lines may hold what the first do not."""
        import pyarrow as pa

        name, guessed = column.name, column.type
        if file.separator is None:
            return guessed
        uses = [each for each in self.wanted if each.column == name]
        roles, shapes = {each.role for each in uses}, {self.shapes[each.name] for each in uses}
        guess = shape_of(guessed)
        if name in self._text or roles & {"ids", "times", "split", "picture"}:
            return pa.string()
        if guess == "calendar":
            return pa.timestamp("ns", getattr(guessed, "tz", None))
        if guess == "whole":
            return pa.float64() if roles <= {"number", "label", "weight"} or shapes == {"fraction"} else pa.int64()
        if guess == "empty":
            if shapes == {"fraction"} or roles <= {"number", "label", "weight"}:
                return pa.float64()
            return pa.int64() if shapes == {"whole"} or roles == {"order"} else pa.string()
        return guessed

    def hint(self, name: str) -> str:
        """Returns what else may be done about a column whose ids are not whole numbers."""
        is_id = any(each.column == name and each.role in ("id", "hash", "where") for each in self.wanted)
        if not is_id or all(file.separator is None for file in self.files):
            return ""
        return f" Where such values may be text, write `{self.section}.text: [{name}]`."


def _schema(file: LogFile) -> "pa.Schema":
    import pyarrow as pa
    import pyarrow.parquet as pq

    if file.separator is not None:
        return csv_start(file).schema
    try:
        with file.open() as stream:
            return pq.read_schema(stream)
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(file, error) from error


def _example(file: LogFile, column: str) -> str:
    """Returns `, such as 'yes'`: the first text of a column; nothing where there is none."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if file.separator is not None:
        values = csv_start(file)[column].to_pylist()
    else:
        try:
            with file.open() as stream, pq.ParquetFile(stream, pre_buffer=False) as parquet:
                batch = next(parquet.iter_batches(1024, columns=[column], use_threads=False), None)
        except (pa.ArrowException, OSError) as error:
            raise _unreadable(file, error) from error
        values = batch[column].to_pylist() if batch else []
    value = next((value for value in values if value is not None), None)
    return "" if value is None else f", such as {repr(value)[:80]}"


def _unreadable(file: LogFile, error: Exception) -> DataError:
    return DataError(f"cannot be read as Parquet: {error}", where=file.where, todo="Write the file anew.")
