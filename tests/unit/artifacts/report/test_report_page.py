"""The page: what each part says of runs of every kind, that nothing is fetched, and that ids stay text."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from finished import HOSTILE, RECIPE, finished, hung
from predicted import rows

from dicm_kit.artifacts.picture_costs import picture_costs
from dicm_kit.artifacts.report.charts import Line, line_chart, nice_ticks, span_bar
from dicm_kit.artifacts.report.collect import collect
from dicm_kit.artifacts.report.gallery import Gallery
from dicm_kit.artifacts.report.page import REPORT_FILE, page, write_report


class _Reader(HTMLParser):
    """Checks that elements close, and keeps text by section, attributes and tags."""

    def __init__(self, html: str):
        super().__init__()
        self.open: list[str] = []
        self.sections: dict[str, str] = {}
        self.attributes: list[tuple[str, str, str]] = []
        self._section = "head"
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        self.open.append(tag)
        if tag == "section":
            self._section = dict(attrs)["id"] or ""

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.sections[self._section] = self.sections.get(self._section, "") + data


def read(folder: Path, against: Path | None = None, gallery: Gallery | str | None = None) -> _Reader:
    return _Reader(page(collect(folder, against), hung() if gallery is None else gallery))


def test_the_gain_comes_first_in_words(tmp_path: Path) -> None:
    ours, other = finished(tmp_path / "dicm"), finished(tmp_path / "ids", rows(skill=0.2))
    facts = collect(ours, other)
    found = read(ours, other)
    gain = facts.differences["gauc"]
    text = found.sections["gain"]
    assert text.startswith(f"+{100 * gain.value:.1f}of every 100 pairs in the right order, against ids")
    assert (
        f"Of 100 pairs of a clicked and an unclicked ad shown to the same user, this model puts {100 * gain.run:.1f} "
        f"in the right order; ids {100 * gain.against:.1f}."
    ) in text
    assert "ids what it is compared with" in text
    assert "baseline" not in "".join(found.sections.values())
    assert gain.interval is not None
    low, high = (f"+{100 * each:.1f}" for each in gain.interval)
    assert f"it would lie between {low} and {high}. So it is more than luck" in text
    assert "Another training, with another seed, is not in that." in text
    assert list(found.sections)[1:] == ["gain", "training", "calibration", "slices", "pictures", "gallery", "recipe"]
    assert ("html", "lang", "en") in found.attributes


def test_a_loss_and_no_clear_difference_are_said(tmp_path: Path) -> None:
    good, bad, like = (
        finished(tmp_path / name, rows(skill, noise))
        for name, skill, noise in (("good", 1.0, 0), ("bad", 0.2, 0), ("like", 1.0, 5))
    )
    assert read(bad, good).sections["gain"].startswith("−")
    assert ("p", "class", "figure bad") in read(bad, good).attributes
    assert "Zero is inside: it could be luck" in read(good, like).sections["gain"]
    assert ("p", "class", "figure") in read(good, like).attributes


def test_alone_it_says_how_to_compare(tmp_path: Path) -> None:
    run = finished(tmp_path / "run", oracle={"gauc": 0.9})
    text = read(run).sections["gain"]
    assert text.startswith(f"{100 * collect(run).run.test['gauc']:.1f}of every 100 pairs")
    assert f"dicm report {run} --against OTHER_RUN" in text
    assert "the best there is" in text
    assert "90.0" in text


def test_curves_with_the_best_checkpoint(tmp_path: Path) -> None:
    run = finished(tmp_path / "run")
    found = read(run)
    assert "The checkpoint that was tested is the best on validation: step 40." in found.sections["training"]
    labels = [value for tag, name, value in found.attributes if (tag, name) == ("svg", "aria-label")]
    assert "training loss from 0.700 to 0.500; log loss on validation from 0.550 to 0.510" in labels[0]
    assert "GAUC on validation from 0.620 to 0.670" in labels[1]
    assert ("line", "class", "mark") in found.attributes


def test_without_validation_log_and_with_an_aborted_training(tmp_path: Path) -> None:
    run = finished(tmp_path / "run", checkpoint="last.ckpt")
    (run / "metrics.csv").write_text("epoch,step,train/loss\n0,9,0.5\n")
    assert "Nothing was validated" in read(run).sections["training"]
    assert "tested is the last: step 40" in read(run).sections["training"]
    (run / "metrics.csv").write_text("epoch,step,train/loss\n")
    assert "Nothing was logged" in read(run).sections["training"]
    (run / "metrics.csv").unlink()
    (run / "recipe.yaml").write_text(RECIPE.replace("csv", "wandb"))
    assert "no metrics.csv (trainer.logger: wandb)" in read(run).sections["training"]


def test_calibration_in_words(tmp_path: Path) -> None:
    columns = rows(n=4000)
    columns["logit"] = columns["logit"] + np.float32(1)
    text = read(finished(tmp_path / "run", columns)).sections["calibration"]
    assert re.search(r"predicts \d+\u202f% more clicks than there were", text)
    assert re.search(r"In \d+ of 10 it lies outside of what chance allows", text)
    drawn = finished(tmp_path / "drawn")
    (drawn / "recipe.yaml").write_text(RECIPE.replace("negatives: null", "negatives: {per_positive: 4}"))
    assert "what was not clicked was drawn" in read(drawn).sections["calibration"]


def test_slices_with_counts_and_gains(tmp_path: Path) -> None:
    ours, other = finished(tmp_path / "dicm"), finished(tmp_path / "ids", rows(skill=0.2))
    facts, text = collect(ours, other), read(ours, other).sections["slices"]
    for name, called in (("target_unseen", "new"), ("target_seen", "known"), ("history_0", "none")):
        value, many = facts.run.test[f"{name}/gauc"], facts.run.test[f"{name}/impressions"]
        assert f"{called}{many:,.0f}{value:.3f}" in text
        assert f"+{facts.differences[f'{name}/gauc'].value:.3f}" in text
    assert "gain" not in read(ours).sections["slices"]


def test_histories_that_were_cut_differently_are_not_compared(tmp_path: Path) -> None:
    other = rows(skill=0.2)
    ours, other_run = (
        finished(tmp_path / "dicm"),
        finished(tmp_path / "ids", other | {"history": other["history"] // 2}),
    )
    assert "cut histories differently" in read(ours, other_run).sections["slices"]


def test_one_label_only_is_said(tmp_path: Path) -> None:
    columns = rows() | {"label": np.zeros(1200, np.int8)}
    found = read(finished(tmp_path / "run", columns)).sections
    assert "no click, or nothing but clicks" in found["gain"]
    assert "no click, so there is no rate" in found["calibration"]
    assert "No slice has a user" in found["slices"]


def test_users_with_one_label_each_leave_auc(tmp_path: Path) -> None:
    columns = rows()
    columns["label"] = (columns["user"] % 2).astype(np.int8)
    text = read(finished(tmp_path / "run", columns)).sections["gain"]
    assert "Of 100 pairs of a clicked and an unclicked ad, this model" in text


def _costs(**changes: Any) -> dict[str, Any]:
    costs: dict[str, Any] = {
        "ran": "ams", "ranks": 2, "steps": 10, "references": 4000, "grouped": 1000, "asked": 500, "served": 400,
        "elsewhere": 250, "bytes_sent": 30_000, "wide": 8192, "wide_gradient": 0, "narrow": 48, "stored": 2_000_000,
    }  # fmt: skip
    return picture_costs(**costs | changes)


def test_the_papers_table_2(tmp_path: Path) -> None:
    text = read(finished(tmp_path / "run", pictures=_costs())).sections["pictures"]
    assert "refer to 400 pictures" in text
    assert "Only 40 of them are different" in text
    assert "computed once and used 10.0 times" in text
    assert "The paper’s Table 2, for this run: 2 ranks, per step" in text
    for row in ("AMSmeasured3.0\u202fkB2.0\u202fMB", "store-in-servercomputed205.0", "store-in-workercomputed0"):
        assert row in text
    assert "picture vectors, back1.0\u202fkB" in text, "of the log"


def test_pictures_of_one_rank_of_workers_and_of_none(tmp_path: Path) -> None:
    assert "no picture was sent" in read(finished(tmp_path / "one")).sections["pictures"]
    worker = _costs(ran="store_in_worker", elsewhere=None)
    assert "Only 50 of them" in read(finished(tmp_path / "worker", pictures=worker)).sections["pictures"]
    none = _costs(ranks=1, references=0, grouped=0, asked=0, served=0)
    assert "No impression of the training had" in read(finished(tmp_path / "none", pictures=none)).sections["pictures"]
    ids = finished(tmp_path / "ids", pictures=None)
    assert "has no counts" in read(ids).sections["pictures"]
    (ids / "recipe.yaml").write_text("dicm: 1\nimages: null\n")
    assert "looks at no pictures" in read(ids).sections["pictures"]


def test_the_gallery(tmp_path: Path) -> None:
    found = read(finished(tmp_path / "run"))
    text = found.sections["gallery"]
    assert "Clicked, though the model gave it 1.8\u202f%" in text
    assert "Not clicked, though the model gave it 95\u202f%" in text
    assert "Clicked, and the model gave it 88\u202f%" in text
    assert "had clicked nothing before" in text
    assert "and 6 older ones" in text
    alts = [value for tag, name, value in found.attributes if (tag, name) == ("img", "alt")]
    assert "The ad: item 17" in alts
    assert "clicked 1 day before: item 17. Weight by pictures, by 17: 0.500; ids: −0.200" in alts
    assert ("i", "class", "c1 minus") in found.attributes
    widths = [value for tag, name, value in found.attributes if tag == "i" and value.startswith("width:100%")]
    assert widths, "the largest weight of a channel has the whole bar"
    images = [dict(part) for part in _elements(found, "img")]
    assert all(each["alt"] and each["src"].startswith("data:image/jpeg;base64,") for each in images)


def _elements(found: _Reader, tag: str) -> list[list[tuple[str, str]]]:
    """Returns the attributes of each element of a kind: `src` comes first."""
    listed: list[list[tuple[str, str]]] = []
    for kind, name, value in found.attributes:
        if kind == tag:
            listed.append([]) if name == "src" else None
            listed[-1].append((name, value))
    return listed


def test_galleries_with_less(tmp_path: Path) -> None:
    run = finished(tmp_path / "run")
    without = read(run, gallery=hung(channels=0))
    assert "Below each click, a bar" not in without.sections["gallery"]
    assert ("span", "class", "w") not in without.attributes
    assert "no picture" in read(run, gallery=hung(pictures=False)).sections["gallery"]
    lost = read(run, gallery="data/shop: is not a dataset folder").sections["gallery"]
    assert "No impressions can be shown: data/shop: is not a dataset folder" in lost
    assert "Nothing to show." in read(run, gallery=Gallery(notes=["Nothing to show."])).sections["gallery"]


def test_what_comes_from_strangers_stays_text(tmp_path: Path) -> None:
    run = finished(tmp_path / "run", dataset=HOSTILE)
    (run / "recipe.yaml").write_text(RECIPE + f"run_dir: {json.dumps(HOSTILE)}\n")
    found = read(run, gallery=hung(name=HOSTILE))
    tags = {tag for tag, _, _ in found.attributes}
    assert "script" not in tags
    assert not [name for _, name, _ in found.attributes if name.startswith("on")]
    assert HOSTILE in found.sections["gallery"]
    assert HOSTILE in found.sections["recipe"]
    assert f"The ad: item {HOSTILE}" in [value for _, name, value in found.attributes if name == "alt"]


def test_one_file_that_fetches_nothing(tmp_path: Path) -> None:
    run = finished(tmp_path / "run")
    file = write_report(collect(run), hung())
    assert file == run / REPORT_FILE
    html = file.read_text(encoding="utf-8")
    assert "<script" not in html
    assert "url(" not in html
    assert "@import" not in html
    assert "http://" not in html
    assert "https://" not in html
    found = _Reader(html)
    for tag, name, value in found.attributes:
        if name in ("src", "href"):
            assert value.startswith(("data:", "#")), (tag, name, value)
    policy = [value for _, name, value in found.attributes if name == "content" and "default-src" in value]
    assert policy == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]


# --- charts ---


@pytest.mark.parametrize(
    ("low", "high"), [(0.0, 1.0), (0.41, 0.4301), (-3.0, 7.0), (5.0, 5.0), (0.0, 0.0), (1e-7, 3e-7)]
)
def test_ticks_are_few_round_and_around(low: float, high: float) -> None:
    ticks = nice_ticks(low, high)
    assert ticks[0] <= low + 1e-12
    assert ticks[-1] >= high - 1e-12
    assert 2 <= len(ticks) <= 7
    assert ticks == sorted(set(ticks))


def test_a_long_curve_is_thinned_and_one_point_is_a_dot() -> None:
    steps = np.arange(1.0, 50_001)
    chart = line_chart([Line("loss", "one", steps, 1 / steps)], "Loss", mark=50_000, mark_name="best")
    points = re.search(r'points="([^"]*)"', chart)
    assert points is not None
    assert len(points[1].split()) == 160
    assert len(chart) < 10_000
    one = line_chart([Line("loss", "one", steps[:1], steps[:1])], "Loss")
    assert "<circle" in one
    assert "<polyline" not in one


def test_a_bar_stays_inside() -> None:
    bar = span_bar(0.7, (0.2, 0.99), (0.4, 0.8), other=float("nan"))
    assert "left:0.0%;width:100.0%" in bar
    assert "left:75.0%" in bar
    assert "other" not in bar
    assert "coin" in bar
