"""Impressions as a person sees them: the ad's picture, the pictures clicked before and what weight each one got."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from dicm_kit.artifacts.report.choose import Chosen, choose
from dicm_kit.artifacts.report.thumbnails import thumbnails
from dicm_kit.data.collate import ColumnsUsed
from dicm_kit.data.dataset import Dataset
from dicm_kit.data.found_again import FoundAgain, Wanted, find_again, keys_shown, raw_users
from dicm_kit.errors import RunError
from dicm_kit.training.module import CtrModule
from dicm_kit.training.slices import Impressions
from dicm_kit.types import Prediction

MOST_SLOTS = 24
"""Pictures of a history that are drawn."""
_AD_SIDE, _SLOT_SIDE = 224, 112
_CLOSE = 0.1
"""Of a logit: half precision and other devices round otherwise."""


@dataclass(frozen=True)
class Slot:
    """A click of the history."""

    item: str
    age: float
    """Days between the click and the impression."""
    picture: str | None
    weights: tuple[float, ...]
    """By channel."""


@dataclass(frozen=True)
class Shown:
    """An impression."""

    chosen: Chosen
    user: str
    item: str
    picture: str | None
    slots: list[Slot]
    """Newest first."""
    older: int
    """Clicks of the history that are not drawn."""


@dataclass(frozen=True)
class Gallery:
    """What the report shows of single impressions, or why it shows none."""

    shown: list[Shown] = field(default_factory=list)
    channels: list[str] = field(default_factory=list)
    """What each weight of a slot is, in words; empty: the model tells no weights."""
    notes: list[str] = field(default_factory=list)
    """What a reader must know of it, and what is missing."""


def gallery(module: CtrModule, dataset: Dataset, columns: ColumnsUsed, max_history: int, rows: Impressions) -> Gallery:
    """Returns the gallery of a model's predictions `rows`; the model is asked again for the impressions that are shown.

    Raises:
        RunError: the model says something else of them than the predictions do.
        DicmError: the dataset cannot be read.
    """
    chosen, only_history = choose(rows)
    wanted = [Wanted(each.user, each.item, each.label) for each in chosen]
    found = find_again(dataset, "test", wanted, columns=columns, max_history=max_history) if wanted else None
    if found is None:
        return Gallery(notes=["The test split has no impression to show."])
    prediction = _asked(module, found)
    row_of = _rows_of(chosen, found, prediction)
    attention = _attention(module, prediction)
    rows_shown = [(chosen[index], row) for index, row in row_of.items()]
    shown = _shown(dataset, columns, rows_shown, found, attention.weight_NQL)
    return Gallery(shown, attention.channels, [*_notes(columns, only_history), *attention.notes])


def _asked(module: CtrModule, found: FoundAgain) -> Prediction:
    module.eval()
    with torch.inference_mode():
        return module(found.batch.to(module.device), need_weights=True)


def _rows_of(chosen: Sequence[Chosen], found: FoundAgain, prediction: Prediction) -> dict[int, int]:
    """Returns the batch's row of each chosen impression: of those alike, the one whose prediction is in the file."""
    logits = prediction.logit_N.tolist()
    row_of: dict[int, int] = {}
    for row, index in enumerate(found.wanted):
        off = abs(logits[row] - chosen[index].logit)
        if index not in row_of or off < abs(logits[row_of[index]] - chosen[index].logit):
            row_of[index] = row
    wrong = [index for index, row in row_of.items() if abs(logits[row] - chosen[index].logit) > _CLOSE]
    if wrong or len(row_of) < len(chosen):
        raise RunError(
            f"of {len(chosen)} impressions of the predictions, {len(chosen) - len(row_of)} are not in the dataset and "
            f"of {len(wrong)} the checkpoint says something else now",
            todo="Checkpoint, dataset and predictions do not belong together: test the run again with `dicm test`.",
        )
    return dict(sorted(row_of.items()))


@dataclass(frozen=True)
class _Attention:
    """What the aggregators say of single clicks."""

    channels: list[str]
    weight_NQL: Tensor | None
    notes: list[str]


