"""The report of real runs: at the end of a run and by command, with less and less to show, and in a browser."""

import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from recipes.debug_runs import debug

from dicm_kit import cli, run
from dicm_kit.artifacts.report import collect as collecting
from dicm_kit.artifacts.report.collect import collect
from dicm_kit.artifacts.report.page import write_report
from dicm_kit.artifacts.run_folder import read_result
from dicm_kit.errors import RunError
from dicm_kit.session import Session

sys.path.insert(0, str(Path(__file__).parents[1] / "unit/artifacts/report"))
from finished import HOSTILE, finished, hung

NO_PICTURES = ("images=null", "interest.images=null")
MOST_BYTES = 3 * 2**20


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the debug recipe's run, and one without pictures."""
    folder = tmp_path_factory.mktemp("reports")
    torch.set_num_threads(1)
    run.run(debug(folder, run_dir="dicm"))
    run.run(debug(folder, *NO_PICTURES, run_dir="ids"))
    return folder


def cards(html: str) -> list[str]:
    return re.findall(r"<article.*?</article>", html, re.DOTALL)


def test_a_run_ends_with_its_report(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    html = (shop / "dicm/report.html").read_text()
    assert len(html) < MOST_BYTES
    assert len(cards(html)) == 12
    assert "pictures, compared with the ad’s picture" in html
    assert "pictures, compared with the ad’s item_id" in html
    assert "ids, compared with the ad’s item_id and the ad’s category" in html
    assert html.count("<img") > 40
    again = run.report(shop / "dicm")
    assert again == shop / "dicm/report.html"
    assert cards(again.read_text()) == cards(html), "the checkpoint says the same as the run's own model"


def test_weights_are_those_of_the_model(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A card's weights come from a forward pass over the whole test split, too."""
    from dicm_kit import reporting

    shown = []
    monkeypatch.setattr(reporting, "write_report", lambda facts, gallery: shown.append(gallery) or Path())
    run.report(shop / "dicm")
    loaded = debug(shop, "trainer.look_ahead=false", run_dir="dicm")  # without a trainer
    session = Session(loaded, run.prepare(loaded))
    session.load(session.best_checkpoint())
    session.module.eval()
    raw = session.dataset.items["item"].to_pylist()
    known = set()
    with torch.inference_mode():
        for batch in session.data.test_dataloader():
            prediction = session.module(batch, need_weights=True)
            weights = torch.cat([prediction.interest[slot].weights for slot in ("images", "ids")], dim=1)
            for row in range(batch.num_impressions):
                first = [round(each, 4) for each in weights[row, :, 0].tolist()]
                known.add((str(raw[batch.item_N[row]]), round(float(prediction.logit_N[row]), 3), tuple(first)))
    assert len(shown[0].shown) == 12
    for each in shown[0].shown:
        first = tuple(round(weight, 4) for weight in each.slots[0].weights)
        assert (each.item, round(each.chosen.logit, 3), first) in known


def test_against_another_run(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["report", str(shop / "dicm"), "--against", str(shop / "ids")]) == 0
    assert f"Report: {shop / 'dicm/report.html'}" in capsys.readouterr().out
    html = (shop / "dicm/report.html").read_text()
    gain = read_result(shop / "dicm")["test"]["gauc"] - read_result(shop / "ids")["test"]["gauc"]
    assert f'{abs(100 * gain):.1f}</p><p class="figure-unit">of every 100 pairs' in html


def test_a_run_without_pictures_shows_them_to_people(shop: Path) -> None:
    html = (shop / "ids/report.html").read_text()
    assert "This model does not see the pictures: they are shown for you." in html
    assert "This run looks at no pictures" in html
    assert "pictures, compared" not in html
    assert html.count("<img") > 40


@pytest.mark.filterwarnings("ignore:Total length of `list`")  # said by lightning where nothing is validated
@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (("interest.ids=null", "interest.images.name=sum"), "all clicks have the same weight"),
        (
            ("interest.ids=null", "interest.images=null", "images.history=false"),
            "does not look at what was clicked before",
        ),
        (("images.shuffle=3",), "The recipe shuffles pictures"),
        (("checkpoint.monitor=null", "data.split.validation=0"), "Nothing was validated"),
    ],
    ids=["sum", "no history", "shuffled", "no validation"],
)
def test_variants(overrides: tuple[str, ...], said: str, tmp_path: Path) -> None:
    run.run(debug(tmp_path, "trainer.max_steps=3", "trainer.max_epochs=1", *overrides))
    html = (tmp_path / "run/report.html").read_text()
    assert said in html
    assert len(cards(html)) == 12


def test_sharded_tables_and_a_trained_backbone_are_loaded(tmp_path: Path) -> None:
    overrides = (
        "trainer.max_steps=3",
        "images.backbone.trainable=last_block",
        "features.user.user_id.placement=sharded",
    )
    run.run(debug(tmp_path, *overrides))
    made = (tmp_path / "run/report.html").read_text()
    assert cards(run.report(tmp_path / "run").read_text()) == cards(made)
    assert len(cards(made)) == 12


# --- what is missing ---


@pytest.fixture
def copied(shop: Path, tmp_path: Path) -> Path:
    """A copy of the run and its dataset, to be damaged."""
    for name in ("data", "dicm"):
        shutil.copytree(shop / name, tmp_path / name)
    recipe = tmp_path / "dicm/recipe.yaml"
    recipe.write_text(recipe.read_text().replace(str(shop), str(tmp_path)))
    (tmp_path / "dicm/report.html").unlink()
    return tmp_path


