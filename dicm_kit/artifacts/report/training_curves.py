"""The part with the training: loss and validation by step, and where the checkpoint that was tested comes from."""

from dicm_kit.artifacts.report import words
from dicm_kit.artifacts.report.charts import Line, legend, line_chart
from dicm_kit.artifacts.report.collect import RunFacts
from dicm_kit.artifacts.report.markup import Html, tag

_LOOKS = {
    "train/loss": ("training loss", "one", False),
    "val/log_loss": ("log loss on validation", "two", True),
    "val/gauc": ("GAUC on validation", "two", True),
    "val/auc": ("AUC on validation", "three", True),
}


def training_curves(run: RunFacts) -> Html:
    """Returns the section."""
    step = int(run.result["steps"])
    best = run.result["checkpoint"] == "best.ckpt"
    which = "the best on validation" if best else "the last"
    parts = [tag("h2", "Training"), tag("p", f"The checkpoint that was tested is {which}: step {step:,}.")]
    if run.curves is None:
        logger = (run.recipe.get("trainer") or {}).get("logger")
        parts.append(tag("p", f"This run has no metrics.csv (trainer.logger: {logger}), so there are no curves.",
                         class_="note warn"))  # fmt: skip
        return tag("section", *parts, id="training")
    mark = "tested" if not best else "best, tested"
    charts = [
        _chart(run, ("train/loss", "val/log_loss"), "Loss: less is better", step, mark),
        _chart(run, ("val/gauc", "val/auc"), "Order: more is better", step, mark),
    ]
    drawn = [each for each in charts if each is not None]
    parts.append(tag("div", *drawn, class_="grid two"))
    if not any(name.startswith("val/") for name in run.curves):
        parts.append(tag("p", "Nothing was validated during this training, so only its own loss can be shown.",
                         class_="note warn"))  # fmt: skip
    if not drawn:
        parts.append(tag("p", "Nothing was logged.", class_="note warn"))
    return tag("section", *parts, id="training")


def _chart(run: RunFacts, names: tuple[str, ...], title: str, step: int, mark: str) -> Html | None:
    assert run.curves is not None, "asked before"
    lines = []
    for name in names:
        curve = run.curves.get(name)
        if curve is not None and len(curve.step):
            called, look, dots = _LOOKS[name]
            lines.append(Line(called, look, curve.step, curve.value, dots))
    if not lines:
        return None
    said = [f"{line.name} from {words.number(line.y[0], 3)} to {words.number(line.y[-1], 3)}" for line in lines]
    chart = line_chart(lines, f"{title}. {'; '.join(said)}.", step, mark)
    return tag("figure", tag("h3", title), chart, legend([(line.look, line.name) for line in lines]), class_="card")
