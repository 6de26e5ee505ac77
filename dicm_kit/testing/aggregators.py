"""Checks of interest aggregators: what they must not read, and what they must."""

import torch
from torch import Tensor, nn

from dicm_kit.testing.check import DoesNotApply, Failed, check
from dicm_kit.testing.settings import AggregatorSetting, Histories
from dicm_kit.testing.tensors import asking_gradients, close, finite, leaves

KIND = "interest_aggregator"
POISONS = (7.0, 1e30, float("inf"), float("nan"))
"""What padded positions are filled with."""
_SELECT = "select with `masked_fill` or `where` before you compute: 0 * nan is nan"


@check(KIND)
def vector_has_out_dim(setting: AggregatorSetting) -> None:
    """The interest vector is [B, out_dim]."""
    module = setting.build()
    shape, wanted = tuple(setting.run(module, setting.inputs())["vector"].shape), (5, module.out_dim)
    if shape != wanted:
        raise Failed(f"the vector of 5 histories is {list(shape)}, not {list(wanted)}; `out_dim` is its width")


@check(KIND)
def weights_only_when_asked(setting: AggregatorSetting) -> None:
    """Weights are [B, Q, L] with `need_weights`, None without, and asking for them changes nothing else."""
    module, inputs = setting.build(), setting.inputs()
    without, asked = setting.run(module, inputs), setting.run(module, inputs, need_weights=True)
    if "weights" in without:
        raise Failed("it returned weights that nobody asked for; return None unless `need_weights`")
    if not close(without["vector"], asked["vector"]):
        raise Failed("the vector changed with `need_weights`; the flag may only add the weights")
    if "weights" in asked:
        shape = tuple(asked["weights"].shape)
        if len(shape) != 3 or shape[0] != 5 or shape[2] != 6:
            raise Failed(f"the weights of 5 histories of 6 slots are {list(shape)}, not [5, Q, 6]")


@check(KIND)
def weights_are_zero_in_empty_slots(setting: AggregatorSetting) -> None:
    """An empty slot weighs exactly 0, in an empty history too."""
    inputs = setting.inputs()
    inputs.mask_BL[3] = False
    weights = setting.run(setting.build(), inputs, need_weights=True).get("weights")
    if weights is None:
        raise DoesNotApply("it gives no weights")
    if bool((weights.masked_select(~inputs.mask_BL.unsqueeze(1)) != 0).any()):
        raise Failed("an empty slot has a weight; `weights.masked_fill(~mask_BL.unsqueeze(1), 0)`")


@check(KIND)
def padding_is_not_read(setting: AggregatorSetting) -> None:
    """What stands in an empty slot changes nothing: other values, huge ones, NaN."""
    module, inputs = setting.build(), setting.inputs()
    expected = setting.run(module, inputs)
    for poison in POISONS:
        if not close(expected, setting.run(module, _with_padding(inputs, poison))):
            more = "" if poison == POISONS[0] else f"; {_SELECT}"
            raise Failed(f"the output changed when only padded positions changed (to {poison}); use mask_BL{more}")


@check(KIND)
def padding_gets_no_gradient(setting: AggregatorSetting) -> None:
    """An empty slot gets a zero gradient, and changes that of no parameter, whatever stands in it."""
    module, inputs = setting.build(), setting.inputs()
    expected = _gradients(setting, module, asking_gradients(inputs))
    for poison in POISONS:
        poisoned = asking_gradients(_with_padding(inputs, poison))
        got = _gradients(setting, module, poisoned)
        for name, each in poisoned.history.items():
            # Ages are data: no gradient is asked of them.
            if name != "age" and each.grad is not None and not bool((each.grad[~inputs.mask_BL] == 0).all()):
                raise Failed(f"padded positions of `{name}` got a gradient (they held {poison}); {_SELECT}")
        wrong = [name for name in expected if not close(expected[name], got[name], 1e-3)]
        if wrong:
            raise Failed(f"the gradient of {', '.join(wrong)} changed when padded positions held {poison}; {_SELECT}")


@check(KIND)
def empty_history_is_finite(setting: AggregatorSetting) -> None:
    """A history without a filled slot gives a finite vector and finite gradients."""
    module = setting.build().train()
    inputs = asking_gradients(setting.inputs())
    inputs = Histories(inputs.query, inputs.history, torch.zeros_like(inputs.mask_BL))
    out = setting.run(module, inputs, need_weights=True)
    if not finite(out):
        raise Failed(
            "a history without a filled slot gave NaN or infinity (a softmax over -inf? a division by the count?);"
            " `clamp_min` the count, and use the lowest finite score, not -inf"
        )
    if out["vector"].requires_grad:
        out["vector"].sum().backward()
        gradients = {name: each.grad for name, each in [*leaves(inputs), *module.named_parameters()]}
        bad = [name for name, each in gradients.items() if each is not None and not finite(each)]
        if bad:
            raise Failed(f"a history without a filled slot gave {', '.join(bad)} a gradient that is not finite")


