"""A comparison as files: a table for people (Markdown), one for programs (CSV), a picture (PNG)."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from dicm_kit.artifacts.results import Row, comparison_markdown, difference_title
from dicm_kit.errors import RunError
from dicm_kit.whole_file import write_whole

METRICS = ("gauc", "auc", "log_loss", "calibration")
SLICES = ("target_seen", "target_unseen", "target_decile_1", "history_0", "history_1_3")
"""Of which GAUC is given: new items, the rarest, users without and with a short history."""
COSTS = ("parameters", "training_seconds", "impressions_per_second", "pictures_embedded")


def write_comparison(folder: Path, rows: Sequence[Row], oracle: Mapping[str, Any] | None, against: str) -> list[Path]:
    """Writes table.md, table.csv and table.png, and returns them.

    Raises:
        RunError: matplotlib is not installed; the other two are written by then.
    """
    folder.mkdir(parents=True, exist_ok=True)
    text, numbers, picture = (folder / f"table.{kind}" for kind in ("md", "csv", "png"))
    write_whole(text, comparison_markdown(rows, oracle, against))
    write_whole(numbers, comparison_csv(rows, against))
    _draw(picture, rows, oracle, against)
    return [text, numbers, picture]


def comparison_csv(rows: Sequence[Row], against: str) -> str:
    """Returns a line for each row.

    Metrics and costs are means over seeds, `*_sd` standard deviations over them; `gauc_difference` and the like are to
    the row `against`, `*_low` and `*_high` the ends of their 95 % intervals over users, `*_with_seeds_*` over users and
    seeds. What is not known is left empty.
    """
    measured = [*METRICS, *(f"{part}/gauc" for part in SLICES)]
    lines = []
    for row in rows:
        line: dict[str, Any] = {"row": row.name, "seeds": len(row.results), "against": against}
        for name in measured:
            values = [each[name] for each in row.results if name in each]
            line[name] = mean(values) if values else None
            line[f"{name}_sd"] = stdev(values) if len(values) > 1 else None
        for name in ("gauc", "auc"):
            found = row.differences.get(name)
            ends = {"": found.interval, "_with_seeds": found.interval_with_seeds} if found else {"": None}
            line[f"{name}_difference"] = found.value if found else None
            for suffix in ("", "_with_seeds"):
                low, high = ends.get(suffix) or (None, None)
                line |= {f"{name}_difference{suffix}_low": low, f"{name}_difference{suffix}_high": high}
        line |= {name: row.costs.get(name) for name in COSTS}
        lines.append(line)
    file = io.StringIO()
    writer = csv.DictWriter(file, list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return file.getvalue()


def _draw(path: Path, rows: Sequence[Row], oracle: Mapping[str, Any] | None, against: str) -> None:
    """Left GAUC, a dot for each seed; right the difference to the row `against` with its interval."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise RunError(
            "the picture needs matplotlib, which is not installed",
            where=str(path),
            todo="It comes with the extra `report`: pip install 'dicm_kit[report]'.",
        ) from None
    figure = Figure(figsize=(9, 1.2 + 0.42 * len(rows)), layout="constrained", dpi=150)
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, sharey=True)
    places = range(len(rows))[::-1]
    for place, row in zip(places, rows, strict=True):
        values = [each["gauc"] for each in row.results]
        left.plot(values, [place] * len(values), "o", color="#8aa4c8", markersize=5, markeredgewidth=0)
        left.plot(mean(values), place, "|", color="#1f3a5f", markersize=14, markeredgewidth=2)
        found = row.differences.get("gauc")
        if found is not None and found.interval is not None:
            low, high = found.interval_with_seeds or found.interval
            right.plot([low, high], [place, place], color="#1f3a5f", linewidth=2)
            right.plot(found.value, place, "o", color="#1f3a5f", markersize=6)
    if oracle and "gauc" in oracle:
        left.axvline(oracle["gauc"], color="#999999", linestyle=":", label="oracle")
        left.legend(frameon=False, loc="lower right", fontsize=8)
    right.axvline(0, color="#999999", linewidth=1)
    left.set_yticks(list(places), [row.name for row in rows])
    left.set_ylim(-0.7, len(rows) - 0.3)
    left.set_xlabel("GAUC: a dot a seed, the mean as a bar")
    right.set_xlabel(difference_title(rows, against).replace(" [", "\n["))
    for axes in (left, right):
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.grid(axis="x", color="#eeeeee")
        axes.set_axisbelow(True)
        axes.tick_params(axis="y", length=0)
    aside = io.BytesIO()
    figure.savefig(aside, format="png")
    path.write_bytes(aside.getvalue())
