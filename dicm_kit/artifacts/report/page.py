"""The page: all parts in order, with the style sheet inside; nothing is fetched when it is looked at."""

import platform
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from pathlib import Path

from dicm_kit.artifacts.report.calibrated import calibrated
from dicm_kit.artifacts.report.cards import cards
from dicm_kit.artifacts.report.collect import Facts, RunFacts
from dicm_kit.artifacts.report.gain import gain
from dicm_kit.artifacts.report.gallery import Gallery
from dicm_kit.artifacts.report.markup import Html, joined, tag
from dicm_kit.artifacts.report.saved import saved
from dicm_kit.artifacts.report.sliced import sliced
from dicm_kit.artifacts.report.training_curves import training_curves
from dicm_kit.whole_file import write_whole

REPORT_FILE = "report.html"
_PARTS = {
    "gain": "Gain",
    "training": "Training",
    "calibration": "Calibration",
    "slices": "Slices",
    "pictures": "Savings",
    "gallery": "Gallery",
    "recipe": "Recipe",
}
# Should an id of the data get past the escaping, it still could load and run nothing.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def write_report(facts: Facts, gallery: Gallery | str) -> Path:
    """Writes report.html into the run folder, whole or not at all, and returns it.

    `gallery`: or a sentence that says why there is none.
    """
    file = facts.run.folder / REPORT_FILE
    write_whole(file, page(facts, gallery))
    return file


def page(facts: Facts, gallery: Gallery | str) -> str:
    """Returns the whole file."""
    run = facts.run
    title = f"{run.name} against {facts.against.name}" if facts.against else run.name
    label = run.predictions.rows["label"]
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", f"{title}: report"),
        tag("link", rel="icon", href="data:,"),
        tag("style", Html(files(__package__).joinpath("style.css").read_text(encoding="utf-8"))),
    )
    links = [tag("a", name, href=f"#{part}") for part, name in _PARTS.items()]
    body = tag(
        "body",
        tag("header", tag("p", "Report of a run", class_="eyebrow"), tag("h1", title),
            tag("nav", *links, aria_label="Parts of this report")),
        tag("main", gain(facts), training_curves(run), calibrated(facts), sliced(facts), saved(run),
            cards(gallery, float(label.mean()) if len(label) else 0.0), _recipe(run)),
        tag("footer", f"Made by dicm_kit {_version('dicm-kit', run)}. This file is all there is: it loads nothing."),
    )  # fmt: skip
    return f"<!doctype html>\n{tag('html', head, body, lang='en')}\n"


def _recipe(run: RunFacts) -> Html:
    result = run.result
    rows = {
        "run folder": str(run.folder),
        "dataset": f"{result['dataset']} (fingerprint {run.predictions.fingerprint})",
        "seed": result["seed"],
        "checkpoint": f"{result['checkpoint']}, step {result['steps']:,}",
        "training speed": f"{result['impressions_per_second']:,.0f} impressions/s",
        "versions": f"run: dicm_kit {result['dicm_kit']}; this report: Python {platform.python_version()}, "
        + ", ".join(f"{name} {_version(name)}" for name in ("torch", "lightning", "timm")),
        "again": f"dicm run {run.folder}/recipe.yaml run_dir=OTHER",
    }
    if not result["impressions_per_second"]:
        del rows["training speed"]
    if "warm_start" in result:
        rows["warm start"] = str(result["warm_start"].get("run", "yes"))
    listed = joined(*(joined(tag("dt", name), tag("dd", value, class_="mono")) for name, value in rows.items()))
    details = tag("details", tag("summary", "The recipe with every key"), tag("pre", run.recipe_text))
    return tag("section", tag("h2", "How it was made"), tag("dl", listed), details, id="recipe")


def _version(name: str, run: RunFacts | None = None) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return str(run.result["dicm_kit"]) if run else "?"
