"""The check that a data source makes a dataset: prepared in a temporary folder, audited, and read as batches."""

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from dicm_kit.data.audit import audit
from dicm_kit.data.collate import ColumnsUsed
from dicm_kit.data.datamodule import CtrDataModule
from dicm_kit.data.dataset import Dataset
from dicm_kit.data.options import GroupOptions, HistoryOptions, NegativeOptions, PrepareOptions, SplitOptions
from dicm_kit.data.prepare import prepare
from dicm_kit.data.sources.log import build_log
from dicm_kit.data.sources.log_config import LogConfig
from dicm_kit.errors import DicmError
from dicm_kit.interfaces import Component
from dicm_kit.testing.check import Failed, check
from dicm_kit.testing.data_sources import KIND
from dicm_kit.testing.given import config_of
from dicm_kit.testing.settings import SourceSetting, rows
from dicm_kit.testing.tiny_log import tiny_log_config
from dicm_kit.types import Batch


@check(KIND)
def makes_a_dataset(setting: SourceSetting) -> None:
    """`prepare` makes a dataset folder of it, in which the audit finds no error, and batches come out."""
    source = setting.source()
    with tempfile.TemporaryDirectory(prefix="dicm-check-") as folder:
        try:
            dataset = prepare(source, options_for(source), Path(folder) / "dataset", progress=False)
        except DicmError as error:
            raise Failed(f"`dicm prepare` refuses it: {error}") from error
        problems = [f"{each.where}: {each.what}" for each in audit(dataset).problems]
        if problems:
            raise Failed(f"the audit of the prepared folder found: {'; '.join(problems[:3])}")
        read, there = (
            sum(batch.num_impressions for batch in training_batches(dataset)),
            dataset.splits["train"].impressions,
        )
        if read != there:
            raise Failed(f"the dataset's training split has {there} impressions, but {read} came out in batches")
        if read == 0:
            raise Failed(
                "nothing is in the training split; a log for the checks needs three days, or users with three clicks"
            )


def options_for(source: Any) -> PrepareOptions:
    """Returns options that fit a tiny log: by its own `split`, by whole days where there are three, else by user; with
    negatives drawn where it has positives only."""
    found = [row for piece in source.pieces for row in rows(source.impressions(piece))]
    days = {row["time"] // 86_400 for row in found if isinstance(row.get("time"), int)}
    if found and "split" in found[0]:
        split = SplitOptions(by="column")
    elif len(days) >= 3:
        split = SplitOptions(by="time", test=1, validation=1)
    else:
        split = SplitOptions(by="user_order", test=1, validation=0)
    drawn = NegativeOptions(per_positive=1, alive="always") if {row.get("label") for row in found} == {1} else None
    return PrepareOptions(
        group=GroupOptions(by="event"),
        history=HistoryOptions(max_length=8),
        split=split,
        negatives=drawn,
        lanes=2,
        partitions=2,
    )


def tiny_dataset(log: Path, out: Path) -> Dataset:
    """Returns the dataset folder of a tiny log (`tiny_log.write_tiny_log`), prepared at `out`."""
    config = config_of(Component(name="log", config=LogConfig, build=build_log), tiny_log_config(log))
    source = build_log(config)
    return prepare(source, options_for(source), out, progress=False)


def training_batches(dataset: Dataset) -> Iterable[Batch]:
    """Returns the training split in batches of 16 impressions, with every column that the dataset has."""
    item = tuple(dataset.item)
    columns = ColumnsUsed(user=tuple(dataset.user), target=item, context=tuple(dataset.context), history=item)
    # One rank without workers.
    module = CtrDataModule(dataset, batch_size=16, columns=columns, max_history=8, seed=0)
    return module.train_dataloader()
