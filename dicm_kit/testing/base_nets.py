"""Checks of base nets: all vectors in, logits out."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from dicm_kit.testing.check import DoesNotApply, Failed, check
from dicm_kit.testing.settings import NetInputs, NetSetting
from dicm_kit.testing.tensors import asking_gradients, close, finite, leaves, same

KIND = "base_net"


@check(KIND)
def logit_per_impression(setting: NetSetting) -> None:
    """It gives logits [N], one for each impression."""
    module = setting.build()
    for rows in (1, 5):
        out = setting.run(module, setting.inputs(rows))["logit"]
        shape = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
        if shape != (rows,):
            shown = list(shape) if isinstance(shape, tuple) else f"a {shape}"
            raise Failed(f"{rows} impressions gave {shown}, not [{rows}]; `squeeze(-1)` the last dimension")


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


@check(KIND)
def gradient_reaches_every_input(setting: NetSetting) -> None:
    """A gradient reaches every column, the target's picture and every interest: what makes them is trained by it."""
    module = setting.build().train()
    reached: set[str] = set()
    for seed in (1, 2, 3):  # a unit that is off for one batch is on for another
        inputs = asking_gradients(setting.inputs(16, seed))
        logit = setting.run(module, inputs)["logit"]
        if logit.requires_grad:
            logit.sum().backward()
        reached |= {name for name, each in leaves(inputs) if each.grad is not None and bool((each.grad != 0).any())}
    given = [name for name, each in leaves(inputs) if each.requires_grad and "history" not in name]
    missed = [name for name in given if name not in reached]
    if missed:
        raise Failed(
            f"no gradient reaches {', '.join(missed)} (`detach()`? not read?); what encodes it would not learn"
        )


@check(KIND)
def every_input_counts(setting: NetSetting) -> None:
    """The logit depends on every column, on the target's picture and on every interest that the recipe gives it."""
    module, ours = setting.build(), setting.inputs(16, seed=1)
    theirs = dict(leaves(setting.inputs(16, seed=2)))
    expected = setting.run(module, ours)["logit"]
    for path, each in leaves(ours):
        if "history" in path or not each.is_floating_point():
            continue
        if close(expected, setting.run(module, _with(ours, path, theirs[path]))["logit"], 1e-6):
            raise Failed(
                f"`{path}` changes nothing; read every name in `shapes`, or refuse it with a FieldError in `build`"
            )


@check(KIND)
def history_vectors_are_not_needed(setting: NetSetting) -> None:
    """It does not ask for `encoded.history` of a certain length: a batch's L varies, and its padding is anything."""
    module, inputs = setting.build(), setting.inputs()
    if not setting.shapes.history:
        raise DoesNotApply("this recipe has no history columns")
    expected = setting.run(module, inputs)["logit"]
    history = {
        name: torch.nn.functional.pad(each, (0, 0, 0, 4), value=float("nan"))
        for name, each in inputs.encoded.history.items()
    }
    longer = replace(inputs, encoded=replace(inputs.encoded, history=history))
    try:
        got = setting.run(module, longer)["logit"]
    except RuntimeError as error:
        raise Failed(
            f"a longer history is an error ({error}); L varies from batch to batch, interests do not"
        ) from error
    if not close(expected, got):
        raise Failed(
            "four more history slots, all padding, changed the logit; a net has no mask: leave them to interests"
        )


@check(KIND)
def towers_rank_as_the_logit(setting: NetSetting) -> None:
    """A net of two towers has `towers`, whose inner product ranks a user's items as the logit does."""
    module = _two_tower(setting)
    for seed in (1, 2, 3):
        inputs = _one_user(setting.inputs(12, seed))
        logit = setting.run(module, inputs)["logit"].double()
        user_GD, item_ND = _towers(module, inputs)
        product = (user_GD.double()[:1] * item_ND.double()).sum(-1)
        if not torch.equal(logit.argsort(), product.argsort()):
            raise Failed(
                "`towers` ranks a user's items otherwise than the logit; the logit is to be their inner product, but"
                " for a positive factor and a constant"
            )


@check(KIND)
def towers_do_not_see_each_other(setting: NetSetting) -> None:
    """The user's vector does not depend on the item, nor the item's on the user: they are computed apart."""
    module = _two_tower(setting)
    ours, theirs = setting.inputs(seed=1), setting.inputs(seed=2)
    user, item = _towers(module, ours)
    other_item = replace(ours, encoded=replace(ours.encoded, target=theirs.encoded.target), pictures=theirs.pictures)
    if not same(user, _towers(module, other_item)[0]):
        raise Failed("the user's vector changed with the item; it is computed once per user, for all items")
    encoded = replace(ours.encoded, user=theirs.encoded.user)
    other_user = replace(ours, encoded=encoded, interest=theirs.interest)
    if not same(item, _towers(module, other_user)[1]):
        raise Failed("the item's vector changed with the user; it is computed once, for all users")


@check(KIND)
def uses_batch_as_declared(setting: NetSetting) -> None:
    """While training, the others of the batch matter only if `uses_batch`, and then they do."""
    module = setting.build().train()
    if not module.uses_batch:
        raise DoesNotApply("`uses_batch` is False; see `examples_do_not_see_each_other`")
    ours, theirs = setting.inputs(16, seed=1), setting.inputs(16, seed=2)
    rows = torch.arange(16) < 8
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        one = setting.run(module, ours)["logit"][rows]
        torch.default_generator.manual_seed(0)
        other = setting.run(module, setting.mixed(ours, theirs, rows))["logit"][rows]
    if close(one, other):
        raise Failed(
            "`uses_batch` is True, but the others of the batch change nothing; leave it out: some uses refuse it"
        )


def _two_tower(setting: NetSetting) -> Any:
    module = setting.build()
    if not module.requires_untargeted:
        raise DoesNotApply("`requires_untargeted` is False: it has no two towers")
    if not callable(getattr(module, "towers", None)):
        raise Failed("`requires_untargeted` is True, but it has no `towers(encoded, pictures, interest)`; add it")
    return module


def _towers(module: Any, inputs: NetInputs) -> tuple[Tensor, Tensor]:
    user, item = module.towers(inputs.encoded, inputs.pictures, inputs.interest)
    if user.ndim != 2 or item.ndim != 2 or user.shape[1] != item.shape[1]:
        raise Failed(f"`towers` gave {list(user.shape)} and {list(item.shape)}; return user [G, D] and item [N, D]")
    return user, item


def _one_user(inputs: NetInputs) -> NetInputs:
    """Returns the same impressions, all of the first one's user."""

    def first(vectors: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: each[:1].expand_as(each) for name, each in vectors.items()}

    interest = {
        name: replace(each, vector=each.vector[:1].expand_as(each.vector)) for name, each in inputs.interest.items()
    }
    return NetInputs(replace(inputs.encoded, user=first(inputs.encoded.user)), inputs.pictures, interest)


def _with(inputs: NetInputs, path: str, value: Tensor) -> NetInputs:
    """Returns the inputs with one tensor changed."""
    places = iter([name for name, _ in leaves(inputs)])
    from dicm_kit.testing.tensors import mapped

    changed: NetInputs = mapped(inputs, lambda each: value if next(places) == path else each)
    return changed