def report_without_gallery(folder: Path, why: str, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    html = run.report(folder / "dicm").read_text()
    assert cards(html) == []
    assert "No impressions can be shown" in html
    assert why in html
    out = capsys.readouterr().out
    assert "warning: the report has no gallery" in out
    assert why in out


def test_the_dataset_is_gone(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(copied / "data")
    report_without_gallery(copied, "is not a dataset folder", capsys)


def test_the_dataset_has_changed(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = copied / "data/dataset.yaml"
    file.write_text(re.sub(r"^fingerprint: .*", "fingerprint: another", file.read_text(), flags=re.MULTILINE))
    report_without_gallery(copied, "the dataset has changed since the run was tested", capsys)


def test_a_checkpoint_of_another_training(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = copied / "dicm/checkpoints/best.ckpt"
    content = torch.load(file, weights_only=True)
    content["state_dict"] = {name: value * 3 + 1 for name, value in content["state_dict"].items()}
    torch.save(content, file)
    report_without_gallery(copied, "the checkpoint says something else now", capsys)


def test_checkpoints_were_deleted(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(copied / "dicm/checkpoints")
    report_without_gallery(copied, "has no checkpoint", capsys)


def test_folders_that_are_no_finished_runs(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["report", str(copied / "data")]) == 1
    assert "is no run folder" in capsys.readouterr().err
    (copied / "dicm/test.json").unlink()
    assert cli.main(["report", str(copied / "dicm")]) == 1
    assert "has not finished" in capsys.readouterr().err
    assert not (copied / "dicm/report.html").exists()


def test_a_failing_report_is_an_error_and_loses_nothing(
    shop: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(collecting, "calibration_deciles", lambda rows: 1 / 0)
    with pytest.raises(RunError, match=r"the report could not be made: ZeroDivisionError") as caught:
        run.run(debug(shop, "trainer.max_steps=3", run_dir="failed"))
    assert "Try again: dicm report" in str(caught.value)
    assert json.loads((shop / "failed/test.json").read_text())["test"]["impressions"] > 0
    assert (shop / "failed/test_predictions.parquet").is_file()
    assert not (shop / "failed/report.html").exists()


# --- in a browser ---


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless Chromium; `.ci/browser` installs one where it can."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install -e '.[dev]'")
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    found = next(filter(None, map(shutil.which, names)), None)
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []  # its sandbox refuses to run as root
    with api.sync_playwright() as driver:
        try:
            chromium = driver.chromium.launch(executable_path=found, args=arguments)
        except api.Error as error:
            if found is not None:
                raise
            why = str(error).splitlines()[0]
            pytest.skip(f"no browser: none of {', '.join(names)} on the path; playwright's own: {why}")
        yield chromium
        chromium.close()


class _Looked:
    """A page as the browser shows it, with all that it said and asked for."""

    def __init__(self, browser: Any, file: Path, scheme: str = "light", width: int = 390):
        self.said: list[str] = []
        self.asked: list[str] = []
        self.context = browser.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme)
        self.page = self.context.new_page()
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("dialog", lambda dialog: self.said.append(dialog.message))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(file.resolve().as_uri())

    def asks(self, script: str) -> Any:
        return self.page.evaluate(script)


@pytest.fixture(scope="module")
def pages(shop: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    strange = finished(folder / ("a" * 120), dataset=HOSTILE)
    return {
        "alone": shop / "dicm/report.html",
        "against": run.report(shop / "ids", shop / "dicm"),
        "hostile": write_report(collect(strange), hung(HOSTILE * 3)),
    }


@pytest.mark.parametrize("name", ["alone", "against", "hostile"])
@pytest.mark.parametrize("width", [390, 1200])
def test_in_a_browser(browser: Any, pages: dict[str, Path], name: str, width: int) -> None:
    looked = _Looked(browser, pages[name], width=width)
    assert looked.asks("document.scrollingElement.scrollWidth") <= width, "no overflow"
    looked.asks("document.querySelectorAll('img').forEach(each => each.loading = 'eager')")
    looked.page.wait_for_function("[...document.images].every(each => each.complete)")
    sizes = looked.asks("[...document.images].map(each => each.naturalWidth)")
    assert len(sizes) >= 5
    assert min(sizes) > 0, "every picture loads"
    assert looked.asks("document.title").endswith(": report")
    for element in ("h1", ".figure"):
        box = looked.page.locator(element).first.bounding_box()
        assert box["height"] > 20
        assert box["y"] + box["height"] < 844, "to be seen without scrolling"
    assert re.search(r"\d", looked.page.locator(".figure").first.inner_text())
    assert looked.asks("document.querySelectorAll('script, iframe, object').length") == 0
    assert [each for each in looked.asked if not each.startswith("data:")] == [pages[name].resolve().as_uri()]
    assert looked.said == []
    looked.context.close()


def test_the_recipe_unfolds(browser: Any, pages: dict[str, Path]) -> None:
    looked = _Looked(browser, pages["alone"])
    recipe = looked.page.locator("pre")
    assert not recipe.is_visible()
    looked.page.locator("summary").focus()
    looked.page.keyboard.press("Enter")
    assert "multi_query_attention" in recipe.inner_text()
    assert looked.asks("document.scrollingElement.scrollWidth") <= 390
    looked.context.close()


def test_dark_mode(browser: Any, pages: dict[str, Path]) -> None:
    colours = {}
    for scheme in ("light", "dark"):
        looked = _Looked(browser, pages["alone"], scheme)
        of_body = "getComputedStyle(document.body)"
        colours[scheme] = [
            sum(map(int, re.findall(r"\d+", looked.asks(f"{of_body}.{each}"))[:3]))
            for each in ("backgroundColor", "color")
        ]
        looked.context.close()
    assert colours["light"][0] > 600 > 150 > colours["light"][1]
    assert colours["dark"][0] < 150 < 600 < colours["dark"][1]
