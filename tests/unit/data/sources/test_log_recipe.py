"""A recipe of the `log` source: wrong keys and columns come back with its lines, all of them at once."""

import re
from collections.abc import Callable
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pyarrow as pa
import pytest
from little_log import FIRST, fit_log, log_of, tables, write_log, write_table

from dicm_kit.data.sources.log import LogSource
from dicm_kit.data.sources.log_config import HistoryColumnConfig, ImpressionsConfig, ItemsConfig, LogConfig
from dicm_kit.errors import FieldError, RecipeError
from dicm_kit.recipe.build import build_source, rehearse
from dicm_kit.recipe.load import dump, load

RECIPE = """\
dicm: 1
data:
  name: log
  root: ???
  impressions:
    file: log.parquet
    user: user_id
    item: item_id
    time: [timestamp, position]
    label: clicked
    columns: {channel: id, price: number}
    where: {channel: [1, 2]}
  items: {file: items.parquet, item: item_id, picture: image, columns: {colour: id, tags: ids}}
  users:
    file: users.parquet
    user: user_id
    columns: {city: id}
  out: data/log
batch_size: 64
features:
  user: {user_id: {name: id, dim: 8}, city: {name: id, dim: 4}}
  target: {item_id: {name: id, dim: 8}, tags: {name: ids, dim: 4}}
  context: {price: {name: number, dim: 4}}
net: {name: embedding_mlp, hidden: [16]}
run_dir: runs/log
"""

Source = Callable[..., LogSource]


@pytest.fixture
def source(tmp_path: Path) -> Source:
    """Builds the source of the recipe, changed by (old, new) pairs, over the log in tmp_path/log."""
    write_log(tmp_path / "log")

    def build(*changes: tuple[str, str], overrides: tuple[str, ...] = ()) -> Any:
        text = RECIPE
        for old, new in changes:
            assert text.count(old) == 1, old
            text = text.replace(old, new)
        (tmp_path / "recipe.yaml").write_text(text)
        return build_source(load(tmp_path / "recipe.yaml", [f"data.root={tmp_path / 'log'}", *overrides]))

    return build


def complaint(source: Source, *changes: tuple[str, str], overrides: tuple[str, ...] = ()) -> str:
    """Returns what the recipe's error says."""
    with pytest.raises(RecipeError) as caught:
        source(*changes, overrides=overrides)
    return str(caught.value)


def test_the_recipe_is_good(source: Source, tmp_path: Path) -> None:
    assert isinstance(source(), LogSource)
    loaded = load(tmp_path / "recipe.yaml", [f"data.root={tmp_path / 'log'}"])
    rehearse(loaded)
    (tmp_path / "again.yaml").write_text(dump(loaded.recipe))
    assert load(tmp_path / "again.yaml").recipe == loaded.recipe


def test_a_single_time_column_needs_no_list(source: Source, tmp_path: Path) -> None:
    source(("[timestamp, position]", "timestamp"))
    assert load(tmp_path / "recipe.yaml", ["data.root=x"]).recipe.data.config.impressions.time == "timestamp"
    source(overrides=("data.impressions.time=timestamp",))
    assert "must be str or list of str, got a section" in complaint(source, ("[timestamp, position]", "{a: b}"))
    assert "names 3 columns" in complaint(source, ("[timestamp, position]", "[a, b, c]"))


def test_all_wrong_columns_at_once_with_their_lines(
    source: Source, tmp_path: Path, golden: Callable[[str, str], None]
) -> None:
    text = complaint(
        source,
        ("user: user_id\n    item", "user: userid\n    item"),
        ("[timestamp, position]", "[timestamp, postion]"),
        ("label: clicked", "label: click"),
        ("{channel: id, price: number}", "{chanel: id, price: number}"),
        ("picture: image", "picture: img"),
        ("{city: id}", "{town: id}"),
    )
    golden("errors/log_columns.txt", text.replace(f"{tmp_path}/", "") + "\n")


def test_other_keys_with_their_lines(source: Source, tmp_path: Path) -> None:
    def says(old: str, new: str, line: int, what: str) -> None:
        text = complaint(source, (old, new))
        assert f"recipe.yaml:{line}: {what}" in text
        assert text.startswith("1 problem"), text

    says("file: log.parquet", "file: log-*.csv", 6, "`data.impressions.file`: no file matches log-*.csv in")
    says("{channel: [1, 2]}", "{channel: [one]}", 12, "`data.impressions.where.channel`: `channel` holds whole numbers")
    says("{channel: [1, 2]}", "{channel: []}", 12, "`data.impressions.where.channel`: is an empty list")
    says("label: clicked", "since: 16.11.2023", 10, "`data.impressions.since`: is '16.11.2023', no day")
    says(
        "label: clicked", "kept_negatives: 0.1", 10, "`data.impressions.kept_negatives`: is given, but without `label`"
    )
    says("label: clicked", "text: [chanel]", 10, "`data.impressions.text`: there is no column `chanel`")
    says("{city: id}", "{city: number}", 17, "`data.users.columns.city`: the column `city` cannot be used: string")
    says("{city: id}", "{user: id}", 17, "`data.users.columns.user`: a feature may not be called `user`")


