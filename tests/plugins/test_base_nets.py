"""Our nets keep what they promise."""

from dicm_kit.builtin import dicm_base_nets
from dicm_kit.testing import BaseNetContract

OURS = {each.name: each for each in dicm_base_nets()}


class TestEmbeddingMlp(BaseNetContract):
    component = OURS["embedding_mlp"]
    configs = ({"hidden": [8]}, {"hidden": [8, 4], "dropout": 0.3, "activation": "relu"}, {"activation": "dice"})


class TestLr(BaseNetContract):
    component = OURS["lr"]


class TestTwoTower(BaseNetContract):
    component = OURS["two_tower"]
    configs = ({"hidden": [8]}, {"hidden": [], "dim": 3, "temperature": 0.5}, {"activation": "dice", "hidden": [8]})
