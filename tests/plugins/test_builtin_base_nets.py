"""Our nets keep what they promise."""

from dicm_kit.builtin import dicm_base_nets
from dicm_kit.testing import BaseNetContract

OURS = {each.name: each for each in dicm_base_nets()}


class TestEmbeddingMlp(BaseNetContract):
    component = OURS["embedding_mlp"]


class TestLr(BaseNetContract):
    component = OURS["lr"]


class TestTwoTower(BaseNetContract):
    component = OURS["two_tower"]
