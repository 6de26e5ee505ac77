"""Our encoders keep what they promise."""

from dicm_kit.builtin import dicm_feature_encoders
from dicm_kit.testing import EncoderContract

OURS = {each.name: each for each in dicm_feature_encoders()}


class TestId(EncoderContract):
    component = OURS["id"]


class TestIds(EncoderContract):
    component = OURS["ids"]
    configs = ({}, {"pooling": "sum"})


class TestHash(EncoderContract):
    component = OURS["hash"]
    configs = ({"buckets": 50},)


class TestNumber(EncoderContract):
    component = OURS["number"]
    configs = ({}, {"transform": "log1p"}, {"transform": "asinh", "mean": 1.0, "scale": 2.0})
