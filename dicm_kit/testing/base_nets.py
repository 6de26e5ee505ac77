"""Checks of base nets: all vectors in, logits out."""

from dicm_kit.testing.check import Failed, check
from dicm_kit.testing.settings import NetSetting
from dicm_kit.testing.tensors import finite

KIND = "base_net"


@check(KIND)
def logit_per_impression(setting: NetSetting) -> None:
    """It gives logits [N], one for each impression."""
    module = setting.build()
    for rows in (1, 5):
        shape = tuple(setting.run(module, setting.inputs(rows))["logit"].shape)
        if shape != (rows,):
            raise Failed(f"{rows} impressions gave {list(shape)}, not [{rows}]; `squeeze(-1)` the last dimension")


@check(KIND)
def logit_is_unbounded(setting: NetSetting) -> None:
    """It gives log-odds, not probabilities: the loss applies the sigmoid."""
    module = setting.build()
    logits = [setting.run(module, setting.inputs(64, seed, scale))["logit"] for seed in (1, 2) for scale in (1, 30)]
    if all(bool(((each >= 0) & (each <= 1)).all()) for each in logits):
        raise Failed("every output lies between 0 and 1; return log-odds, without the sigmoid: the loss applies it")


@check(KIND)
def large_inputs_are_finite(setting: NetSetting) -> None:
    """Inputs of 10,000 times the usual size give finite logits."""
    if not finite(setting.run(setting.build(), setting.inputs(scale=1e4))):
        raise Failed("large inputs gave NaN or infinity (`exp`? a product of products?); keep the logit finite")
