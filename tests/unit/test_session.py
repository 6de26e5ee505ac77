"""What session.py adds to its parts: the oracle, the controls, vectors that are missing."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from recipes.debug_runs import debug
from sklearn.metrics import log_loss, roc_auc_score

from dicm_kit import run
from dicm_kit.data.dataset import Dataset
from dicm_kit.data.prepare import PrepareOptions, prepare
from dicm_kit.data.sources.synthetic import SyntheticConfig, build_synthetic
from dicm_kit.picture_source import Pictures
from dicm_kit.session import Session, oracle


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    shop = build_synthetic(SyntheticConfig(users=30, items=60, impressions=3000, days=4, picture_size=8))
    return prepare(shop, PrepareOptions(lanes=2, partitions=2), tmp_path_factory.mktemp("shop") / "out", progress=False)


def test_the_oracle_is_what_scikit_learn_says_of_the_true_probabilities(dataset: Dataset) -> None:
    rows = dataset.impressions("test", ["user", "item", "label", "click_probability"])
    user, label, score = rows["user"], rows["label"], rows["click_probability"]
    found = oracle(dataset)
    # scikit-learn reads the probabilities, we their log-odds in float32
    assert found["auc"] == pytest.approx(roc_auc_score(label, score), abs=1e-6)
    assert found["log_loss"] == pytest.approx(log_loss(label, score), abs=1e-6)
    assert found["calibration"] == pytest.approx(score.mean() / label.mean(), rel=1e-6)
    both = [mine for each in np.unique(user) if len(set(label[mine := user == each])) == 2]
    of_users = [roc_auc_score(label[mine], score[mine]) for mine in both]
    assert found["gauc"] == pytest.approx(np.average(of_users, weights=[mine.sum() for mine in both]), abs=1e-6)
    unseen = dataset.items["train_count"].to_numpy()[rows["item"]] == 0
    assert found["target_unseen/auc"] == pytest.approx(roc_auc_score(label[unseen], score[unseen]), abs=1e-6)
    assert not [name for name in found if name.startswith("history_")]


def test_shuffled_pictures_go_from_the_recipe_into_the_batches(tmp_path: Path) -> None:
    """Same samples in the same order; only which picture an item shows differs."""

    def batches(*overrides: str) -> list:
        loaded = debug(tmp_path, *overrides)
        return list(Session(loaded, run.prepare(loaded)).data.test_dataloader())

    plain, mixed, again = batches(), batches("images.shuffle=3"), batches("images.shuffle=3")
    assert any((one.target_key_N != other.target_key_N).any() for one, other in zip(plain, mixed, strict=True))
    shown: dict[int, int] = {}
    for one, other, third in zip(plain, mixed, again, strict=True):
        assert torch.equal(one.item_N, other.item_N)
        assert all(torch.equal(one.target[name], other.target[name]) for name in one.target)
        assert torch.equal(other.target_key_N, third.target_key_N)
        assert torch.equal(other.history_key_GL, third.history_key_GL)
        for item, key in zip(other.item_N.tolist(), other.target_key_N.tolist(), strict=True):
            assert shown.setdefault(item, key) == key


def test_pictures_that_items_get_are_computed_and_the_others_taken_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loaded = debug(tmp_path)
    dataset = run.prepare(loaded)
    items, keys = dataset.items, dataset.items["picture_key"].to_numpy()
    early = np.where(np.arange(len(keys)) < len(keys) // 2, keys, 0)
    some, every = (len(np.unique(those[those != 0])) for those in (early, keys))
    assert 0 < some < every
    place = items.column_names.index("picture_key")
    dataset.__dict__["items"] = items.set_column(place, "picture_key", pa.chunked_array([early]))
    first = Pictures.of(loaded, dataset)
    assert f"Vectors: {some} computed, 0 taken over" in capsys.readouterr().out
    dataset.__dict__["items"] = items
    second = Pictures.of(loaded, dataset)
    assert f"Vectors: {every - some} computed, {some} taken over" in capsys.readouterr().out
    assert Pictures.of(loaded, dataset).features == second.features != first.features
    assert "Vectors" not in capsys.readouterr().out
    trained = debug(tmp_path, "images.backbone.trainable=all")
    assert Pictures.of(trained, dataset).features is None