def _attention(module: CtrModule, prediction: Prediction) -> _Attention:
    """Returns the channels of all aggregators that weigh clicks, pictures first."""
    channels, weights, notes = list[str](), list[Tensor](), list[str]()
    for slot in sorted(prediction.interest, key=lambda slot: slot != "images"):
        weight_NQL = prediction.interest[slot].weights
        queries = [str(each) for each in getattr(module.interest[slot], "queries", ())]
        what = "pictures" if slot == "images" else slot
        if weight_NQL is None:
            notes.append(f"No bars for {what}: this model’s way to sum them up tells no weight of a single click.")
        elif not queries and _all_alike(weight_NQL):
            notes.append(f"No bars for {what}: all clicks have the same weight in this model, there is no attention.")
        else:
            channels += _said(what, queries, weight_NQL.shape[1])
            weights.append(weight_NQL.float().cpu())
    if not module.interest:
        notes.append("This model does not look at what was clicked before, so there is no attention to draw.")
    return _Attention(channels, torch.cat(weights, dim=1) if weights else None, notes)


def _all_alike(weight_NQL: Tensor) -> bool:
    """Returns whether in every row all slots that have a weight have the same."""
    most_NQ = weight_NQL.amax(dim=2, keepdim=True)
    return bool(((weight_NQL == 0) | ((weight_NQL - most_NQ).abs() <= 1e-6 * most_NQ.abs())).all())


def _said(what: str, queries: list[str], num_channels: int) -> list[str]:
    asked = [_query(each) for each in queries]
    if len(asked) == num_channels:
        return [f"{what}, compared with {each}" for each in asked]
    if num_channels == 1:
        return [f"{what}, compared with {' and '.join(asked)}" if asked else f"{what}"]
    return [f"{what}, channel {number + 1}" for number in range(num_channels)]


def _query(name: str) -> str:
    if name == "image":
        return "the ad’s picture"
    side, _, column = name.partition(".")
    return {"target": f"the ad’s {column}", "user": f"the user’s {column}", "context": f"this view’s {column}"}.get(
        side, name
    )


def _notes(columns: ColumnsUsed, only_history: bool) -> list[str]:
    notes = []
    if only_history:
        notes.append("Chosen among the impressions whose user had clicked something before.")
    if not (columns.target_picture or columns.history_picture):
        notes.append("This model does not see the pictures: they are shown for you.")
    elif columns.shuffle_pictures is not None:
        notes.append("The recipe shuffles pictures as a control: these are the ones the model saw, not the items’ own.")
    return notes


def _shown(
    dataset: Dataset,
    columns: ColumnsUsed,
    rows: Sequence[tuple[Chosen, int]],
    found: FoundAgain,
    weight_NQL: Tensor | None,
) -> list[Shown]:
    key_S, raw = keys_shown(dataset, columns), dataset.items["item"]
    histories = {row: found.history_item[row][:MOST_SLOTS] for _, row in rows}
    clicked = np.unique(np.concatenate([np.zeros(0, np.int64), *histories.values()]))
    sides = dict.fromkeys(key_S[clicked].tolist(), _SLOT_SIDE) | {int(key_S[each.item]): _AD_SIDE for each, _ in rows}
    picture = thumbnails(dataset.images_folder, sides, dataset.partitions)
    users = raw_users(dataset, [found.user_code[row] for _, row in rows])
    age_GL, group_N = found.batch.age_GL, found.batch.group_N.tolist()
    shown = []
    for (each, row), user in zip(rows, users, strict=True):
        weight_LQ = [()] * MOST_SLOTS if weight_NQL is None else weight_NQL[row].T.tolist()
        slots = [
            Slot(
                str(raw[int(item)].as_py()),
                float(age_GL[group_N[row], place]),
                picture.get(int(key_S[item])),
                tuple(weight_LQ[place]),
            )
            for place, item in enumerate(histories[row].tolist())
        ]
        older = len(found.history_item[row]) - len(slots)
        item = str(raw[each.item].as_py())
        shown.append(
            Shown(
                each, str(each.user) if user is None else user, item, picture.get(int(key_S[each.item])), slots, older
            )
        )
    return shown
