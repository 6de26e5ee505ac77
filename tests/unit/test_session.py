"""What session.py adds to its parts: the oracle."""

import numpy as np
import pytest
from sklearn.metrics import log_loss, roc_auc_score

from dicm_kit.data.dataset import Dataset
from dicm_kit.data.prepare import PrepareOptions, prepare
from dicm_kit.data.sources.synthetic import SyntheticConfig, build_synthetic
from dicm_kit.session import oracle


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
