"""Finished run folders, made without a training, and galleries, made without a model."""

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from predicted import rows, run_folder
from test_report_thumbnails import noise

from dicm_kit.artifacts.predictions import in_order
from dicm_kit.artifacts.report.choose import Chosen
from dicm_kit.artifacts.report.gallery import Gallery, Shown, Slot
from dicm_kit.artifacts.report.thumbnails import thumbnail
from dicm_kit.artifacts.run_folder import write_result
from dicm_kit.training.bootstrap import intervals
from dicm_kit.training.metrics import all_metrics

LOG = """epoch,step,images/vectors_bytes,test/auc,train/loss,val/auc,val/gauc,val/log_loss
0,9,800,,0.7,,,
0,19,1200,,0.6,,,
0,19,,,,0.61,0.62,0.55
1,39,,,0.5,,,
1,39,,,,0.66,0.67,0.51
1,40,,0.6,,,,
"""
RECIPE = "dicm: 1\ndata: {name: log, negatives: null}\nimages: {target: true}\ntrainer: {logger: csv}\n"
PICTURES = {
    "steps": 40, "ranks": 1, "references": 400.0, "grouped": 160.0, "distinct_on_ranks": 50.0, "distinct": 50.0
}  # fmt: skip
HOSTILE = "<script>document.title = 'taken'</script>\"'><img src=x onerror=\"document.title = 'taken'\">"


def finished(folder: Path, columns: dict[str, Any] | None = None, **result: Any) -> Path:
    """Returns the folder of a run that was trained for 40 steps and tested."""
    columns = in_order(rows() if columns is None else columns)
    run_folder(folder, columns)
    (folder / "recipe.yaml").write_text(RECIPE)
    (folder / "metrics.csv").write_text(LOG)
    made = {
        "run_dir": str(folder), "dataset": "data/shop", "checkpoint": "best.ckpt", "dicm_kit": "0.1.0", "seed": 7,
        "steps": 40, "impressions_per_second": 1234.5, "test": all_metrics(columns),
        "intervals": intervals(columns) if len(columns["user"]) else {}, "pictures": PICTURES,
    }  # fmt: skip
    made |= result
    write_result(folder, {name: value for name, value in made.items() if value is not None})
    return folder


def hung(name: str = "17", pictures: bool = True, channels: int = 2) -> Gallery:
    """Returns a gallery of four impressions, one of them without a history."""
    uri = thumbnail(noise(64), 64) if pictures else None
    slots = [Slot(name, float(age), uri if age else None, (0.5, -0.2, 0.1)[:channels]) for age in range(3)]
    shown = [
        Shown(Chosen("missed", 1, 2, 1, -4.0), name, name, uri, slots, older=6),
        Shown(Chosen("false_alarm", 2, 3, 0, 3.0), "42", "item 3", uri, slots, older=0),
        Shown(Chosen("hit", 3, 4, 1, 2.0), "43", "item 4", uri, [], older=0),
        Shown(Chosen("passed", 4, 5, 0, -20.0), "44", "item 5", None, slots[:1], older=0),
    ]
    return Gallery(shown, [f"pictures, by {name}", "ids"][:channels], ["A note."])