def test_a_root_that_is_not_there_is_an_override(source: Source) -> None:
    text = complaint(source, overrides=("data.root=/no/where",))
    assert "command line: `data.root`: there is no folder /no/where" in text
    assert "> data.root=/no/where" in text


def test_a_relative_root_that_is_not_there_is_shown_whole(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    text = complaint(source, overrides=("data.root=log",))
    assert f"`data.root`: there is no folder {tmp_path}/elsewhere/log\n" in text
    assert "`data.root`: there is no folder memory://log\n" in complaint(source, overrides=("data.root=memory://log",))


def test_a_root_that_is_not_given(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    with pytest.raises(RecipeError, match=r"recipe.yaml:4: `data.root` must be given"):
        load(tmp_path / "recipe.yaml")


def test_days_in_the_wrong_order(source: Source) -> None:
    text = complaint(source, ("label: clicked", "since: 2023-11-16\n    until: 2023-11-15"))
    assert "recipe.yaml:11: `data.impressions.until`: is 2023-11-15, before `since: 2023-11-16`" in text


# --- types ---


@pytest.mark.parametrize(
    ("keys", "column", "says"),
    [
        ({"user": "c"}, pa.array([[1]]), r"`impressions.user`: .* list<.*Ids are whole numbers or text"),
        ({"columns": {"c": "id"}}, pa.array([0], pa.timestamp("s")), r"`impressions.columns.c`: .*timestamp\[ms\]"),
        ({"columns": {"c": "ids"}}, [1], r"`impressions.columns.c`: .*int64.*lists of whole numbers or text, or text"),
        ({"columns": {"c": "number"}}, ["1.5"], r"`impressions.columns.c`: .*string.*Kind `number` takes numbers"),
        (
            {"label": "c"},
            [None, "yes"],
            r"`impressions.label`: .*string in .*log.parquet, such as 'yes'\n.*Labels are 0",
        ),
        ({"label": "c"}, pa.nulls(0, pa.string()), r"`impressions.label`: .*string in .*log.parquet\n.*Labels are 0"),
        ({"weight": "c"}, [True], r"`impressions.weight`: .*bool"),
        ({"split": "c"}, [1], r"`impressions.split`: .*train, val, test"),
        ({"time": ["time", "c"]}, [0.5], r"`impressions.time`: .*double.*whole numbers"),
        ({"time": "c"}, [True], r"`impressions.time`: .*bool"),
        ({"history": HistoryColumnConfig(column="c")}, [7], r"`impressions.history.column`: .*int64"),
        ({"where": {"c": [1]}}, pa.array([0], pa.date32()), r"`impressions.where.c`: .*date32"),
        ({"where": {"c": [1]}}, ["1"], r"`impressions.where.c`: `c` holds text, 1 is none.*quotes"),
        ({"where": {"c": [True]}}, [1], r"`impressions.where.c`: `c` holds whole numbers, True is none"),
        ({"where": {"c": ["a"]}}, [0.5], r"`impressions.where.c`: `c` holds numbers, 'a' is none"),
        ({"where": {"c": [1]}}, [True], r"`impressions.where.c`: `c` holds true and false, 1 is none"),
    ],
)
def test_types_that_do_not_serve(keys: dict[str, Any], column: Any, says: str, tmp_path: Path) -> None:
    with pytest.raises(FieldError, match=f"(?s){says}"):
        log_of(tmp_path, {"c": column}, **keys)


def test_a_csv_column_that_does_not_serve_shows_a_value(tmp_path: Path) -> None:
    for name, label in (("a.csv", [1, 0]), ("b.csv", ["no", "yes"])):
        write_table(tmp_path / "log" / name, {"u": [1, 2], "i": [7, 7], "t": [FIRST] * 2, "c": label})
    write_table(tmp_path / "items.csv", {"item": [7]})
    keys = ImpressionsConfig(file="log", user="u", item="i", time="t", label="c")
    with pytest.raises(FieldError, match=r"the column `c` cannot be used: string in .*b.csv, such as 'no'\n"):
        LogSource(str(tmp_path), keys, ItemsConfig(file="items.csv", item="item"))


def test_files_of_other_types_name_both(tmp_path: Path) -> None:
    for name, user in (("a.parquet", [1]), ("b.parquet", ["u1"])):
        write_table(tmp_path / "log" / name, {"u": user, "i": [7], "t": [FIRST], "x": [None]})
    write_table(tmp_path / "items.csv", {"item": [7]})
    keys = ImpressionsConfig(file="log", user="u", item="i", time="t", columns={"x": "id"})
    items = ItemsConfig(file="items.csv", item="item")
    with pytest.raises(FieldError) as caught:
        LogSource(str(tmp_path), keys, items)
    log = tmp_path / "log"
    assert f"`u` holds whole numbers in {log}/a.parquet, but text in {log}/b.parquet" in str(caught.value)
    assert "`impressions.text: [u]` reads both as text" in str(caught.value)
    keys.text = ["u"]
    source = LogSource(str(tmp_path), keys, items)
    assert [next(source.impressions(piece))["user"].to_pylist() for piece in source.pieces] == [["1"], ["u1"]]
    write_table(log / "b.parquet", {"u": ["u1"], "i": [7], "t": pa.array([0], pa.timestamp("s")), "x": [1.5]})
    with pytest.raises(FieldError, match=r"`t` holds whole numbers in .*a.parquet, but dates or timestamps in .*b.par"):
        LogSource(str(tmp_path), keys, items)


def test_a_column_that_one_file_lacks(tmp_path: Path) -> None:
    write_table(tmp_path / "log/a.csv", {"u": [1], "i": [7], "t": [FIRST], "c": [1]})
    write_table(tmp_path / "log/b.csv", {"u": [1], "i": [7], "t": [FIRST]})
    write_table(tmp_path / "items.csv", {"item": [7]})
    keys = ImpressionsConfig(file="log", user="u", item="i", time="t", columns={"c": "id"})
    with pytest.raises(FieldError, match=r"no column `c` in .*b.csv, though other files have it"):
        LogSource(str(tmp_path), keys, ItemsConfig(file="items.csv", item="item"))
    (tmp_path / "log/b.csv").write_text("u,i,t,c,c\n1,7,1,1,1\n")
    with pytest.raises(FieldError, match=r"the column `c` is there twice in .*b.csv"):
        LogSource(str(tmp_path), keys, ItemsConfig(file="items.csv", item="item"))


def test_items_of_another_type_than_the_logs(tmp_path: Path) -> None:
    write_table(tmp_path / "log.csv", {"user": [1], "item": [7], "time": [FIRST]})
    write_table(tmp_path / "items.parquet", {"item": ["7"]})
    keys = ImpressionsConfig(file="log.csv", user="user", item="item", time="time")
    with pytest.raises(FieldError, match=r"(?s)`items.item`: `item` holds text, `item` of the log whole numbers.*`imp"):
        LogSource(str(tmp_path), keys, ItemsConfig(file="items.parquet", item="item"))
    keys.text = ["item"]
    LogSource(str(tmp_path), keys, ItemsConfig(file="items.parquet", item="item"))


def test_a_recipe_whose_log_is_made_up(tmp_path: Path) -> None:
    """`fit_log` writes what any recipe names: tests of recipes whose log nobody has here rely on it."""
    text = RECIPE.replace("log.parquet", "log/*.csv").replace("label: clicked", "split: part\n    text: [user_id]")
    text = text.replace("columns: {city: id}", "columns: {city: id}\n    text: [user_id]")
    (tmp_path / "recipe.yaml").write_text(text)
    loaded = load(tmp_path / "recipe.yaml", [f"data.root={tmp_path / 'log'}"])
    config = loaded.recipe.data.config
    assert isinstance(config, LogConfig)
    fit_log(config, tmp_path / "log")
    source = rehearse(loaded)
    (piece,) = source.pieces
    assert next(source.impressions(piece))["split"].to_pylist()[:3] == ["train", "val", "test"]
    assert len(list(source.pictures(set()))) == 12
    assert tables()["log"].num_rows == 400


def test_the_reference_page_shows_every_key_and_can_be_loaded(tmp_path: Path) -> None:
    page = (Path(__file__).parents[4] / "docs/reference/log.md").read_text()
    (block,) = re.findall(r"```yaml\n(data:.*?)```", page, re.DOTALL)
    assert set(re.findall(r"(\w+):", block)) >= {*_keys(LogConfig), *_keys(HistoryColumnConfig), "folder", "tar"}
    rest = RECIPE[: RECIPE.index("data:")] + block + RECIPE[RECIPE.index("batch_size:") :]
    (tmp_path / "recipe.yaml").write_text(rest)
    loaded = load(tmp_path / "recipe.yaml", [f"data.root={tmp_path / 'log'}"])
    fit_log(loaded.recipe.data.config, tmp_path / "log")
    source = rehearse(loaded)
    assert [len(batch) for piece in source.pieces for batch in source.impressions(piece)] == [60]


def _keys(section: type) -> set[str]:
    """Returns the names of a config's keys, those of the sections in it included."""
    hints = get_type_hints(section)
    inner = [kind for hint in hints.values() for kind in (hint, *get_args(hint)) if is_dataclass(kind)]
    return set(hints).union(*(_keys(kind) for kind in inner))
