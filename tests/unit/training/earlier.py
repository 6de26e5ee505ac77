"""An earlier run of the toy model, as training would have left it, for tests of warm starts."""

import copy
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
import toy
import yaml
from toy import image_server, toy_module

from dicm_kit.training.checkpoint_files import CHECKPOINTS
from dicm_kit.training.module import CtrModule
from dicm_kit.training.row_values import VOCAB

ID_COLUMNS = {
    "user.user_id": "user_id",
    "target.item_id": "item_id",
    "target.tags": "tags",
    "history.item_id": "item_id",
}
RECIPE: dict[str, Any] = {
    "features": {
        "user": {"user_id": {"name": "id"}, "type": {"name": "number"}},
        "target": {"item_id": {"name": "id"}, "tags": {"name": "ids"}},
        "context": {"hour": {"name": "number"}},
        "history": {"item_id": {"name": "id", "share": "target.item_id"}},
    },
    "images": {"target": True},
    "interest": {
        "ids": {"name": "attention", "queries": ["target.item_id"]},
        "images": {"name": "multi_query_attention", "queries": ["image", "target.item_id"]},
    },
    "net": {"name": "embedding_mlp"},
}
ITEMS_THERE = [None, *(f"i{number}" for number in range(29))]
ITEMS_HERE = [None, *(f"i{number}" for number in range(28, 3, -1)), "new 1", "new 2", "new 3"]
"""In another order, without i0 to i3, and with three new ones."""
KNOWN = 25


def provenance(recipe: dict[str, Any] = RECIPE, **changed: Any) -> dict[str, Any]:
    return {
        "recipe": yaml.safe_dump(recipe, sort_keys=False),
        "vocabularies": {"user_id": "u", "item_id": "i", "tags": "t"},
        "id_columns": ID_COLUMNS,
        "backbone": "b",
        "plugins": {"dicm-x": "0.2"},
        "hook_api": 1,
        **changed,
    }


def values(vocab: str, items: list = ITEMS_HERE) -> pa.ChunkedArray:
    known = {"user_id": [None, *range(1, toy.USERS)], "item_id": items, "tags": [None, *"abcdef"]}[vocab]
    kind = pa.int64() if isinstance(known[-1], int) else pa.large_string()
    return pa.chunked_array([pa.array(known, kind)])


def changed_recipe(path: str, value: Any) -> dict[str, Any]:
    recipe = copy.deepcopy(RECIPE)
    *above, last = path.split(".")
    section = recipe
    for step in above:
        section = section[step]
    section[last] = value
    return recipe


def earlier(folder: Path, items: list = ITEMS_THERE, **changed: Any) -> tuple[CtrModule, Path]:
    """A run with 30 items, as training would have left it: the module and the run folder."""
    module = toy_module(seed=1, server=image_server())
    (folder / CHECKPOINTS).mkdir(parents=True)
    (folder / VOCAB).mkdir()
    for name, fingerprint in provenance()["vocabularies"].items():
        table = pa.table({"value": values(name, items)}).replace_schema_metadata({"vocabulary": fingerprint})
        pq.write_table(table, folder / VOCAB / f"{name}.parquet")
    content = {"state_dict": module.state_dict(), "global_step": 24, "dicm": {"provenance": provenance(**changed)}}
    torch.save(content, folder / CHECKPOINTS / "best.ckpt")
    return module, folder


ROWS = "encoders.target.item_id_of.table.rows.weight"