@check(KIND)
def order_matters_as_declared(setting: AggregatorSetting) -> None:
    """The slot in which a click stands matters if `uses_order`, and only then."""
    module, inputs = setting.build(), setting.inputs()
    turned = Histories(
        inputs.query, {name: each.flip(1) for name, each in inputs.history.items()}, inputs.mask_BL.flip(1)
    )
    matters = not close(setting.run(module, inputs)["vector"], setting.run(module, turned)["vector"])
    if matters and not module.uses_order:
        raise Failed("the output changed when clicks changed places; set `uses_order = True`, or do not look at places")
    if module.uses_order and not matters:
        raise Failed("`uses_order` is True, but clicks may change places without effect; leave it out")


@check(KIND)
def gradient_reaches_the_history(setting: AggregatorSetting) -> None:
    """Each pooled column of the history gets a gradient."""
    module = setting.build()
    inputs = asking_gradients(setting.inputs())
    vector = setting.run(module, inputs)["vector"]
    if vector.requires_grad:
        vector.pow(2).sum().backward()
    for name in setting.shapes.values:
        grad = inputs.history[name].grad
        if grad is None or not bool((grad != 0).any()):
            raise Failed(
                f"no gradient reaches the history's `{name}` (`detach()`? `no_grad()`? not read?): what encodes it"
                " would never be trained"
            )


@check(KIND)
def uses_target_is_true(setting: AggregatorSetting) -> None:
    """`uses_target` is True exactly where the output depends on a vector of the target or the context."""
    module, inputs, other = setting.build(), setting.inputs(seed=1), setting.inputs(seed=2)
    of_user = {name: each for name, each in inputs.query.items() if name.startswith("user.")}
    changed = Histories({**other.query, **of_user}, inputs.history, inputs.mask_BL)
    depends = not close(setting.run(module, inputs), setting.run(module, changed))
    if depends and not module.uses_target:
        raise Failed(
            "the output changed with the target, but `uses_target` is False: it would run once per group, with another"
            " impression's target; set `uses_target = True`"
        )
    if module.uses_target and not depends:
        raise Failed(
            "`uses_target` is True, but the target changes nothing; False runs it once per group, not impression"
        )


@check(KIND)
def gradient_reaches_the_query(setting: AggregatorSetting) -> None:
    """Where it looks at the target, a gradient reaches a query."""
    module = setting.build()
    if not module.uses_target:
        raise DoesNotApply("`uses_target` is False")
    inputs = asking_gradients(setting.inputs())
    vector = setting.run(module, inputs)["vector"]
    if vector.requires_grad:
        vector.pow(2).sum().backward()
    reached = [name for name, each in inputs.query.items() if each.grad is not None and bool((each.grad != 0).any())]
    if not reached:
        raise Failed(
            "no gradient reaches any query (`detach()`? `no_grad()`?); the target's vectors would not learn from it"
        )


@check(KIND)
def shorter_histories_work(setting: AggregatorSetting) -> None:
    """A batch's L may be shorter than `max_length`; empty slots at the end change nothing."""
    module, longest = setting.build(), setting.shapes.max_length
    short = setting.inputs(length=3)
    expected = setting.run(module, short)["vector"]
    missing = longest - 3
    padded = Histories(
        short.query,
        {name: torch.nn.functional.pad(each, (0, 0, 0, missing)) for name, each in short.history.items()},
        torch.nn.functional.pad(short.mask_BL, (0, missing)),
    )
    if not close(expected, setting.run(module, padded)["vector"]):
        raise Failed(f"{missing} empty slots at the end changed the output; use mask_BL, and count filled slots, not L")
    setting.run(module, setting.inputs(length=1))


def _with_padding(inputs: Histories, value: float) -> Histories:
    empty = ~inputs.mask_BL.unsqueeze(-1)
    history = {name: each.masked_fill(empty, value) for name, each in inputs.history.items()}
    return Histories(inputs.query, history, inputs.mask_BL)


@check(KIND)
def every_column_counts(setting: AggregatorSetting) -> None:
    """The output depends on each of the columns that the slot pools (`shapes.values`)."""
    module, inputs, other = setting.build(), setting.inputs(seed=1), setting.inputs(seed=2)
    expected = setting.run(module, inputs)
    for name in setting.shapes.values:
        changed = Histories(inputs.query, {**inputs.history, name: other.history[name]}, inputs.mask_BL)
        if close(expected, setting.run(module, changed)):
            raise Failed(f"the slot pools `{name}`, but it changes nothing; read every name in `shapes.values`")


def _gradients(setting: AggregatorSetting, module: nn.Module, inputs: Histories) -> dict[str, Tensor]:
    """Returns the gradients of the parameters; those of the inputs are in them."""
    module.zero_grad()
    vector = setting.run(module, inputs)["vector"]
    if vector.requires_grad:
        vector.sum().backward()
    return {name: each.grad.clone() for name, each in module.named_parameters() if each.grad is not None}
