"""Click-through-rate models that look at pictures, on Lightning. The data's way, file by file:

1. `data/`      logs -> dataset folder -> Batch
   `sources/synthetic.py` a made-up shop, `sources/drawing.py` its pictures; `sources/log.py` your own log:
   `log_config.py` its keys, `log_files.py`, `log_tables.py`, `log_types.py`, `log_csv.py`, `log_blocks.py` reading,
   `log_rows.py`, `log_time.py`, `log_filters.py`, `log_history.py` impressions, `log_side.py` items and users,
   `log_pictures.py`, `log_tar.py`, `log_problems.py` rows that cannot be used; `source_folder.py` a known dataset's
   files, for plugins, `source_tables.py` the tables in them; `options.py` the recipe's keys;
   `prepare.py` the folder, `preparation.py` the steps: `ingest.py` checks, `pictures.py` shards, `parts.py` which rows
   are in which split, `state.py` what is kept so that days can be added, `tables.py` checks and counts
   in `database.py`, `sorting.py` joins, encodes and sorts,
   `vocabulary.py` codes and indices, `negatives.py`, `grouping.py` histories, `lanes.py` files, `description.py` what
   dataset.yaml says, `steps.py` what is done is not done twice, `progress.py`;
   `dataset.py` the folder, opened; `order.py`, `ragged.py`, `windows.py`, `reader.py` who reads what and when;
   `collate.py`, `packed.py`, `datamodule.py`; `found_again.py` a few impressions for people;
   `audit/look.py` what a person should know of a folder: `audit/format.py`,
   `audit/batch.py`, `audit/scan.py`, `audit/photos.py` errors of format and counts, `audit/joins.py`, `audit/users.py`,
   `audit/histories.py`, `audit/checks.py` leakage, `audit/made.py`, `audit/forgotten.py`, `audit/advice.py` warnings,
   `audit/examples.py`, `audit/result.py`, `audit/words.py`
2. `features/`  Batch -> Encoded:  `encoders.py`, `tables.py`, `sharded.py` rows over the ranks
3. `images/`    picture keys -> vectors, every picture computed once
   `backbone.py`, `extract.py`, `known.py` what need not be computed again, `parts.py`, `features_file.py`, `store.py`,
   `embedder.py`, `server.py`, `floor.py` the least time it can take; below the stages
   `exchange/dedup.py`, `exchange/owner.py`, `exchange/all_to_all.py`, `exchange/ahead.py`, `exchange/traffic.py`,
   `exchange/agree.py`, `exchange/heartbeat.py` who is still there, the shards `shards.py`, decoding `pixels.py`
4. `interest/`  history vectors -> one interest vector:  `pooling.py`, `attention.py`
5. `nets/`      all vectors -> logit:  `mlp.py`, `lr.py`, `two_tower.py`; `layers.py`, `dice.py` what they are made of
6. `training/`  `module.py` knows the order of 2 to 5;  `per_impression.py`, `loss.py`, `metrics.py`, `slices.py`,
   `bootstrap.py`, `optimizers.py`, `lazy_rules.py` of id tables, `checkpoint.py`, `checkpoint_files.py`, `same_run.py`
   what a resume may change, `random_state.py`, `callbacks.py`, `early_stop.py`, `handed_on.py` in the promised shape,
   `strategy.py` several ranks, `launcher.py` their start and end, `sparse_gradients.py` their mean, `table_files.py`
   rows of sharded tables, `picture_counts.py`, `measure_steps.py` and `part_clock.py` where a step's time goes,
   `warm_start.py` an earlier run's weights: `taking_over.py` piece by piece, `row_values.py` ids, `same_inputs.py`;
   what they take of memory: `memory_parts.py`, and a step of it: `small_step.py`, `live_bytes.py`
7. `artifacts/` what a run leaves behind:  `run_folder.py`, `metrics_file.py`, `predictions.py`, `difference.py` of two
   runs, `results.py`, `comparison_files.py`, `picture_costs.py`; `report/page.py` a page to look at:
   `report/collect.py` what it says, `report/gain.py`, `report/training_curves.py`, `report/calibrated.py`,
   `report/sliced.py`, `report/saved.py`, `report/cards.py` its parts, `report/choose.py`, `report/gallery.py`,
   `report/thumbnails.py` the impressions, `report/charts.py`, `report/markup.py`, `report/words.py`

Round it: `cli.py` reads the command line, `commands.py` has each command, `help_pages.py` explains it, `run.py` does
those that need a recipe or a run, `session.py` puts a recipe's parts together, trains and tests, with pictures from
`picture_source.py`; `reporting.py` lets them be looked at; `compare.py` does so for a table of recipes, `bench.py` to
measure a step, `memory_check.py` to see whether it fits, by `memory_model.py`; `recipe/` reads recipes, `registry.py`
knows the components, `plugin_modules.py` loads plugins, `builtin.py` registers our own components, `hookspecs.py` has
the hooks, `interfaces.py` what a plugin author subclasses, `types.py` what the stages hand on and the legend of
letters, `errors.py` the errors, `prelu.py` the activation, `memory.py` the allocator and the machine's memory,
`whole_file.py` files that are there whole or not at all.

`testing/` is what plugin authors import: `testing/contract.py` makes tests of `testing/plan.py`, every check with every
config (`testing/given.py`), and `testing/checking.py` does so for `dicm check`. A check (`testing/check.py`) looks at a
`testing/subject.py` in the settings of `testing/settings.py`, with `testing/tensors.py`, `testing/trace.py`,
`testing/elsewhere.py` and `testing/tiny_log.py`. The checks (`testing/registered.py`) are `testing/every.py`,
`testing/quiet_import.py`, `testing/config_keys.py`; `testing/modules.py`, `testing/on_ranks.py` with the pool
`testing/ranks.py`; `testing/aggregators.py`, `testing/encoders.py`, `testing/backbones.py`, `testing/base_nets.py`;
`testing/data_sources.py`, `testing/source_streams.py`, `testing/prepared.py`. `testing/time_limit.py` ends what hangs;
`testing/pytest_plugin.py` has fixtures, `testing/page.py` lists the checks.
What a plugin starts from, `scaffold/new_plugin.py` writes, with data from `scaffold/fixture.py`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dicm_kit.data.sources.log_files import joined_fingerprint as joined_fingerprint
    from dicm_kit.data.sources.source_folder import SourceFolder as SourceFolder
    from dicm_kit.data.sources.source_tables import JsonLines as JsonLines
    from dicm_kit.data.sources.source_tables import SourceTable as SourceTable
    from dicm_kit.data.sources.source_tables import TextTable as TextTable
    from dicm_kit.errors import DataError as DataError
    from dicm_kit.errors import DicmError as DicmError
    from dicm_kit.errors import FieldError as FieldError
    from dicm_kit.hookspecs import HOOK_API as HOOK_API
    from dicm_kit.hookspecs import hookimpl as hookimpl
    from dicm_kit.interest.attention import check_queries as check_queries
    from dicm_kit.interest.attention import counterparts as counterparts
    from dicm_kit.interest.attention import looks_at_target as looks_at_target
    from dicm_kit.interest.attention import weights_of as weights_of
    from dicm_kit.interest.pooling import side_by_side as side_by_side
    from dicm_kit.interfaces import BaseNet as BaseNet
    from dicm_kit.interfaces import ColumnShape as ColumnShape
    from dicm_kit.interfaces import Component as Component
    from dicm_kit.interfaces import DataSource as DataSource
    from dicm_kit.interfaces import FeatureEncoder as FeatureEncoder
    from dicm_kit.interfaces import HistoryShapes as HistoryShapes
    from dicm_kit.interfaces import ImageBackbone as ImageBackbone
    from dicm_kit.interfaces import InterestAggregator as InterestAggregator
    from dicm_kit.interfaces import NestedAggregator as NestedAggregator
    from dicm_kit.interfaces import NetShapes as NetShapes
    from dicm_kit.interfaces import SourceColumn as SourceColumn
    from dicm_kit.interfaces import SourceColumns as SourceColumns
    from dicm_kit.types import Bag as Bag
    from dicm_kit.types import Batch as Batch
    from dicm_kit.types import Column as Column
    from dicm_kit.types import Encoded as Encoded
    from dicm_kit.types import Interest as Interest
    from dicm_kit.types import Pictures as Pictures
    from dicm_kit.types import Prediction as Prediction

__version__ = "0.1.0"

# Imported on first use: `dicm --help` must not wait for torch.
_HOME = {
    "SourceFolder": "data.sources.source_folder",
    "JsonLines": "data.sources.source_tables",
    "SourceTable": "data.sources.source_tables",
    "TextTable": "data.sources.source_tables",
    "joined_fingerprint": "data.sources.log_files",
    "DataError": "errors",
    "DicmError": "errors",
    "FieldError": "errors",
    "HOOK_API": "hookspecs",
    "hookimpl": "hookspecs",
    "check_queries": "interest.attention",
    "counterparts": "interest.attention",
    "looks_at_target": "interest.attention",
    "weights_of": "interest.attention",
    "side_by_side": "interest.pooling",
    "BaseNet": "interfaces",
    "ColumnShape": "interfaces",
    "Component": "interfaces",
    "DataSource": "interfaces",
    "FeatureEncoder": "interfaces",
    "HistoryShapes": "interfaces",
    "ImageBackbone": "interfaces",
    "InterestAggregator": "interfaces",
    "NestedAggregator": "interfaces",
    "NetShapes": "interfaces",
    "SourceColumn": "interfaces",
    "SourceColumns": "interfaces",
    "Bag": "types",
    "Batch": "types",
    "Column": "types",
    "Encoded": "types",
    "Interest": "types",
    "Pictures": "types",
    "Prediction": "types",
}

__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"dicm_kit.{_HOME[name]}"), name)
    raise AttributeError(f"module 'dicm_kit' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)
